# SPDX-License-Identifier: LGPL-2.1-or-later
"""How unlike itself a signal is: for one of which no attack's shape is known, such as the load of a VM.

Two levels of the logarithm are followed, each with its mean deviation, and each moved by no more than a
bounded step per observation (Huber 1964): that of the last hour, off which a spike, a drop or the begin of
anything new lies; and that of a day, off which the last hour lies when it was something slower.

How far off is far, the signal itself says: of each distance, in quarters of an octave of deviations, is
counted how often it was reached (its *episodes*, an hour apart), fading over two weeks. Far is what it
reaches `per_day` times a day; unlike itself it is `times` as far, or `most` times what far is: from next to
nothing to what it often is, it may be so far that nothing is farther. So one that jumps by nature, each night
for one, is unlike itself only where it jumps further, and a steady one as soon as it moves.

Few numbers for each, whatever time has passed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xenwarden_host.policy.model import HistoryPolicy

_EVERY_S = 60.0  # reports are taken together until they cover so much
_HOUR_S = 3600.0
_DAY_S = 86400.0
_DEVIATION_S = 6 * _HOUR_S  # memory of the hour's mean deviation: a day's course is followed
_EPISODES_S = 14 * _DAY_S  # memory of how far it had been
_BOUND = 3.0  # an observation moves a level by no more deviations than this
_LEAST_DEVIATION = 0.05  # of the logarithm: no signal is so steady that less is a deviation
_FAR = 4.0  # deviations: up to here nothing is far, as chance alone gets there
_PER_OCTAVE = 4
_GROWN = 1.4  # what goes on is told anew where it lies so many times farther than it was told
_NEVER = float("-inf")
# By unit: what is next to nothing. Relative to more than that a signal is judged by how many times it grew.
LEAST = {"%": 0.1, "ratio": 0.01, "1/s": 0.1, "count": 1.0, "bit/s": 10.0, "s": 0.1}


class HabitKey(NamedTuple):
    """A signal, and what of it is to be called unlike itself."""

    signal: str
    times: float
    per_day: float
    most: float


class _Level:
    """A level and its mean deviation, and how far off what it is compared with had been."""

    __slots__ = ("_at_s", "_deviation", "_episodes", "_told", "mean", "off", "unlike")

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self._deviation = 0.0
        self._episodes: list[tuple[float, float]] | None = None  # by distance: how many, and as of when
        self._at_s = _NEVER  # when it was last far
        self._told = 0.0  # how far it was then told to be
        self.off = 0.0  # how far off the last observation was
        self.unlike = 0.0  # from where on it was unlike itself; for one that was far at all

    def move(self, value: float, weight: float, deviation_weight: float) -> float:
        """Return how far off the value is, in deviations, and learn from it."""
        deviation = max(self._deviation, _LEAST_DEVIATION)
        distance = (value - self.mean) / deviation
        off = distance if distance >= 0 else -distance
        bounded = min(off, _BOUND)
        self.mean += weight * deviation * (bounded if distance >= 0 else -bounded)
        self._deviation += deviation_weight * (bounded * deviation - self._deviation)
        self.off = off
        return off

    def limit(self, key: HabitKey, now_s: float) -> float:
        """Return how far off the signal is unlike itself, in deviations. `now_s`: counted for so long."""
        far = _FAR
        episodes = self._episodes
        if episodes:
            days = _EPISODES_S * -math.expm1(-now_s / _EPISODES_S) / _DAY_S
            for place in range(len(episodes) - 1, -1, -1):
                count, at_s = episodes[place]
                if count * math.exp((at_s - now_s) / _EPISODES_S) >= key.per_day * days:
                    far = _FAR * 2 ** ((place + 1) / _PER_OCTAVE)
                    break
        return min(key.times * far, far + math.log(key.most) / max(self._deviation, _LEAST_DEVIATION))

    def is_strange(self, key: HabitKey, now_s: float, interval_s: float) -> bool:
        """Tell whether the last one is farther off than usual, and news; for what is far at all."""
        off, self.unlike = self.off, self.limit(key, now_s)
        episodes = self._episodes
        if episodes is None:
            episodes = self._episodes = []
        apart_s = max(_HOUR_S, 1.5 * interval_s)
        reached = int(_PER_OCTAVE * math.log2(off / _FAR)) + 1
        episodes += [(0.0, _NEVER)] * (reached - len(episodes))
        for place in range(reached):
            count, at_s = episodes[place]
            count *= math.exp((at_s - now_s) / _EPISODES_S)
            episodes[place] = (count + (now_s - at_s > apart_s), now_s)
        if now_s - self._at_s > apart_s:
            self._told = 0.0
        self._at_s = now_s
        if off <= self.unlike or off < _GROWN * self._told:
            return False
        self._told = off
        return True

    def score(self, key: HabitKey, now_s: float) -> float:
        """Return how far off the last one was, in times what is unlike itself."""
        return self.off / (self.unlike if self.off >= _FAR else self.limit(key, now_s))


class Habit:
    """What is usual of one signal of one VM. `least`: what is next to nothing."""

    __slots__ = (
        "_counted_s",
        "_covered_s",
        "_day",
        "_hour",
        "_key",
        "_least",
        "_observations",
        "_passed_s",
        "_seen_s",
        "_sum",
        "known_s",
        "strange",
    )

    def __init__(self, key: HabitKey, least: float) -> None:
        self._key = key
        self._least = least
        self._sum = 0.0
        self._covered_s = 0.0
        self._passed_s = 0.0
        self._hour: _Level | None = None
        self._day: _Level | None = None
        self._seen_s = 0.0  # time that all observations cover
        self._observations = 0
        self._counted_s = 0.0  # for so long its episodes are counted
        self.known_s = 0.0  # from the first observation on
        self.strange = False  # the last observation was

    @property
    def usual(self) -> float:
        """The level of the last day."""
        return 0.0 if self._day is None else max(0.0, math.exp(self._day.mean) - self._least)

    def knows(self, after_s: float, enough: HistoryPolicy) -> bool:
        """Tell whether it was known for so long, and seen enough in that time."""
        return (
            self.known_s >= after_s
            and self._seen_s >= enough.enough_s
            and self._observations >= enough.enough_observations
        )

    def take(self, value: float, interval_s: float, passed_s: float, enough: HistoryPolicy) -> bool:
        """Take a value that covers `interval_s`; short ones together are judged, then learnt from.

        `passed_s`: since the one before. Return whether they were, with this one.
        """
        self._sum += value * interval_s
        self._covered_s = covered_s = self._covered_s + interval_s
        self._passed_s += max(interval_s, passed_s)
        if covered_s < _EVERY_S:
            return False
        self.known_s += self._passed_s
        self._observe(math.log(self._sum / covered_s + self._least), covered_s, self._passed_s, enough)
        self._sum = self._covered_s = self._passed_s = 0.0
        return True

    def score(self) -> float:
        """Return how far off the last observation was: above 1 it was unlike itself."""
        if self._hour is None or self._day is None or not self._counted_s:
            return 0.0
        hour = self._hour.score(self._key, self._counted_s)
        if self._counted_s < _DAY_S:
            return hour
        return max(hour, self._day.score(self._key, self._counted_s))

    def _observe(self, y: float, interval_s: float, passed_s: float, enough: HistoryPolicy) -> None:
        self._seen_s = seen_s = self._seen_s + interval_s
        self._observations += 1
        self.strange = False
        hour, day = self._hour, self._day
        if hour is None or day is None:
            self._hour, self._day = _Level(y), _Level(y)
            return
        off = hour.move(y, _weight(interval_s, _HOUR_S, seen_s), _weight(interval_s, _DEVIATION_S, seen_s))
        weight = _weight(interval_s, _DAY_S, seen_s)
        day_off = day.move(hour.mean, weight, weight)
        # Before a deviation is known nothing is far: else all that comes later would be near to that.
        if seen_s < enough.enough_s:
            return
        self._counted_s = now_s = self._counted_s + passed_s
        self.strange = off >= _FAR and hour.is_strange(self._key, now_s, interval_s)
        if day_off >= _FAR and now_s >= _DAY_S and day.is_strange(self._key, now_s, interval_s):
            self.strange = True


def _weight(interval_s: float, memory_s: float, seen_s: float) -> float:
    """Return the weight of an observation: of the first ones, the plain mean's."""
    return min(0.5, interval_s / min(memory_s, seen_s))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""How unlike itself a signal is: for one that no attack's shape is known of, such as the load of a VM.

Few numbers for each, whatever time has passed. Mean and mean deviation of some hours, moved by each
observation by a bounded step (Huber 1964). How far off the mean the last observation was, in deviations,
and the last while in sum (an exponentially weighted mean of bounded distances, Roberts 1959). And how
far either had been in some days, which fades: a signal that has always jumped is unlike itself only
where it jumps further, or for longer.
"""

from __future__ import annotations

_MEMORY_S = 6 * 3600.0  # of mean and deviation: a day's course is followed
_WHILE_S = 3000.0  # of what counts as sustained
_FADE_S = 4 * 86400.0  # of how far it had been
_BOUND = 3.0  # an observation moves the mean by no more deviations than this
_FAR = 4.0  # off the mean, in deviations: even the steadiest signal may be; and no more counts in the sum
_LEAST_WHILE = 1.0  # the least that the sum must have been: as _FAR
_LEAST_SHARE = 0.05  # of the mean: no signal is so steady that less is a deviation


class Habit:
    """What is usual of one signal of one VM. `least`: no deviation is smaller."""

    __slots__ = (
        "_deviation", "_far", "_far_while", "_least", "_while",
        "at_s", "mean", "seen_s", "strange", "sustained",
    )  # fmt: skip

    def __init__(self, least: float, value: float) -> None:
        self._least = least
        self._deviation = 0.0
        self._while = 0.0
        self._far = _FAR
        self._far_while = _LEAST_WHILE
        self.at_s = 0.0  # of the last observation
        self.mean = value
        self.seen_s = 0.0  # time that all observations cover
        self.strange = 0.0  # how far the last one was off, in times of the farthest before
        self.sustained = 0.0  # the same of the last while

    def observe(self, value: float, interval_s: float) -> None:
        """Take an observation that covers `interval_s`: judge it, then learn from it."""
        mean = self.mean
        # No min() and max() here: this is done for each report.
        deviation = _LEAST_SHARE * mean
        if deviation < self._deviation:  # noqa: PLR1730
            deviation = self._deviation
        if deviation < self._least:  # noqa: PLR1730
            deviation = self._least
        distance = (value - mean) / deviation
        off = distance if distance >= 0 else -distance
        bounded = distance if off < _FAR else _FAR if distance > 0 else -_FAR
        weight = interval_s / _WHILE_S if interval_s < _WHILE_S / 2 else 0.5
        lasting = self._while = self._while + weight * (bounded - self._while)
        if lasting < 0:
            lasting = -lasting
        self.strange = off / self._far
        self.sustained = lasting / self._far_while
        # Either is at least what it begins with.
        fade = interval_s / _FADE_S if interval_s < _FADE_S / 2 else 0.5
        self._far = off if off > self._far else self._far - fade * (self._far - _FAR)
        far_while = self._far_while
        self._far_while = lasting if lasting > far_while else far_while - fade * (far_while - _LEAST_WHILE)
        self.seen_s += interval_s
        weight = interval_s / (min(_MEMORY_S, self.seen_s))
        if weight > 0.5 and self.seen_s > interval_s:  # an interval of more than half the memory
            weight = 0.5
        step = distance if off < _BOUND else _BOUND if distance > 0 else -_BOUND
        self.mean = mean + weight * step * deviation
        self._deviation += weight * (off * deviation if off < _BOUND else _BOUND * deviation) - (
            weight * self._deviation
        )

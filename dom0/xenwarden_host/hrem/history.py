# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is usual: one history per VM (by UUID) and signal, in bounded space, whoever measures the signal.

Each signal keeps four numbers, whatever time has passed: the 95th percentile, tracked in the
logarithm by stochastic approximation (Robbins and Monro 1951; each observation moves it by a
bounded step, so that no single value counts for much), the time and the number of observations it
stands on, and the usual upper limit that follows:

    learnt = margin * p95, held within floor * prior and ceiling * prior
    upper  = prior^(1-w) * learnt^w,   w = min(1, seen_s / enough_s, observations / enough_observations)

`upper` falls at once, and above the prior it rises by no more than `rise_per_day`: who raises what is
usual by small steps needs days for each factor, and ends at `ceiling` times the prior.

Each hour of the day (UTC) has three numbers of its own: a percentile that is tracked the same way, the time
that it stands on, and an upper limit. Once an hour was seen for `hour_s` in sum, which takes days, its limit
is that of the hour; its percentile is the highest of it and of the hours beside it, since jobs drift. An
hour's limit rises by no more than `rise_per_day` from one day to the next.
"""

from __future__ import annotations

import base64
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xenwarden_host.policy.model import Policy

VERSION = 1
QUANTILE = 0.95
_STEP = 4.0  # of the logarithm: the tracker's full step; settles within tens of observations
_UP, _DOWN = _STEP * QUANTILE, _STEP * (1.0 - QUANTILE)
_UNIT_SHARE = 0.01  # values below this share of the prior are all alike: nothing happens
_DAY_S = 86400.0
_MAX_GAP_S = 3600.0  # an interval longer than this tells nothing of how long a value held
_MOST_FULL_S = 30 * _DAY_S
_HOURS = 24
_HOUR_PARTS = ("p95", "seen_s", "upper")  # of each hour, as they are dumped


def _moved(tracked: float, y: float, step: float) -> float:
    """Return a tracked percentile after one more value: nearer to it, and not beyond."""
    if y > tracked:
        up = tracked + step * _UP
        return min(y, up)
    down = tracked - step * _DOWN
    return max(y, down)


class _Vm:
    """One VM's numbers, at the index of each signal in the order of the priors; of the hours in turn."""

    __slots__ = (
        "frozen",
        "full",
        "hour_p95",
        "hour_seen_s",
        "hour_upper",
        "near",
        "near_of",
        "p95",
        "priors",
        "profile",
        "seen_s",
        "times",
        "upper",
        "used_s",
        "whole_upper",
    )

    def __init__(self, profile: str, priors: array[float]) -> None:
        size = len(priors)
        self.profile = profile
        self.priors = priors  # shared by all VMs of the profile
        self.p95 = array("d", bytes(8 * size))
        self.times = array("d", bytes(8 * size))
        self.seen_s = array("d", bytes(8 * size))
        self.whole_upper = array("d", priors)  # whatever the hour
        self.upper = array("d", priors)  # of now
        self.hour_p95, self.hour_seen_s, self.hour_upper = (
            array("f", bytes(4 * size * _HOURS)) for _part in _HOUR_PARTS
        )
        self.frozen = False
        self.full: dict[str, tuple[float, float]] = {}  # by what: seconds, faded, as of when
        self.near = 0
        self.near_of = 0
        self.used_s = 0.0


@dataclass(frozen=True, slots=True)
class Brief:
    """What an agent compares with: the usual upper limit per signal; `learnt` once none is a prior."""

    learnt: bool
    upper: Mapping[str, float]


class History:
    """The one history. All times are the caller's, monotonic seconds."""

    def __init__(self, policy: Policy) -> None:
        self._vms: dict[str, _Vm] = {}
        self._hour = 0
        self.set_policy(policy)

    def set_time(self, unix_s: float) -> None:
        """Go by this time of day from now on."""
        hour = int(unix_s // 3600) % _HOURS
        if hour != self._hour:
            self._hour = hour
            for vm in self._vms.values():
                self._take_hour(vm)

    def _take_hour(self, vm: _Vm) -> None:
        """Have the VM's limits be those of this hour, where it is known."""
        at = self._hour * len(vm.upper)
        for index, whole in enumerate(vm.whole_upper):
            known = vm.hour_seen_s[at + index] >= self._policy.hour_s
            vm.upper[index] = vm.hour_upper[at + index] if known else whole

    def set_policy(self, policy: Policy) -> None:
        """Take a new policy: priors, floors and ceilings follow it, what was learnt stays."""
        kept = {uuid: self.dump(uuid) for uuid in self._vms}
        frozen = {uuid for uuid, vm in self._vms.items() if vm.frozen}
        used = {uuid: vm.used_s for uuid, vm in self._vms.items()}
        self._policy = policy.history
        self._names = tuple(next(iter(policy.profiles.values())))
        self._index = {name: index for index, name in enumerate(self._names)}
        self._priors = {
            profile: array("d", [upper[name] for name in self._names])
            for profile, upper in policy.profiles.items()
        }
        self._default = "unknown"
        self._vms = {}
        for uuid, data in kept.items():
            self.restore(uuid, data, used[uuid])
            self._vms[uuid].frozen = uuid in frozen

    def profile(self, uuid: str, profile: str) -> None:
        """Have the VM judged by this profile's priors. What was learnt stays, within the new bounds."""
        vm = self._vm(uuid)
        if vm.profile != profile:
            data, frozen = self.dump(uuid), vm.frozen
            self.restore(uuid, {**data, "profile": profile}, vm.used_s)
            vm = self._vms[uuid]
            vm.frozen = frozen
            for index in range(len(vm.priors)):
                vm.whole_upper[index] = self._wanted(vm, index)
            self._take_hour(vm)

    def knows(self, signal: str) -> bool:
        """Tell whether the signal has a prior, and with it a history."""
        return signal in self._index

    def learn(self, uuid: str, signals: Mapping[str, float], interval_s: float, now_s: float) -> None:
        """Learn one observation that covers `interval_s`; nothing while the VM is frozen."""
        vm = self._vm(uuid)
        vm.used_s = now_s
        if vm.frozen:
            return
        policy = self._policy
        span_s = min(interval_s, _MAX_GAP_S)
        rise = policy.rise_per_day ** (span_s / _DAY_S)
        slowest = span_s / policy.memory_s
        index_of = self._index
        p95, times, seen_s, whole, priors = vm.p95, vm.times, vm.seen_s, vm.whole_upper, vm.priors
        seen: list[tuple[int, float]] = []  # what the hour learns
        for name in signals.keys() & index_of.keys():
            index, value = index_of[name], signals[name]
            prior = priors[index]
            y = math.log(value / prior + _UNIT_SHARE)
            count = times[index] + 1.0
            if count == 1.0:
                tracked = y
            else:
                tracked = p95[index]
                step = 1.0 / count
                tracked = _moved(tracked, y, max(step, slowest))
            p95[index] = tracked
            times[index] = count
            seen_s[index] += span_s
            # As _limit() and _wanted(), in line: this is done for each signal of each report.
            learnt = policy.margin * (math.exp(tracked) - _UNIT_SHARE)
            if learnt < policy.floor:
                learnt = policy.floor
            elif learnt > policy.ceiling:
                learnt = policy.ceiling
            if seen_s[index] < policy.enough_s or count < policy.enough_observations:
                learnt **= min(seen_s[index] / policy.enough_s, count / policy.enough_observations)
            highest = whole[index] * rise
            highest = max(highest, prior)
            learnt *= prior
            whole[index] = min(highest, learnt)
            seen.append((index, y))
        self._learn_hour(vm, seen, span_s, rise)
        cpu = signals.get("vcpu_pct")
        if cpu is not None:
            vm.near_of += 1
            if cpu >= policy.near_capacity_pct:
                vm.near += 1

    def _learn_hour(self, vm: _Vm, seen: list[tuple[int, float]], span_s: float, rise: float) -> None:
        """Have this hour of the day learn logarithms of signals by index; set the limits of now.

        An hour comes once a day: it learns, and its limit rises, as much in it as others do in a day.
        """
        policy, size = self._policy, len(vm.priors)
        p95, seen_s, upper, hour_s = vm.hour_p95, vm.hour_seen_s, vm.hour_upper, policy.hour_s
        slowest, rise = _HOURS * span_s / policy.memory_s, rise**_HOURS
        at, sooner, later = ((self._hour + shift) % _HOURS * size for shift in (0, -1, 1))
        for index, y in seen:
            here = at + index
            known_s = seen_s[here]
            seen_s[here] = known_s + span_s
            tracked = p95[here] if known_s else y
            tracked = _moved(tracked, y, max(span_s / (known_s + span_s), slowest))
            p95[here] = tracked
            if known_s < hour_s:
                upper[here] = vm.upper[index] = vm.whole_upper[index]
                continue
            for beside in (sooner + index, later + index):
                if p95[beside] > tracked and seen_s[beside]:
                    tracked = p95[beside]
            prior = vm.priors[index]
            highest = max(upper[here] * rise, prior)
            upper[here] = vm.upper[index] = min(highest, self._limit(tracked) * prior)

    def _limit(self, tracked: float) -> float:
        """Return the limit, in times the prior, that a tracked percentile makes."""
        learnt = self._policy.margin * (math.exp(tracked) - _UNIT_SHARE)
        return min(max(learnt, self._policy.floor), self._policy.ceiling)

    def _wanted(self, vm: _Vm, index: int) -> float:
        """Return the upper limit as if it could have risen freely."""
        policy = self._policy
        count = vm.times[index]
        if count == 0:
            return vm.priors[index]
        learnt = self._limit(vm.p95[index])
        weight = min(1.0, vm.seen_s[index] / policy.enough_s, count / policy.enough_observations)
        return float(learnt**weight * vm.priors[index])

    def learn_full(self, uuid: str, of: str, span_s: float, now_s: float) -> None:
        """Learn that the VM took all it can of something for so long; nothing while the VM is frozen."""
        vm = self._vm(uuid)
        if not vm.frozen:
            vm.full[of] = (min(self.full_s(uuid, of, now_s) + span_s, _MOST_FULL_S), now_s)

    def full_s(self, uuid: str, of: str, now_s: float) -> float:
        """Return how long the VM took all it can of something; what is `memory_s` past counts a third."""
        vm = self._vms.get(uuid)
        if vm is None or of not in vm.full:
            return 0.0
        seconds, at_s = vm.full[of]
        return seconds * math.exp(min(0.0, at_s - now_s) / self._policy.memory_s)

    def freeze(self, uuid: str, frozen: bool) -> None:
        """Stop learning from the VM, or go on: nothing is learnt while it is watched or contained."""
        self._vm(uuid).frozen = frozen

    def upper(self, uuid: str, signal: str) -> float | None:
        """Return the usual upper limit of the VM's signal; None for a signal without a prior."""
        index = self._index.get(signal)
        if index is None:
            return None
        vm = self._vms.get(uuid)
        return self._priors[self._default][index] if vm is None else vm.upper[index]

    def over(self, uuid: str, signals: Mapping[str, float]) -> frozenset[str]:
        """Return those of `signals` that are over their usual upper limit: as `upper`, for all at once."""
        vm = self._vms.get(uuid)
        upper, index_of = self._priors[self._default] if vm is None else vm.upper, self._index
        return frozenset(
            [name for name in signals.keys() & index_of.keys() if signals[name] > upper[index_of[name]]]
        )

    def learnt(self, uuid: str, signal: str) -> bool:
        """Tell whether enough is learnt that the prior has no part in the limit."""
        vm, index = self._vms.get(uuid), self._index.get(signal)
        return vm is not None and index is not None and self._enough(vm, index)

    def _enough(self, vm: _Vm, index: int) -> bool:
        policy = self._policy
        return vm.seen_s[index] >= policy.enough_s and vm.times[index] >= policy.enough_observations

    def near_capacity(self, uuid: str) -> tuple[int, int]:
        """Return how many observations found the VM close to its maximum, and of how many."""
        vm = self._vms.get(uuid)
        return (0, 0) if vm is None else (vm.near, vm.near_of)

    def brief(self, uuid: str, signals: tuple[str, ...]) -> Brief:
        """Return the limits of those of `signals` that have one: what an agent compares with."""
        vm = self._vms.get(uuid)
        known = [name for name in signals if name in self._index]
        upper = {name: self.upper(uuid, name) or 0.0 for name in known}
        learnt = vm is not None and all(
            self._enough(vm, self._index[name]) for name in known if vm.times[self._index[name]]
        )
        return Brief(learnt and bool(vm and any(vm.times)), upper)

    def uuids(self) -> list[str]:
        """Return the VMs of which there is a history."""
        return list(self._vms)

    def forget(self, uuid: str) -> None:
        """Drop all that is known of the VM."""
        self._vms.pop(uuid, None)

    def expire(self, present: Iterable[str], now_s: float) -> list[str]:
        """Drop VMs that were not among `present` for `forget_s`, and return them."""
        for uuid in present:
            vm = self._vms.get(uuid)
            if vm is not None:
                vm.used_s = now_s
        gone = [uuid for uuid, vm in self._vms.items() if now_s - vm.used_s > self._policy.forget_s]
        for uuid in gone:
            del self._vms[uuid]
        return gone

    def hours(self, uuid: str, signal: str) -> list[float | None]:
        """Return the usual upper limit of each hour of the day; None where the hour is not known yet."""
        vm, index = self._vms[uuid], self._index[signal]
        return [
            round(vm.hour_upper[at], 3) if vm.hour_seen_s[at] >= self._policy.hour_s else None
            for at in range(index, len(vm.hour_upper), len(self._names))
        ]

    def dump(self, uuid: str, *, hours: bool = True) -> dict[str, Any]:
        """Return the VM's history as plain data for JSON; `restore` takes it back, with its hours or not."""
        vm = self._vms[uuid]
        found = {
            "version": VERSION,
            "profile": vm.profile,
            "near": [vm.near, vm.near_of],
            "full": {of: round(self.full_s(uuid, of, vm.used_s), 3) for of in vm.full},
            # The tracked percentile as a value, so that it survives a change of priors.
            "signals": {
                name: [
                    vm.times[index],
                    round(vm.seen_s[index], 3),
                    (math.exp(vm.p95[index]) - _UNIT_SHARE) * vm.priors[index],
                    vm.whole_upper[index],
                ]
                for index, name in enumerate(self._names)
                if vm.times[index]
            },
        }
        return found | {"hours": self.dump_hours(uuid)} if hours else found

    def dump_hours(self, uuid: str) -> dict[str, Any]:
        """Return what is known of the VM by the hour, as plain data for JSON; `restore_hours` takes it back.

        Little-endian 32-bit floats in base64, by hour and by the signals named; percentiles are logarithms
        of times the prior.
        """
        vm = self._vms[uuid]
        parts = (vm.hour_p95, vm.hour_seen_s, vm.hour_upper)
        return {
            "signals": list(self._names),
            "priors": list(vm.priors),
            **{
                name: base64.b64encode(part.tobytes()).decode()
                for name, part in zip(_HOUR_PARTS, parts, strict=True)
            },
        }

    def restore_hours(self, uuid: str, data: Mapping[str, Any]) -> None:
        """Take back what `dump_hours` gave, of a VM whose history is there.

        Raises:
            ValueError: the data is no such dump.
        """
        vm, policy = self._vm(uuid), self._policy
        try:
            names, priors = data["signals"], data["priors"]
            parts = [array("f", base64.b64decode(data[name], validate=True)) for name in _HOUR_PARTS]
            for at, (tracked, seen_s, upper) in enumerate(zip(*parts, strict=True)):
                hour, column = divmod(at, len(names))
                index = self._index.get(names[column])
                if index is None or not (seen_s > 0 and math.isfinite(tracked + seen_s)):
                    continue
                here, prior, old = hour * len(self._names) + index, vm.priors[index], priors[column]
                value = (math.exp(tracked) - _UNIT_SHARE) * old
                vm.hour_p95[here] = (
                    tracked if prior == old else math.log(max(value / prior, 0.0) + _UNIT_SHARE)
                )
                vm.hour_seen_s[here] = seen_s
                vm.hour_upper[here] = min(max(upper, policy.floor * prior), policy.ceiling * prior)
        except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
            raise ValueError(f"no history by the hour: {error!r}") from None
        self._take_hour(vm)

    def restore(self, uuid: str, data: Mapping[str, Any], now_s: float = 0.0) -> None:
        """Take back what `dump` gave. Signals and profiles that policy no longer has are dropped.

        Raises:
            ValueError: the data is of another version, or no such dump.
        """
        if data.get("version") != VERSION:
            raise ValueError(f"history of version {data.get('version')}, ours is {VERSION}")
        try:
            profile = data["profile"] if data["profile"] in self._priors else self._default
            vm = _Vm(profile, self._priors[profile])
            vm.near, vm.near_of = (int(number) for number in data["near"])
            for of, seconds in data.get("full", {}).items():
                vm.full[str(of)] = (min(max(float(seconds), 0.0), _MOST_FULL_S), now_s)
            for name, (times, seen_s, p95, upper) in data["signals"].items():
                index = self._index.get(name)
                if index is None:
                    continue
                prior = vm.priors[index]
                vm.times[index], vm.seen_s[index] = float(times), float(seen_s)
                vm.p95[index] = math.log(max(float(p95) / prior, 0.0) + _UNIT_SHARE)
                bounds = (self._policy.floor * prior, self._policy.ceiling * prior)
                vm.whole_upper[index] = min(max(float(upper), bounds[0]), bounds[1])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no history: {error!r}") from None
        vm.used_s = now_s
        self._vms[uuid] = vm
        self._take_hour(vm)
        if "hours" in data:
            self.restore_hours(uuid, data["hours"])

    def _vm(self, uuid: str) -> _Vm:
        vm = self._vms.get(uuid)
        if vm is None:
            vm = self._vms[uuid] = _Vm(self._default, self._priors[self._default])
        return vm

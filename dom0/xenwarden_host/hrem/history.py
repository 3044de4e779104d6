# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is usual: one history per VM (by UUID) and signal, in bounded space, whoever measures the signal.

Each signal keeps four numbers, whatever time has passed: the 95th percentile, tracked in the
logarithm by stochastic approximation (Robbins and Monro 1951; each observation moves it by a
bounded step, so that no single value counts for much), the time and the number of observations it
stands on, and the usual upper limit that follows:

    learnt = margin * p95, held within floor * prior and ceiling * prior
    upper  = prior^(1-w) * learnt^w,   w = min(1, seen_s / enough_s, observations / enough_observations)

`upper` falls at once, and above the prior it rises by no more than `rise_per_day`, and above `slow_above`
times the prior by no more than `slow_rise_per_day`: who raises what is usual by small steps needs weeks for
each factor, and ends at `ceiling` times the prior.

Each hour of the day (UTC) has three numbers of its own: a percentile that is tracked the same way, the time
that it stands on, and an upper limit. Once an hour was seen for `hour_s` in sum, which takes days, its limit
is that of the hour; its percentile is the highest of it and of the hours beside it, since jobs drift. An
hour's limit rises by no more than these from one day to the next.

A step of a logarithm is a factor of the value. So the value is kept, as its *level*: in times the prior, and
a little more, so that there is a logarithm of nothing. Few observations need exp or log.
"""

from __future__ import annotations

import base64
import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xenwarden_host.policy.model import HistoryPolicy, Policy

VERSION = 1
QUANTILE = 0.95
_STEP = 4.0  # of the logarithm: the tracker's full step; settles within tens of observations
_UP, _DOWN = _STEP * QUANTILE, _STEP * (1.0 - QUANTILE)
_UNIT_SHARE = 0.01  # values below this share of the prior are all alike: nothing happens
_DAY_S = 86400.0
_MAX_GAP_S = 3600.0  # an interval longer than this tells nothing of how long a value held
_MOST_FULL_S = 30 * _DAY_S
_HOURS = 24
_NEAR = "vcpu_pct"  # says how close the VM is to its maximum
_HOUR_PARTS = ("p95", "seen_s", "upper")  # of each hour, as they are dumped


class _Usual:
    """What is usual of one signal of one VM. Levels: in times the prior, plus `_UNIT_SHARE`."""

    __slots__ = (
        "beside",
        "hour_level",
        "hour_seen_s",
        "hour_upper",
        "level",
        "prior",
        "seen_s",
        "times",
        "whole_upper",
    )

    def __init__(self, prior: float) -> None:
        self.prior = prior
        self.level = 0.0  # the percentile
        self.times = 0.0
        self.seen_s = 0.0
        self.whole_upper = prior  # whatever the hour
        # Of this hour of the day; `beside`: the higher level of the two hours beside it.
        self.hour_level = self.beside = self.hour_seen_s = self.hour_upper = 0.0


class _Vm:
    """One VM's numbers, by signal; those of all hours in turn, at the index of each signal."""

    __slots__ = ("frozen", "full", "hours", "near", "near_of", "profile", "upper", "used_s", "usual")

    def __init__(self, profile: str, priors: Mapping[str, float]) -> None:
        self.profile = profile
        self.usual = {name: _Usual(prior) for name, prior in priors.items()}
        self.upper = dict(priors)  # of now
        size = _HOURS * len(priors)
        # By _HOUR_PARTS, levels as logarithms. Of the hour that it is `usual` knows better.
        self.hours = tuple(array("f", bytes(4 * size)) for _part in _HOUR_PARTS)
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
            for vm in self._vms.values():
                self._keep_hour(vm)
            self._hour = hour
            for vm in self._vms.values():
                self._take_hour(vm)

    def _keep_hour(self, vm: _Vm) -> None:
        """Put what is known of this hour to that of the others."""
        levels, seen_s, upper = vm.hours
        for at, usual in enumerate(vm.usual.values(), self._hour * len(vm.usual)):
            if usual.hour_seen_s:
                levels[at], seen_s[at] = math.log(usual.hour_level), usual.hour_seen_s
                upper[at] = usual.hour_upper

    def _take_hour(self, vm: _Vm) -> None:
        """Have the VM's limits be those of this hour, where it is known."""
        levels, seen_s, upper = vm.hours
        here, sooner, later = ((self._hour + shift) % _HOURS * len(vm.usual) for shift in (0, -1, 1))
        for index, (name, usual) in enumerate(vm.usual.items()):
            usual.hour_seen_s, usual.hour_upper = seen_s[here + index], upper[here + index]
            usual.hour_level = math.exp(levels[here + index])
            beside = [levels[at + index] for at in (sooner, later) if seen_s[at + index]]
            usual.beside = math.exp(max(beside)) if beside else 0.0
            known = usual.hour_seen_s >= self._policy.hour_s
            vm.upper[name] = usual.hour_upper if known else usual.whole_upper

    def set_policy(self, policy: Policy) -> None:
        """Take a new policy: priors, floors and ceilings follow it, what was learnt stays."""
        names = next(iter(policy.profiles.values()))
        priors = {
            profile: {name: float(upper[name]) for name in names}
            for profile, upper in policy.profiles.items()
        }
        if self._vms and (policy.history, priors) == (self._policy, self._priors):
            return  # another part of the policy changed: there is nothing to do for each VM
        kept = {uuid: self.dump(uuid) for uuid in self._vms}
        frozen = {uuid for uuid, vm in self._vms.items() if vm.frozen}
        used = {uuid: vm.used_s for uuid, vm in self._vms.items()}
        self._policy: HistoryPolicy = policy.history
        self._priors: dict[str, dict[str, float]] = priors
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
            for usual in vm.usual.values():
                usual.whole_upper = self._wanted(usual)
            self._take_hour(vm)

    def knows(self, signal: str) -> bool:
        """Tell whether the signal has a prior, and with it a history."""
        return signal in self._priors[self._default]

    def reads(self, signal: str) -> bool:
        """Tell whether `learn` makes anything of the signal."""
        return signal == _NEAR or self.knows(signal)

    def priors(self, uuid: str) -> Mapping[str, float]:
        """Return the usual upper limits that the policy gives the VM."""
        vm = self._vms.get(uuid)
        return self._priors[self._default if vm is None else vm.profile]

    def learn(self, uuid: str, signals: Mapping[str, float], interval_s: float, now_s: float) -> None:
        """Learn one observation that covers `interval_s`; nothing while the VM is frozen."""
        vm = self._vm(uuid)
        vm.used_s = now_s
        if vm.frozen:
            return
        policy = self._policy
        span_s = min(interval_s, _MAX_GAP_S)
        rise = policy.rise_per_day ** (span_s / _DAY_S)
        slow_rise = policy.slow_rise_per_day ** (span_s / _DAY_S)
        slowest = span_s / policy.memory_s
        margin, floor, ceiling = policy.margin, policy.floor, policy.ceiling
        times, up, down = -1.0, 1.0, 1.0  # the step is of what was seen so often, as a rule of all
        learnt: list[tuple[str, _Usual, float]] = []
        # In line, and nearly without calls: this is done for each signal of each report.
        for name, usual in vm.usual.items():
            if name not in signals:
                continue
            seen = signals[name] / usual.prior + _UNIT_SHARE
            if usual.times != times:
                times = usual.times
                up, down = _factors(max(1.0 / (times + 1.0), slowest))
            level = usual.level if times else seen
            if seen > level * up:
                level *= up
            elif seen < level * down:
                level *= down
            else:
                level = seen
            usual.level = level
            usual.times = count = times + 1.0
            usual.seen_s = seen_s = usual.seen_s + span_s
            limit = margin * (level - _UNIT_SHARE)
            if limit < floor:
                limit = floor
            elif limit > ceiling:
                limit = ceiling
            if seen_s < policy.enough_s or count < policy.enough_observations:
                limit **= min(1.0, seen_s / policy.enough_s, count / policy.enough_observations)
            limit *= usual.prior
            if limit > usual.prior:
                whole = usual.whole_upper
                whole *= rise if whole < policy.slow_above * usual.prior else slow_rise
                limit = min(limit, max(usual.prior, whole))
            usual.whole_upper = limit
            learnt.append((name, usual, seen))
        self._learn_hour(vm, learnt, span_s, rise, slow_rise)
        cpu = signals.get(_NEAR)
        if cpu is not None:
            vm.near_of += 1
            if cpu >= policy.near_capacity_pct:
                vm.near += 1

    def _learn_hour(
        self, vm: _Vm, learnt: list[tuple[str, _Usual, float]], span_s: float, rise: float, slow_rise: float
    ) -> None:
        """Have this hour of the day learn what was seen of each signal; set the limits of now.

        An hour comes once a day: it learns, and its limit rises, as much in it as others do in a day.
        """
        policy, upper = self._policy, vm.upper
        margin, floor, ceiling = policy.margin, policy.floor, policy.ceiling
        rise, slow_rise = rise**_HOURS, slow_rise**_HOURS
        slowest, hour_s = _HOURS * span_s / policy.memory_s, policy.hour_s
        known_s, up, down = -1.0, 1.0, 1.0
        for name, usual, seen in learnt:
            if usual.hour_seen_s != known_s:
                known_s = usual.hour_seen_s
                up, down = _factors(max(span_s / (known_s + span_s), slowest))
            level = usual.hour_level if known_s else seen
            if seen > level * up:
                level *= up
            elif seen < level * down:
                level *= down
            else:
                level = seen
            usual.hour_level = level
            usual.hour_seen_s = known_s + span_s
            limit = usual.whole_upper
            if known_s >= hour_s:
                limit = margin * (max(level, usual.beside) - _UNIT_SHARE)
                if limit < floor:
                    limit = floor
                elif limit > ceiling:
                    limit = ceiling
                limit *= usual.prior
                if limit > usual.prior:
                    most = usual.hour_upper
                    most *= rise if most < policy.slow_above * usual.prior else slow_rise
                    limit = min(limit, max(usual.prior, most))
            usual.hour_upper = upper[name] = limit

    def _wanted(self, usual: _Usual) -> float:
        """Return the upper limit as if it could have risen freely."""
        policy = self._policy
        if not usual.times:
            return usual.prior
        learnt = min(max(policy.margin * (usual.level - _UNIT_SHARE), policy.floor), policy.ceiling)
        weight = min(1.0, usual.seen_s / policy.enough_s, usual.times / policy.enough_observations)
        return float(learnt**weight * usual.prior)

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
        return self.uppers(uuid).get(signal)

    def uppers(self, uuid: str) -> Mapping[str, float]:
        """Return the usual upper limits of all signals that have one."""
        vm = self._vms.get(uuid)
        return self._priors[self._default] if vm is None else vm.upper

    def over(self, uuid: str, signals: Mapping[str, float]) -> frozenset[str]:
        """Return those of `signals` that are over their usual upper limit: as `upper`, for all at once."""
        upper = self.uppers(uuid)
        return frozenset([name for name, most in upper.items() if name in signals and signals[name] > most])

    def learnt(self, uuid: str, signal: str) -> bool:
        """Tell whether enough is learnt that the prior has no part in the limit."""
        vm = self._vms.get(uuid)
        usual = None if vm is None else vm.usual.get(signal)
        return usual is not None and self._enough(usual)

    def _enough(self, usual: _Usual) -> bool:
        policy = self._policy
        return usual.seen_s >= policy.enough_s and usual.times >= policy.enough_observations

    def near_capacity(self, uuid: str) -> tuple[int, int]:
        """Return how many observations found the VM close to its maximum, and of how many."""
        vm = self._vms.get(uuid)
        return (0, 0) if vm is None else (vm.near, vm.near_of)

    def brief(self, uuid: str, signals: tuple[str, ...]) -> Brief:
        """Return the limits of those of `signals` that have one: what an agent compares with."""
        vm, upper = self._vms.get(uuid), self.uppers(uuid)
        found = {name: upper[name] for name in signals if name in upper}
        seen = {} if vm is None else {name: usual for name, usual in vm.usual.items() if usual.times}
        return Brief(bool(seen) and all(self._enough(seen[name]) for name in found if name in seen), found)

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
        vm = self._vms[uuid]
        self._keep_hour(vm)
        _levels, seen_s, upper = vm.hours
        index = list(vm.usual).index(signal)
        return [
            round(upper[at], 3) if seen_s[at] >= self._policy.hour_s else None
            for at in range(index, len(upper), len(vm.usual))
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
                    usual.times,
                    round(usual.seen_s, 3),
                    (usual.level - _UNIT_SHARE) * usual.prior,
                    usual.whole_upper,
                ]
                for name, usual in vm.usual.items()
                if usual.times
            },
        }
        return found | {"hours": self.dump_hours(uuid)} if hours else found

    def dump_hours(self, uuid: str) -> dict[str, Any]:
        """Return what is known of the VM by the hour, as plain data for JSON; `restore_hours` takes it back.

        Little-endian 32-bit floats in base64, by hour and by the signals named; percentiles are logarithms
        of times the prior.
        """
        vm = self._vms[uuid]
        self._keep_hour(vm)
        return {
            "signals": list(vm.usual),
            "priors": [usual.prior for usual in vm.usual.values()],
            **{
                name: base64.b64encode(part.tobytes()).decode()
                for name, part in zip(_HOUR_PARTS, vm.hours, strict=True)
            },
        }

    def restore_hours(self, uuid: str, data: Mapping[str, Any]) -> None:
        """Take back what `dump_hours` gave, of a VM whose history is there.

        Raises:
            ValueError: the data is no such dump.
        """
        vm, policy = self._vm(uuid), self._policy
        index_of = {name: index for index, name in enumerate(vm.usual)}
        try:
            names, priors = data["signals"], data["priors"]
            parts = [array("f", base64.b64decode(data[name], validate=True)) for name in _HOUR_PARTS]
            for at, (tracked, seen_s, upper) in enumerate(zip(*parts, strict=True)):
                hour, column = divmod(at, len(names))
                name = names[column]
                if name not in index_of or not (seen_s > 0 and math.isfinite(tracked + seen_s)):
                    continue
                here, prior = hour * len(index_of) + index_of[name], vm.usual[name].prior
                value = (math.exp(tracked) - _UNIT_SHARE) * priors[column]
                levels, seconds, uppers = vm.hours
                levels[here] = math.log(max(value / prior, 0.0) + _UNIT_SHARE)
                seconds[here] = seen_s
                uppers[here] = min(max(upper, policy.floor * prior), policy.ceiling * prior)
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
                usual = vm.usual.get(name)
                if usual is None:
                    continue
                prior = usual.prior
                usual.times, usual.seen_s = float(times), float(seen_s)
                usual.level = max(float(p95) / prior, 0.0) + _UNIT_SHARE
                bounds = (self._policy.floor * prior, self._policy.ceiling * prior)
                usual.whole_upper = min(max(float(upper), bounds[0]), bounds[1])
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


def _factors(step: float) -> tuple[float, float]:
    """Return what a step of the logarithm up and one down multiply a level with."""
    return math.exp(step * _UP), math.exp(-step * _DOWN)

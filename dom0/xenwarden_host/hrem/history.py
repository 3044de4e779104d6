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
"""

from __future__ import annotations

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


class _Vm:
    """One VM's numbers, at the index of each signal in the order of the priors."""

    __slots__ = (
        "frozen",
        "full",
        "near",
        "near_of",
        "p95",
        "priors",
        "profile",
        "seen_s",
        "times",
        "upper",
        "used_s",
    )

    def __init__(self, profile: str, priors: array[float]) -> None:
        size = len(priors)
        self.profile = profile
        self.priors = priors  # shared by all VMs of the profile
        self.p95 = array("d", bytes(8 * size))
        self.times = array("d", bytes(8 * size))
        self.seen_s = array("d", bytes(8 * size))
        self.upper = array("d", priors)
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
        self.set_policy(policy)

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
            vm.profile = profile
            vm.priors = self._priors[profile]
            for index in range(len(vm.priors)):
                vm.upper[index] = self._wanted(vm, index)

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
        p95, times, seen_s, upper, priors = vm.p95, vm.times, vm.seen_s, vm.upper, vm.priors
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
                step = max(step, slowest)
                # No min() and max() here: this is the hot path.
                if y > tracked:
                    tracked += step * _UP
                    tracked = min(tracked, y)
                else:
                    tracked -= step * _DOWN
                    tracked = max(tracked, y)
            p95[index] = tracked
            times[index] = count
            seen_s[index] += span_s
            # As _wanted(), in line.
            learnt = policy.margin * (math.exp(tracked) - _UNIT_SHARE)
            if learnt < policy.floor:
                learnt = policy.floor
            elif learnt > policy.ceiling:
                learnt = policy.ceiling
            if seen_s[index] < policy.enough_s or count < policy.enough_observations:
                learnt **= min(seen_s[index] / policy.enough_s, count / policy.enough_observations)
            highest = upper[index] * rise
            highest = max(highest, prior)
            learnt *= prior
            upper[index] = min(highest, learnt)
        cpu = signals.get("vcpu_pct")
        if cpu is not None:
            vm.near_of += 1
            if cpu >= policy.near_capacity_pct:
                vm.near += 1

    def _wanted(self, vm: _Vm, index: int) -> float:
        """Return the upper limit as if it could have risen freely."""
        policy = self._policy
        count = vm.times[index]
        if count == 0:
            return vm.priors[index]
        learnt = policy.margin * (math.exp(vm.p95[index]) - _UNIT_SHARE)
        learnt = min(max(learnt, policy.floor), policy.ceiling)
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

    def dump(self, uuid: str) -> dict[str, Any]:
        """Return the VM's history as plain data for JSON; `restore` takes it back."""
        vm = self._vms[uuid]
        return {
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
                    vm.upper[index],
                ]
                for index, name in enumerate(self._names)
                if vm.times[index]
            },
        }

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
                vm.upper[index] = min(max(float(upper), bounds[0]), bounds[1])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no history: {error!r}") from None
        vm.used_s = now_s
        self._vms[uuid] = vm

    def _vm(self, uuid: str) -> _Vm:
        vm = self._vms.get(uuid)
        if vm is None:
            vm = self._vms[uuid] = _Vm(self._default, self._priors[self._default])
        return vm

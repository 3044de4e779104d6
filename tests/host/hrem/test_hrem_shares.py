# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shares alone, on schedulers that give other shares than weights say."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenwarden_host.hrem.balancer import Balancer, Change, Mood, Seat, weight_room
from xenwarden_host.policy.load import defaults
from xenwarden_host.records import LimitKind

POLICY = defaults().balance
WEIGHT = LimitKind.WEIGHT
RULE = POLICY.rules[WEIGHT]
LOOK_S = 5.0
OWN = 256
ALL = frozenset((0, 1))


@dataclass
class Vm:
    """One VM; `bias` is how many times what its weight says the scheduler gives it."""

    guarantee: int = 0
    bias: float = 1.0
    mood: Mood = Mood.HUNGRY
    vcpus: int = 1
    cpus: frozenset[int] = ALL
    movable: bool = True
    blocked: float = 0.0
    takes: float = 1.0  # of what it is given
    has: int = OWN
    got_s: float = 0.0
    all_s: float = 0.0  # got since `Host.count`


@dataclass
class Host:
    """VMs, and a scheduler that gives CPU by the power `law` of weights, off by `noise` now and then."""

    vms: dict[str, Vm]
    pcpus: float = 1.0
    law: float = 1.0
    noise: float = 0.0
    seed: int = 0
    now_s: float = 0.0
    log: list[tuple[float, Change]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.balancer = Balancer(POLICY)
        self.dice = random.Random(self.seed)  # noqa: S311  no secret

    def schedule(self) -> None:
        """Give each what the scheduler gives it until the next look."""
        left_s = self.pcpus * LOOK_S
        wants = {
            name: vm.has**self.law * vm.vcpus * vm.bias * self.dice.uniform(1 - self.noise, 1 + self.noise)
            for name, vm in self.vms.items()
            if vm.mood is Mood.HUNGRY
        }
        claimed = sum(wants.values())
        for name in sorted(wants, key=lambda name: -wants[name] / self.vms[name].vcpus):
            vm = self.vms[name]
            vm.got_s = vm.takes * min(vm.vcpus * LOOK_S, left_s * wants[name] / claimed)
            left_s -= vm.got_s
            claimed -= wants[name]
            vm.all_s += vm.got_s

    def seats(self) -> list[Seat]:
        return [
            Seat(
                name, vm.has, OWN, vm.has, vm.guarantee, int(OWN * POLICY.times), vm.movable,
                vcpus=vm.vcpus, got_s=vm.got_s, blocked=vm.blocked, cpus=vm.cpus,
            )
            for name, vm in self.vms.items()
        ]  # fmt: skip

    def look(self) -> None:
        self.now_s += LOOK_S
        self.schedule()
        self.balancer.observe(WEIGHT, {name: vm.mood for name, vm in self.vms.items()}, self.now_s)
        seats = self.seats()
        for change in self.balancer.decide(WEIGHT, seats, weight_room(seats), self.now_s, LOOK_S):
            assert change.was == self.vms[change.uuid].has
            self.vms[change.uuid].has = change.value
            self.balancer.note(change, self.now_s)
            self.log.append((self.now_s, change))
        assert sum(vm.has for vm in self.vms.values()) <= OWN * len(self.vms)

    def run(self, seconds: float) -> Host:
        for _ in range(int(seconds / LOOK_S)):
            self.look()
        return self

    def shares(self, seconds: float = 600) -> dict[str, float]:
        """Run on, and return what each got in this time, of what all got."""
        for vm in self.vms.values():
            vm.all_s = 0.0
        self.run(seconds)
        whole = sum(vm.all_s for vm in self.vms.values())
        return {name: vm.all_s / whole for name, vm in self.vms.items()}

    def weights(self) -> dict[str, int]:
        return {name: vm.has for name, vm in self.vms.items()}

    def least_gap_s(self) -> float:
        last: dict[str, float] = {}
        gaps = [float("inf")]
        for at_s, change in self.log:
            gaps.append(at_s - last.get(change.uuid, float("-inf")))
            last[change.uuid] = at_s
        return min(gaps)


def three(*biases: float, **host: float) -> Host:
    guarantees = {"three": 384, "two": 256, "one": 128}
    vms = {n: Vm(g, bias) for (n, g), bias in zip(guarantees.items(), biases, strict=True)}
    return Host(vms, **host)  # type: ignore[arg-type]


def worst(shares: dict[str, float], parts: dict[str, float]) -> float:
    whole = sum(parts.values())
    return max(abs(shares[name] / (part / whole) - 1) for name, part in parts.items())


PARTS = {"three": 3.0, "two": 2.0, "one": 1.0}


def without_correction(host: Host) -> Host:
    host.balancer.policy = replace(POLICY, correction=1.0)
    return host


def test_shares_come_to_what_is_guaranteed_within_minutes_and_there_it_rests() -> None:
    as_in_the_lab = 1.06, 0.99, 0.84
    assert worst(without_correction(three(*as_in_the_lab)).run(300).shares(), PARTS) > 0.15
    host = three(*as_in_the_lab).run(300)
    assert worst(host.shares(60), PARTS) < 0.05
    before = len(host.log)
    host.run(4 * 3600)
    assert len(host.log) == before


def test_a_scheduler_that_follows_weights_is_let_be() -> None:
    host, plain = three(1, 1, 1), without_correction(three(1, 1, 1))
    assert host.run(3600).log == plain.run(3600).log


BIAS = st.floats(0.8, 1.2)


@settings(max_examples=12)
@given(BIAS, BIAS, BIAS, st.floats(0.9, 1.2), st.floats(0, 0.3), st.integers(0, 99))
def test_it_converges_and_never_thrashes_whatever_the_scheduler_gives(
    a: float, b: float, c: float, law: float, noise: float, seed: int
) -> None:
    host = three(a, b, c, law=law, noise=noise, seed=seed).run(1800)
    settled = len(host.log)
    assert worst(host.shares(1800), PARTS) < 0.1
    # By now it looks for 8 or 16 minutes each time.
    assert len(host.log) - settled <= 3 * 1800 / 480
    assert host.least_gap_s() >= POLICY.every_s
    for vm in host.vms.values():
        plain = vm.guarantee
        assert plain / POLICY.correction - RULE.least <= vm.has <= plain * POLICY.correction + RULE.least


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 128, 256, 512]), st.floats(0.5, 2), st.integers(1, 3), st.booleans()
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(Mood)), st.integers(1, 60)), max_size=12),
)
def test_whatever_happens_all_have_their_own_again(
    made: list[tuple[int, float, int, bool]], pcpus: int, story: list[tuple[int, Mood, int]]
) -> None:
    vms = {
        str(n): Vm(guarantee, bias, vcpus=vcpus, cpus=ALL if anywhere else frozenset((0,)))
        for n, (guarantee, bias, vcpus, anywhere) in enumerate(made)
    }
    host = Host(vms, pcpus)
    for number, mood, looks in story:
        if str(number) in vms:
            vms[str(number)].mood = mood
        host.run(looks * LOOK_S)
        assert host.least_gap_s() >= POLICY.every_s
    for vm in vms.values():
        vm.mood = Mood.IDLE
    assert set(host.run(3600).weights().values()) == {OWN}


def test_who_uses_what_is_left_after_a_contention_keeps_no_correction() -> None:
    host = three(1.06, 0.99, 0.84).run(1200)
    assert host.weights()["one"] > 128 + RULE.least
    corrected = host.weights()["three"]
    for vm in host.vms.values():
        vm.mood = Mood.CONTENT
    # What it was lent is the guarantee's, and stays with it as long as it is used; nobody else lacks it.
    assert host.run(3600).weights() == {
        "three": max(OWN, corrected),
        "two": OWN,
        "one": 768 - OWN - corrected,
    }


def test_a_vm_that_its_vcpus_do_not_let_have_more_is_due_no_more() -> None:
    # Two CPUs, and the first is guaranteed more than one of them, which its only vCPU cannot take.
    host = Host({"a": Vm(512), "b": Vm(128), "c": Vm(128)}, pcpus=2).run(600)
    settled = len(host.log)
    assert host.shares(3600) == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25}, abs=0.01)
    assert len(host.log) == settled


def test_only_those_are_compared_that_contend_for_the_same_cpus() -> None:
    host = three(1.06, 0.99, 0.5)
    host.vms["one"].cpus = frozenset((0,))  # pinned
    assert worst(without_correction(three(1.06, 0.99, 0.5)).run(600).shares(), PARTS) > 0.4
    before = host.run(200).weights()
    assert host.run(3600).weights() == before
    host.vms["one"].cpus = frozenset()  # or capped
    assert host.run(3600).weights() == before


def test_who_only_says_that_it_waits_gains_nothing() -> None:
    host = three(1, 1, 1)
    host.vms["one"].takes, host.vms["one"].blocked = 0.1, 0.9
    before = host.run(200).weights()
    assert host.run(3600).weights() == before


def test_without_a_guarantee_weights_are_the_schedulers_business() -> None:
    host = Host({"a": Vm(bias=0.5), "b": Vm(bias=1.5)})
    assert host.run(3600).log == []


@pytest.mark.parametrize("name", ["three", "one"])
def test_a_vm_that_is_limited_is_out(name: str) -> None:
    host = three(1.06, 0.99, 0.84).run(40)
    host.vms[name].movable = False
    had = host.vms[name].has
    assert host.run(3600).weights()[name] == had


def test_what_is_shared_beyond_the_guarantees_is_shared_as_they_are() -> None:
    vms = {"a": Vm(400, 1.1), "b": Vm(200, 0.9), "c": Vm(mood=Mood.IDLE)}
    shares = Host(vms).run(3600).shares()
    assert worst(shares, {"a": 2.0, "b": 1.0}) < 0.1


def test_advice_that_nobody_follows_does_not_run_away() -> None:
    host = three(1.06, 0.99, 0.84)
    for name, weight in (("three", 384), ("one", 128)):
        host.vms[name].has = weight
    advice = []
    for _ in range(1000):
        host.now_s += LOOK_S
        host.schedule()
        host.balancer.observe(WEIGHT, dict.fromkeys(host.vms, Mood.HUNGRY), host.now_s)
        advice.append(
            host.balancer.decide(WEIGHT, host.seats(), weight_room(host.seats()), host.now_s, LOOK_S)
        )
    assert advice[-1] == advice[100] != []

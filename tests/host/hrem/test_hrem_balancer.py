# SPDX-License-Identifier: LGPL-2.1-or-later
"""The balancer alone: who gets, who lends, what always holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from xenwarden_host.hrem.balancer import (
    KINDS,
    Balancer,
    Change,
    Mood,
    Seat,
    memory_room,
    mood,
    weight_room,
)
from xenwarden_host.policy.load import defaults
from xenwarden_host.records import LimitKind

POLICY = defaults().balance
LOOK_S = 5.0
KEEPS_KB = 262144
MB = 1024
WEIGHT, MEMORY = LimitKind.WEIGHT, LimitKind.MEMORY


@dataclass
class Vm:
    """One VM of the host."""

    own: int
    mood: Mood = Mood.CONTENT
    guarantee: int = 0
    has: int = 0
    taken: int = 0
    movable: bool = True
    stubborn: bool = False  # does not give memory back
    used: int = 0

    def __post_init__(self) -> None:
        self.has = self.has or self.own
        self.taken = self.has


class Host:
    """So many VMs, what is free beside them, and one balancer."""

    def __init__(self, kind: LimitKind, vms: dict[str, Vm], free: int = 0) -> None:
        self.kind, self.vms = kind, vms
        self.total = sum(vm.taken for vm in vms.values()) + free
        self.balancer = Balancer(POLICY)
        self.now_s = 0.0
        self.log: list[tuple[float, Change]] = []

    def seats(self) -> list[Seat]:
        ceilings = {name: int(vm.own * POLICY.times) for name, vm in self.vms.items()}
        return [
            Seat(name, vm.has, vm.own, vm.taken, vm.guarantee, ceilings[name], vm.movable, vm.used)
            for name, vm in self.vms.items()
        ]

    def room(self) -> int:
        if self.kind is WEIGHT:
            return weight_room(self.seats())
        return memory_room(self.seats(), self.total - sum(vm.taken for vm in self.vms.values()), KEEPS_KB)

    def look(self) -> list[Change]:
        self.now_s += LOOK_S
        self.balancer.observe(self.kind, {name: vm.mood for name, vm in self.vms.items()}, self.now_s)
        changes = self.balancer.decide(self.kind, self.seats(), self.room(), self.now_s, LOOK_S)
        for change in changes:
            assert change.was == self.vms[change.uuid].has
            self.vms[change.uuid].has = change.value
            self.balancer.note(change, self.now_s)
            self.log.append((self.now_s, change))
        for vm in self.vms.values():
            if self.kind is WEIGHT or not (vm.stubborn and vm.has < vm.taken):
                vm.taken = vm.has
        return changes

    def run(self, seconds: float) -> Host:
        for _ in range(int(seconds / LOOK_S)):
            self.look()
        return self

    def has(self) -> dict[str, int]:
        return {name: vm.has for name, vm in self.vms.items()}


def test_a_hungry_vm_gets_what_two_idle_ones_lend_and_they_get_it_back() -> None:
    mb64 = POLICY.rules[MEMORY].step
    host = Host(
        MEMORY,
        {"a": Vm(256 * MB, Mood.HUNGRY), "b": Vm(256 * MB, Mood.IDLE), "c": Vm(256 * MB, Mood.IDLE)},
        KEEPS_KB,
    ).run(1500)
    assert host.has() == {"a": 512 * MB, "b": 128 * MB, "c": 128 * MB}
    host.vms["a"].mood = Mood.CONTENT  # has enough now, and uses it
    assert host.run(2000).has()["a"] == 512 * MB
    host.vms["b"].mood = Mood.HUNGRY  # what it lent is its own
    host.run(600)
    assert host.has()["b"] == 256 * MB
    assert host.has()["a"] <= 512 * MB - 2 * mb64
    for vm in host.vms.values():
        vm.mood = Mood.IDLE
    assert host.run(3000).has() == dict.fromkeys("abc", 256 * MB)


def test_what_is_free_goes_before_what_others_have() -> None:
    host = Host(
        MEMORY, {"a": Vm(256 * MB, Mood.HUNGRY), "b": Vm(256 * MB, Mood.IDLE)}, KEEPS_KB + 512 * MB
    ).run(2000)
    assert host.has() == {"a": 512 * MB, "b": 256 * MB}


def test_no_memory_is_taken_that_is_in_use() -> None:
    idle = Vm(256 * MB, Mood.IDLE, used=100 * MB)
    host = Host(MEMORY, {"a": Vm(256 * MB, Mood.HUNGRY), "b": idle}, KEEPS_KB).run(2000)
    assert host.has()["b"] == 200 * MB  # of which 100 MB are still half: it is idle as it was
    host.vms["a"].used = 290 * MB
    idle.mood = Mood.HUNGRY  # its own, but now in use by another
    host.run(2000)
    assert host.has()["a"] == 312 * MB


def test_memory_that_is_not_given_back_is_not_given_on() -> None:
    host = Host(
        MEMORY, {"a": Vm(256 * MB, Mood.HUNGRY), "b": Vm(256 * MB, Mood.IDLE, stubborn=True)}, KEEPS_KB
    )
    assert host.run(2000).has()["a"] == 256 * MB


def test_weights_follow_guarantees_when_all_are_hungry() -> None:
    vms = {name: Vm(256, Mood.HUNGRY, guarantee) for name, guarantee in (("a", 512), ("b", 256), ("c", 128))}
    host = Host(WEIGHT, vms).run(3600)
    shares = host.has()
    whole = sum(shares.values())
    assert whole <= 3 * 256
    for name, guarantee in (("a", 512), ("b", 256), ("c", 128)):
        assert abs(shares[name] / whole - guarantee / 896) <= 0.1 * guarantee / 896
    before = len(host.log)
    host.run(7200)
    assert len(host.log) == before  # and there it stays


def test_the_hungry_one_beside_idle_ones_gets_their_weight_for_as_long_as_it_is() -> None:
    host = Host(WEIGHT, {"a": Vm(256, Mood.HUNGRY), "b": Vm(256, Mood.IDLE), "c": Vm(256, Mood.IDLE)})
    assert host.run(3600).has() == {"a": 512, "b": 128, "c": 128}
    host.vms["a"].mood = Mood.IDLE
    assert host.run(3600).has() == dict.fromkeys("abc", 256)


def test_moods() -> None:
    full = {"vcpu_pct": 60.0, "steal_pct": 35.0}
    assert mood(WEIGHT, full, POLICY, contended=True) is Mood.HUNGRY
    assert mood(WEIGHT, full, POLICY, contended=False) is Mood.CONTENT  # a host that is not full
    assert mood(WEIGHT, {"vcpu_pct": 100.0, "steal_pct": 0.0}, POLICY, contended=True) is Mood.CONTENT
    # It had its turn while its agent looked: more than in the while that dom0 looks at, and waited less.
    turn = {"vcpu_pct": 33.0, "cpu_pct": 60.0, "steal_pct": 38.0}
    assert mood(WEIGHT, turn, POLICY, contended=True) is Mood.HUNGRY
    assert mood(WEIGHT, {"vcpu_pct": 3.0}, POLICY, contended=True) is Mood.IDLE
    assert mood(WEIGHT, {"steal_pct": 99.0}, POLICY, contended=True) is Mood.CONTENT  # dom0 saw nothing
    assert mood(MEMORY, {"mem_used_pct": 85.0}, POLICY, contended=False) is Mood.HUNGRY
    assert mood(MEMORY, {}, POLICY, contended=False) is Mood.CONTENT  # no agent: nothing is known


MOODS = st.sampled_from(list(Mood))
Made = tuple[int, Mood, int, bool, float]  # own, mood, guarantee, stubborn, share of its own in use
VMS = st.lists(
    st.tuples(
        st.integers(64, 1024), MOODS, st.sampled_from([0, 0, 100, 300, 700]), st.booleans(), st.floats(0, 1)
    ),
    min_size=1,
    max_size=6,
)


def make(kind: LimitKind, vms: list[Made], free_mb: int) -> Host:
    unit = 1 if kind is WEIGHT else MB
    made = {
        str(n): Vm(
            own * unit,
            found,
            guarantee * unit,
            movable=n != 4,
            stubborn=stubborn,
            used=int(own * unit * used) if kind is MEMORY else 0,
        )
        for n, (own, found, guarantee, stubborn, used) in enumerate(vms)
    }
    return Host(kind, made, free_mb * MB)


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS),
    VMS,
    st.integers(0, 2048),
    st.lists(st.tuples(st.integers(0, 5), MOODS, st.integers(1, 90)), max_size=12),
)
def test_whatever_happens_sums_steps_guarantees_and_intervals_hold(
    kind: LimitKind, vms: list[Made], free_mb: int, story: list[tuple[int, Mood, int]]
) -> None:
    host, rule = make(kind, vms, free_mb), POLICY.rules[kind]
    own = {name: vm.own for name, vm in host.vms.items()}
    last_s: dict[str, float] = {}
    for number, found, looks in story:
        if str(number) in host.vms:
            host.vms[str(number)].mood = found
        for _ in range(looks):
            room, seats = host.room(), host.seats()
            base = dict(zip(own, host_bases(host), strict=True))
            changes = host.look()
            raised = sum(max(0, change.value - change.was) for change in changes)
            if kind is WEIGHT:
                assert sum(host.has().values()) <= sum(own.values())
                assert raised <= room
            else:
                lacking = sum(max(0, s.guarantee - max(s.has, s.taken)) for s in seats)
                assert raised <= max(0, room) + lacking
                held = sum(max(vm.has, vm.taken) for vm in host.vms.values())
                assert not raised or held <= host.total - KEEPS_KB
            for change in changes:
                vm = host.vms[change.uuid]
                assert vm.movable
                assert abs(change.value - change.was) <= rule.step
                assert abs(change.value - change.was) >= rule.least or change.value == vm.own
                assert change.value <= max(vm.own * POLICY.times, base[change.uuid])
                if change.value < change.was:
                    assert change.value * rule.hungry_pct / 100 >= min(
                        vm.used, change.was * rule.hungry_pct / 100
                    )
                if vm.guarantee and change.value < change.was:
                    promised = base[change.uuid] if kind is WEIGHT else vm.guarantee
                    assert change.value >= min(promised, vm.own)
                assert host.now_s - last_s.get(change.uuid, -1e9) >= POLICY.every_s
                last_s[change.uuid] = host.now_s


def host_bases(host: Host) -> list[int]:
    whole = sum(vm.own for vm in host.vms.values())
    claims = sum(vm.guarantee or vm.own for vm in host.vms.values())
    return [(vm.guarantee or vm.own) * whole // claims for vm in host.vms.values()]


@settings(max_examples=60)
@given(st.sampled_from(KINDS), VMS, st.integers(0, 2048))
def test_at_steady_load_it_comes_to_rest(kind: LimitKind, vms: list[Made], free_mb: int) -> None:
    host = make(kind, vms, free_mb).run(2 * 3600)
    before = len(host.log)
    host.run(3600)
    assert host.log[before:] == []


@settings(max_examples=60)
@given(st.sampled_from(KINDS), VMS, st.lists(st.tuples(MOODS, st.integers(1, 5)), min_size=1, max_size=80))
def test_who_claims_something_else_every_few_seconds_moves_nothing(
    kind: LimitKind, vms: list[Made], claims: list[tuple[Mood, int]]
) -> None:
    host = make(
        kind, [(own, Mood.CONTENT, 0, False, used) for own, _mood, _guarantee, _stubborn, used in vms], 1024
    )
    last = Mood.CONTENT
    for found, looks in claims:
        if found is last:  # it must be another claim, or it would have lasted
            continue
        last = host.vms["0"].mood = found
        host.run(looks * LOOK_S)
    assert host.log == []


def test_a_vm_under_suspicion_neither_gets_nor_lends() -> None:
    host = Host(WEIGHT, {"a": Vm(256, Mood.HUNGRY, movable=False), "b": Vm(256, Mood.IDLE)}).run(3600)
    assert host.log == []
    host = Host(WEIGHT, {"a": Vm(256, Mood.HUNGRY), "b": Vm(256, Mood.IDLE, movable=False)}).run(3600)
    assert host.log == []


def test_advice_that_nobody_follows_stays_the_same() -> None:
    host = Host(WEIGHT, {"a": Vm(256, Mood.HUNGRY), "b": Vm(256, Mood.IDLE)})
    for _ in range(100):
        host.now_s += LOOK_S
        host.balancer.observe(WEIGHT, {"a": Mood.HUNGRY, "b": Mood.IDLE}, host.now_s)
    first = host.balancer.decide(WEIGHT, host.seats(), host.room(), host.now_s, LOOK_S)
    assert [(change.uuid, change.value) for change in first] == [("b", 192)]
    assert host.balancer.decide(WEIGHT, host.seats(), host.room(), host.now_s + LOOK_S, LOOK_S) == first


def test_a_policy_with_other_bounds_is_followed() -> None:
    host = Host(MEMORY, {"a": Vm(256 * MB, Mood.HUNGRY), "b": Vm(256 * MB, Mood.IDLE)}, KEEPS_KB)
    host.balancer.policy = replace(POLICY, keeps=1.0)
    assert host.run(3000).log == []

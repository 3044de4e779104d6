# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overflow: who takes all it can, unlike its history; by HREM's rule alone, and as HSEM judges it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdays.generate import host_day, profiles
from xenwarden_host.hrem.history import History
from xenwarden_host.hrem.overflow import Overflows
from xenwarden_host.policy.load import defaults
from xenwarden_host.records import AgentState, Report, Snapshot, VmType, VmView
from xenwarden_host.replay.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.records import Overflow

POLICY = defaults()
FULL = {name: gauge.full for name, gauge in POLICY.overflow.gauges.items()}
FOR_S = {name: gauge.for_s for name, gauge in POLICY.overflow.gauges.items()}
BY_DOM0 = {"cpu": "vcpu_pct", "events": "event_ps", "disk": "vbd_full_ps", "asks": "ask_ps"}
BY_AGENT = {"memory": "mem_used_pct", "forks": "fork_ps"}
OLD_S = 2 * POLICY.overflow.after_s


class Vm:
    """One VM, second by second; its agent reports every 5 s."""

    def __init__(self, *, known_s: float = OLD_S, service: bool = False) -> None:
        self.history = History(POLICY)
        self.overflows = Overflows(POLICY, self.history)
        self.now_s = 0.0
        self.known_s = known_s
        self.service = service
        self.seq = 0

    def second(
        self, dom0: Mapping[str, float], said: Mapping[str, float] | None = None
    ) -> tuple[Overflow, ...]:
        self.now_s += 1
        fresh = said is not None and self.now_s % 5 == 0
        report = None
        if said is not None:
            self.seq += fresh
            report = Report(self.seq, "00000001", 1, "", (), 5.0, said, (), "", 0, 0.0, 0.0, 0, 0)
        view = VmView(
            "u", 1, "vm", VmType.PV, 1, self.known_s + self.now_s, False, dom0,
            AgentState.ALIVE if report else AgentState.ABSENT, report, fresh, 0.0, None, service=self.service,
        )  # fmt: skip
        return self.overflows.find(Snapshot(self.now_s, 0.0, (view,))).vms[0].overflows

    def seconds(
        self, count: int, dom0: Mapping[str, float], said: Mapping[str, float] | None = None
    ) -> list[tuple[Overflow, ...]]:
        return [self.second(dom0, said) for _ in range(count)]


@pytest.mark.parametrize("of", BY_DOM0)
def test_what_dom0_counts_is_found_once_it_has_lasted(of: str) -> None:
    vm = Vm()
    quiet, full = {BY_DOM0[of]: FULL[of] / 2}, {BY_DOM0[of]: FULL[of]}
    assert not any(vm.seconds(100, quiet))
    found = vm.seconds(int(FOR_S[of]) + 1, full)
    assert [bool(item) for item in found] == [False] * int(FOR_S[of]) + [True]
    (overflow,) = found[-1]
    assert (overflow.of, overflow.value, overflow.for_s) == (of, FULL[of], FOR_S[of])
    assert not vm.second(quiet)


@pytest.mark.parametrize("of", BY_AGENT)
def test_what_only_its_agent_knows_is_found_within_two_reports(of: str) -> None:
    vm = Vm()
    assert not any(vm.seconds(100, {"vcpu_pct": 5.0}, {BY_AGENT[of]: FULL[of] / 2}))
    found = vm.seconds(10, {"vcpu_pct": 5.0}, {BY_AGENT[of]: FULL[of] * 1.01})
    assert found[-1][0].of == of
    assert not vm.seconds(5, {"vcpu_pct": 5.0}, {BY_AGENT[of]: 1.0})[-1]


def test_a_vm_that_has_to_share_the_cpu_wants_all_of_it_as_well() -> None:
    vm = Vm()
    vm.seconds(100, {"vcpu_pct": 5.0}, {"cpu_pct": 5.0, "steal_pct": 1.0})
    found = vm.seconds(15, {"vcpu_pct": 50.0}, {"cpu_pct": 50.0, "steal_pct": 50.0})
    assert [item.of for item in found[-1]] == ["cpu"]


def test_a_vm_without_a_history_is_not_unlike_it() -> None:
    assert not any(Vm(known_s=0).seconds(600, {"vcpu_pct": 100.0}))


def test_domains_that_serve_others_are_left_out() -> None:
    assert not any(Vm(service=True).seconds(60, {"vcpu_pct": 100.0}))


def test_who_did_so_before_does_it_by_nature() -> None:
    vm = Vm(known_s=0)
    for _ in range(4):  # a build now and then, before the history counts as one
        vm.seconds(40, {"vcpu_pct": 100.0})
        vm.seconds(200, {"vcpu_pct": 3.0})
    vm.known_s = OLD_S
    assert not any(vm.seconds(600, {"vcpu_pct": 100.0}))
    assert not any(vm.seconds(60, {"vcpu_pct": 100.0, BY_DOM0["events"]: 0.0}))
    assert any(vm.seconds(60, {"vcpu_pct": 100.0, BY_DOM0["events"]: 1e6}))  # of that nothing is known


def test_short_moments_are_no_nature_and_weeks_make_forgotten() -> None:
    vm = Vm()
    for _ in range(100):
        assert not any(vm.seconds(5, {"vcpu_pct": 100.0}))
        vm.seconds(5, {"vcpu_pct": 3.0})
    assert any(vm.seconds(20, {"vcpu_pct": 100.0}))
    vm.seconds(600, {"vcpu_pct": 100.0})
    assert not any(vm.seconds(20, {"vcpu_pct": 100.0}))
    vm.now_s += 4 * POLICY.history.memory_s
    assert any(vm.seconds(20, {"vcpu_pct": 100.0}))


def test_nothing_is_learnt_while_the_vm_is_frozen() -> None:
    vm = Vm()
    vm.seconds(60, {"vcpu_pct": 3.0})
    vm.history.freeze("u", frozen=True)
    assert all(vm.seconds(1000, {"vcpu_pct": 100.0})[20:])
    vm.history.freeze("u", frozen=False)
    assert vm.second({"vcpu_pct": 100.0})[0].known_s < POLICY.overflow.known_s


def test_what_the_history_knows_outlives_the_daemon_and_a_new_policy() -> None:
    vm = Vm()
    vm.now_s = 4 * POLICY.history.memory_s  # dom0 has been up for weeks
    vm.seconds(400, {"vcpu_pct": 100.0})
    vm.history.restore("u", vm.history.dump("u"), vm.now_s)
    vm.history.set_policy(POLICY)
    vm.overflows = Overflows(POLICY, vm.history)
    assert not any(vm.seconds(60, {"vcpu_pct": 100.0}))


@given(st.lists(st.tuples(st.sampled_from([*BY_DOM0.values()]), st.floats(0, 1e9)), max_size=60))
def test_whatever_is_measured_a_finding_is_true(seconds: list[tuple[str, float]]) -> None:
    vm = Vm()
    lasted: dict[str, int] = {}
    for signal, value in seconds:
        found = {item.of: item for item in vm.second({signal: value})}
        for of, name in BY_DOM0.items():
            lasted[of] = lasted.get(of, 0) + 1 if name == signal and value >= FULL[of] else 0
            assert (of in found) == (lasted[of] > FOR_S[of])


def test_a_flash_crowd_or_build_each_day_is_found_at_most_once() -> None:
    of = profiles()
    builds = {
        "per_day": 12,
        "minutes": 20,
        "adds": {"cpu_pct": 100, "fork_ps": 400},
    }
    quiet = {name: value for name, value in of["batch"]["signals"].items() if name != "cpu_pct"}
    of = {"batch": of["batch"] | {"signals": quiet | {"cpu_pct": 5, "fork_ps": 5}, "events": {"b": builds}}}
    day = host_day(11, of, vms=1, interval_s=30, attacks_per_day=0)
    events = list(Replay(POLICY).run(day.lines, "day"))
    alarms = [event for event in events if event["event"] == "alarm"]
    rules = [rule for event in alarms for rule in event["rules"]]
    assert rules.count("overflow-cpu") <= 1
    assert rules.count("fork-bomb") <= 1
    assert {event["verdict"] for event in events if event["event"] == "verdict"} <= {"neither"}


def test_cpu_at_its_maximum_on_a_quiet_day_is_found_in_time() -> None:
    of = profiles()
    day = host_day(12, {"idle": of["idle"] | {"events": {}}}, vms=1, interval_s=5, attacks_per_day=0)
    begin_s = 40000.0
    values = dict(day.values["idle-0"])
    lines = [day.lines[0]]
    for line, (t, found) in zip(day.lines[1:], values.items(), strict=True):
        if begin_s < t <= begin_s + 600:
            changed = f'"cpu_pct": {found["cpu_pct"]}'.encode()
            assert changed in line
            line = line.replace(changed, b'"cpu_pct": 99.5')  # noqa: PLW2901
        if t < begin_s + 1200:
            lines.append(line)
    events = list(Replay(replace(POLICY)).run(lines, "day"))
    first = next(e["t"] for e in events if e["event"] == "alarm" and "overflow-cpu" in e["rules"])
    assert begin_s < first <= begin_s + 20
    limits = [(e["event"], e["kind"]) for e in events if e["event"] in ("limit", "lift")]
    assert limits == [("limit", "cap"), ("lift", "cap")]
    assert [e["verdict"] for e in events if e["event"] == "verdict"] == ["neither"]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""How HSEM judges who takes all it can: by what else is seen, never by that alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from simulate import CAP, Host, SimVm

from xenwarden_host.records import Transition, Verdict, VmState

if TYPE_CHECKING:
    from collections.abc import Callable


def grown(script: Callable[[float], dict[str, float]], **base: float) -> Host:
    """A VM that dom0 has known for a day, that has been quiet, and one beside it; the load begins at 30 s."""
    quiet = {"cpu_pct": 4.0, "fork_ps": 1.0, "mem_used_pct": 40.0, "run_queue": 0.2, "steal_pct": 0.0}
    vm = SimVm("v", base=quiet, base_hrem=base, script=lambda t: script(t) if t > 30 else {})
    host = Host(vm, SimVm("x"))
    for one in host.vms.values():
        one.born_s = host.now_s - 86400
    return host


def busy(_t: float) -> dict[str, float]:
    return {"cpu_pct": 100.0, "vcpu_pct": 99.0}


def build(_t: float) -> dict[str, float]:
    return {"cpu_pct": 100.0, "vcpu_pct": 99.0, "fork_ps": 300.0, "run_queue": 8.0}


def fork_bomb(_t: float) -> dict[str, float]:
    return {"cpu_pct": 100.0, "vcpu_pct": 99.0, "fork_ps": 2000.0, "run_queue": 300.0}


def test_cpu_at_its_maximum_is_capped_soon_and_found_neither() -> None:
    host = grown(busy).run(120)
    (first,) = [(t, a.key) for t, a in host.limited("v")]
    assert first[1] == CAP
    assert first[0] <= 30 + 15
    assert [verdict for _t, verdict in host.verdicts("v")] == [Verdict.NEITHER]
    assert host.vms["v"].limits == {}
    assert not host.actions("x", Transition)


def test_its_history_soon_knows_it_and_learns_no_more_than_that() -> None:
    host = grown(busy).run(1200)
    assert len(host.verdicts("v")) == 1
    assert host.state("v") is VmState.NORMAL


def test_a_build_that_starts_a_few_processes_for_each_cpu_is_no_fork_bomb() -> None:
    host = grown(build).run(300)
    assert {verdict for _t, verdict in host.verdicts("v")} == {Verdict.NEITHER}


# Between its reports or at one, dom0 may be the first to see it; and the bomb may let the agent starve.
@pytest.mark.parametrize("phase", range(6))
@pytest.mark.parametrize("starved_s", [0, 6])
def test_a_fork_bomb_is_contained_by_its_cpu(phase: int, starved_s: int) -> None:
    host = grown(fork_bomb)
    host.vms["v"].phase = phase
    host.vms["v"].starved_s = starved_s
    host.run(30)
    host.until("v", VmState.CONTAINED, 40)
    assert set(host.vms["v"].limits) == {CAP}
    (verdict,) = [a for _t, a in host.actions("v", Transition) if a.verdict is Verdict.ATTACKER]
    assert any(item.rule == "fork-bomb" for item in verdict.evidence)


def test_full_memory_is_looked_at_and_nothing_is_limited() -> None:
    host = grown(lambda _t: {"mem_used_pct": 98.0}).run(200)
    assert [verdict for _t, verdict in host.verdicts("v")] == [Verdict.NEITHER]
    assert not host.limited("v")


def test_who_fills_its_memory_and_asks_for_more_again_and_again_grabs() -> None:
    host = grown(lambda _t: {"mem_used_pct": 98.0, "ask_ps": 0.9}, ask_ps=0.0)
    host.run(30)
    host.until("v", VmState.CONTAINED, 40)
    assert not host.limited("v")  # it is refused more: that is all there is to limit


def test_devices_at_their_maximum_are_told_once_and_limit_nothing() -> None:
    host = grown(lambda _t: {"vbd_full_ps": 500.0}, vbd_full_ps=0.0).run(400)
    assert host.alerts("v") == ["overflow-devices"]
    assert not host.actions("v", Transition)


def test_neither_a_new_vm_nor_one_that_always_did_is_unlike_itself() -> None:
    new = grown(busy)
    new.vms["v"].born_s = new.now_s
    always = grown(busy)
    for _ in range(3):
        always.history.learn_full(always.vms["v"].uuid, "cpu", 60.0, always.now_s)
    for host in (new, always):
        host.run(300)
        assert not host.actions("v", Transition)

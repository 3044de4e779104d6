# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ordinary work that looks like an attack, and attacks that look ordinary or point at others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from simulate import SYN, Flood, Host, SimVm

from xenwarden_channel.signals import HEADERS
from xenwarden_host.policy.load import defaults
from xenwarden_host.policy.model import VmEntry
from xenwarden_host.records import Level, LimitKey, Peer, SetLimit, Transition, Verdict, VmState

if TYPE_CHECKING:
    from collections.abc import Callable


def jitter(t: float) -> float:
    """Between 0.7 and 1.3, the same in each run."""
    return 0.7 + 0.6 * ((int(t) * 7919) % 101) / 100


def backup(t: float) -> dict[str, float]:
    bps = 940e6 * jitter(t)
    return {"tx_bps": bps, "tx_pps": bps / 12000, "rx_pps": bps / 24000, "rx_bps": bps / 24000 * 500}


def download(t: float) -> dict[str, float]:
    bps = 2e9 * jitter(t)
    return {"rx_bps": bps, "rx_pps": bps / 12000, "tx_pps": bps / 24000, "tx_bps": bps / 24000 * 500}


def flash_crowd(t: float) -> dict[str, float]:
    rate = 700.0 * jitter(t)
    return {
        "rx_syn_pps": rate,
        "tx_synack_pps": rate,
        "rx_pps": 8 * rate,
        "tx_pps": 9 * rate,
        "tx_bps": 60e6,
        "rx_bps": 6e6,
        "rx_sources": 600.0,
        "cpu_pct": 100.0,
        "vcpu_pct": 99.0,
    }


def proxy(t: float) -> dict[str, float]:
    rate = 300.0 * jitter(t)
    return {
        "tx_syn_pps": rate,
        "rx_synack_pps": rate,
        "tx_pps": 7 * rate,
        "rx_pps": 8 * rate,
        "tx_bps": 7 * rate * 2000,
        "rx_bps": 8 * rate * 6000,
        "tcp_open_ps": rate,
    }


def resolver(t: float) -> dict[str, float]:
    rate = 6000.0 * jitter(t)
    return {"tx_udp_pps": rate, "rx_udp_pps": rate * 0.98, "tx_pps": rate, "rx_pps": rate, "tx_dests": 900.0}


def monitoring(t: float) -> dict[str, float]:
    rate = 90.0 * jitter(t)
    return {
        "tx_icmp_pps": rate,
        "tx_syn_pps": rate,
        "rx_synack_pps": 0.97 * rate,
        "tx_dests": 800.0,
        "tx_pps": 600.0,
        "tx_top_share": 0.01,
        "rx_pps": 600.0,
    }


def crawler(t: float) -> dict[str, float]:
    rate = 150.0 * jitter(t)
    return {
        "tx_syn_pps": rate,
        "rx_synack_pps": 0.9 * rate,
        "tx_dests": 600.0,
        "tx_pps": 3000.0,
        "rx_pps": 4000.0,
        "rx_bps": 40e6,
        "tx_bps": 4e6,
        "tcp_fail_ps": 0.1 * rate,
        "tcp_open_ps": rate,
    }


def lost_server(_t: float) -> dict[str, float]:
    return {"tx_syn_pps": 60.0, "rx_rst_pps": 60.0, "tcp_fail_ps": 60.0, "tcp_open_ps": 60.0, "tx_pps": 80.0}


def compile_job(_t: float) -> dict[str, float]:
    return {"cpu_pct": 100.0, "vcpu_pct": 99.0, "fork_ps": 300.0, "run_queue": 8.0, "psi_cpu_pct": 60.0}


LOOK_ALIKES = [backup, download, flash_crowd, proxy, resolver, monitoring, crawler, lost_server, compile_job]


@pytest.mark.parametrize("work", LOOK_ALIKES)
def test_ordinary_work_convicts_nobody_and_is_soon_left_alone(
    work: Callable[[float], dict[str, float]],
) -> None:
    host = Host(SimVm("v", script=lambda t: work(t) if t > 30 else {}), SimVm("x"), SimVm("y")).run(600)

    assert {verdict for _t, verdict in host.verdicts("v")} <= {Verdict.NEITHER}
    limited = 0
    for second in range(600):
        before = [action for t, action in host.actions("v", Transition) if t <= second]
        limited += bool(before) and before[-1].new is VmState.WATCHED
    assert limited <= 30  # of ten minutes: what lasts is let alone, and longer each time
    assert not host.limited("x")
    assert not host.limited("y")
    assert host.hsem.state(host.vms["v"].uuid) is VmState.NORMAL


@pytest.mark.parametrize("work", LOOK_ALIKES)
def test_ordinary_work_beside_a_flood_is_not_taken_for_it(work: Callable[[float], dict[str, float]]) -> None:
    """It begins in the very second in which the flood does."""
    worker = SimVm("w", script=lambda t: work(t) if t > 20 else {})
    flood = Flood("m", "v", "syn", 1000, 20, answered=0.9)
    host = Host(SimVm("m"), SimVm("v"), worker, floods=(flood,)).run(120)

    assert host.verdict("m") is Verdict.ATTACKER
    assert host.verdict("v") is Verdict.VICTIM
    assert {verdict for _t, verdict in host.verdicts("w")} <= {Verdict.NEITHER}


@pytest.mark.parametrize("pps", [400, 1500])
@pytest.mark.parametrize("kind", ["syn", "icmp"])
def test_victim_without_an_agent_is_not_limited(pps: float, kind: str) -> None:
    flood = Flood("m", "v", kind, pps, 10, answered=0.9)
    host = Host(SimVm("m"), SimVm("v", agent=False), SimVm("b", agent=False), floods=(flood,)).run(60)

    assert host.verdict("m") is Verdict.ATTACKER
    assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("v")
    assert not host.actions("b", SetLimit, Transition)


def test_attacker_that_starves_its_own_agent_is_still_judged_by_its_word() -> None:
    """hping3 on the only vCPU: the agent reports late, which is silence by the clock."""
    flood = Flood("m", "v", "syn", 1000, 10, end_s=70, answered=0.9)
    mallory = SimVm("m", starved_s=7)
    host = Host(mallory, SimVm("v"), floods=(flood,)).run(70)

    assert host.verdict("m") is Verdict.ATTACKER
    assert {action.key for _t, action in host.limited("m")} == {SYN}
    assert host.state("m") is VmState.CONTAINED
    assert host.alerts("m") == []


def test_attacker_that_kills_its_agent_once_contained_stays_contained() -> None:
    flood = Flood("m", "v", "syn", 300, 10, answered=0.9)
    for counts_drops in (True, False):
        host = Host(SimVm("m", silent_from_s=40), SimVm("v"), floods=(flood,))
        host.counts_drops = counts_drops
        host.run(200)
        assert host.state("m") is VmState.CONTAINED
        assert {action.key for _t, action in host.limited("m")} == {SYN}


def test_agent_that_hides_only_its_floods_is_found_by_its_victim_and_dom0() -> None:
    """It tells its packets truly, and calls none of them a SYN."""
    flood = Flood("m", "v", "other", 1000, 20, answered=0.0)
    host = Host(SimVm("m"), SimVm("v"), SimVm("b", script=download), floods=(flood,))
    host.vms["v"].script = lambda t: {"rx_syn_pps": 1000.0 if t > 20 and not host.vms["m"].limits else 0.2}
    # What dom0 polices is what the packets are, not what the agent calls them.
    real = host._flood

    def police(flood: Flood, guest: dict[str, dict[str, float]], hrem: dict[str, dict[str, float]]) -> None:
        limit = host.vms["m"].limits.get(SYN)
        real(Flood(flood.sender, None, "other", flood.pps, 0), guest, hrem)
        passed = flood.pps if limit is None else min(flood.pps, limit)
        for name, value in (("vif_rx_pps", passed), ("vif_rx_bps", passed * 480)):
            hrem["v"][name] += value

    host._flood = police  # type: ignore[method-assign]
    host.counts_drops = False
    host.run(80)

    assert host.verdict("m") is Verdict.ATTACKER
    assert not host.limited("v") + host.limited("b")


def test_a_neighbour_that_cries_wolf_gets_nobody_convicted() -> None:
    """Wolf tells of a flood each time when its honest client sends, and hopes to have the client limited."""

    def client(t: float) -> dict[str, float]:
        rate = 900.0 if t > 30 else 5.0
        return {"tx_pps": rate, "rx_pps": rate * 0.9, "tx_bps": rate * 640, "rx_bps": rate * 700}

    def wolf(t: float) -> dict[str, float]:
        rate = 900.0 if t > 30 else 5.0
        lie = {"rx_syn_pps": 900.0} if t > 30 else {}
        return {"rx_pps": rate, "tx_pps": rate * 0.9, "rx_bps": rate * 640, "tx_bps": rate * 700, **lie}

    host = Host(SimVm("client", script=client), SimVm("wolf", script=wolf)).run(300)
    assert {verdict for _t, verdict in host.verdicts("client")} <= {Verdict.NEITHER}


def test_reports_that_come_at_level_1_only_still_end_in_a_verdict() -> None:
    """An agent that never goes to level 2, as in a recording of one interval."""
    host = Host(SimVm("m"), SimVm("v"), floods=(Flood("m", "v", "syn", 500, 10),))
    mallory = host.vms["m"]
    for _ in range(60):
        mallory.self_raised = False
        mallory.level = Level.ONE
        host.tick()
    assert host.verdict("m") is Verdict.ATTACKER


def test_limits_follow_what_is_usual_for_the_vm() -> None:
    def busy(t: float) -> dict[str, float]:
        return {
            "tx_syn_pps": 80.0 * jitter(t),
            "rx_synack_pps": 80.0 * jitter(t),
            "tx_pps": 800.0,
            "rx_pps": 900.0,
        }

    host = Host(SimVm("busy", script=busy), SimVm("idle"), SimVm("v"))
    host.run(5000)
    assert not host.actions("busy", Transition)
    host.floods += [Flood(name, "v", "syn", 5000, 5005) for name in ("busy", "idle")]
    host.run(40)
    first = {name: host.limited(name)[0][1].value for name in ("busy", "idle")}
    assert first["busy"] > 1.5 * first["idle"]


def test_exempt_and_protected_vms_of_the_policy() -> None:
    policy = replace(
        defaults(),
        vms=(
            VmEntry("e*", None, "unknown", protect=False, exempt=True),
            VmEntry("p*", None, "unknown", protect=True, exempt=False),
        ),
    )
    floods = (Flood("exempt", "v", "syn", 900, 10), Flood("precious", "v", "syn", 900, 10))
    host = Host(SimVm("exempt"), SimVm("precious"), SimVm("v"), floods=floods, policy=policy).run(60)

    assert host.alerts("exempt") == ["syn-flood"]
    assert not host.actions("exempt", SetLimit, Transition)
    assert [action.provisional for _t, action in host.limited("precious")] == [False]
    assert host.verdict("precious") is Verdict.ATTACKER


def test_paused_vm_loses_no_time() -> None:
    host = Host(SimVm("m"), SimVm("v"), floods=(Flood("m", "v", "syn", 400, 10),))
    host.until("m", VmState.CONTAINED)
    host.vms["m"].paused = True
    host.run(300)
    assert host.state("m") is VmState.CONTAINED
    host.vms["m"].paused = False
    host.run(60)
    assert host.state("m") is VmState.CONTAINED
    assert host.alerts("m") == []


def test_late_and_uneven_ticks_change_no_verdict() -> None:
    for stride in (2, 3):
        host = Host(SimVm("m"), SimVm("v"), SimVm("b", script=download),
                    floods=(Flood("m", "v", "syn", 600, 10, answered=0.9),))  # fmt: skip
        decide = host.hsem.decide
        host.hsem.decide = lambda snap, n=stride, d=decide, h=host: d(snap) if int(h.now_s) % n == 0 else []  # type: ignore[method-assign,misc]
        host.run(80)
        assert host.verdict("m") is Verdict.ATTACKER
        assert host.verdict("v") is Verdict.VICTIM
        assert not host.limited("v") + host.limited("b")


@pytest.mark.parametrize(
    "key", ["cap", "vif-rate", "vif-in", "vbd-io", "weight", "memory", "vcpus", "vif-pps/udp"]
)
def test_limits_of_an_operator_are_no_evidence_and_no_obstacle(key: str) -> None:
    """A limited VM shows steal, pressure, drops and late reports: the limit's doing."""

    def strained(_t: float) -> dict[str, float]:
        return {
            "steal_pct": 80.0,
            "psi_cpu_pct": 80.0,
            "psi_io_pct": 70.0,
            "tcp_fail_ps": 5.0,
            "vcpu_pct": 25.0,
        }

    flood = Flood("m", "v", "syn", 500, 60, answered=0.9)
    host = Host(
        SimVm("m", script=strained), SimVm("v", script=strained), SimVm("x", script=strained), floods=(flood,)
    )
    for vm in host.vms.values():
        vm.by_operator = frozenset((LimitKey.parse(key),))
    host.run(55)
    assert not any(host.actions(name) for name in host.vms)
    host.run(60)
    assert host.verdict("m") is Verdict.ATTACKER
    assert host.verdict("v") is Verdict.VICTIM


def client(opens: float, fails: float) -> dict[str, float]:
    """A VM that opens so many connections, of which so many fail; each that succeeds sends ten packets."""
    good = opens - fails
    return {
        "tcp_open_ps": opens,
        "tcp_fail_ps": fails,
        "tx_syn_pps": opens,
        "rx_synack_pps": good,
        "rx_rst_pps": fails,
        "tx_pps": opens + 10 * good,
        "rx_pps": opens + 10 * good,
    }


@pytest.mark.parametrize(
    ("before", "then", "verdict"),
    [
        (client(30, 0.5), client(100, 70), Verdict.ATTACKER),  # what worked still works
        (client(30, 0.5), client(90, 90), None),  # its server is down, and it tries three times each
        (client(0.1, 0), client(60, 60), None),  # a quiet client of a server that is down
        (client(30, 0.5), client(120, 1), None),  # more work, and it succeeds
    ],
)  # fmt: skip
def test_connections_that_fail(
    before: dict[str, float], then: dict[str, float], verdict: Verdict | None
) -> None:
    vm = SimVm("v", script=lambda t: then if t > 300 else before)
    host = Host(vm, SimVm("x"), SimVm("y")).run(480)
    assert {found for _t, found in host.verdicts("v")} - {Verdict.NEITHER} == (
        {verdict} if verdict else set()
    )


@pytest.mark.parametrize(("port", "verdict"), [(0, Verdict.ATTACKER), (5432, None)])
@pytest.mark.parametrize("before", [client(0.1, 0), client(30, 0.5)])
def test_ports_tried_one_by_one_are_told_from_a_server_that_is_down(
    before: dict[str, float], port: int, verdict: Verdict | None
) -> None:
    """The counters are the same, of a quiet client and of a busy one."""
    more = client(50, 50)
    then = {name: before[name] + more[name] for name in before}
    tried = (Peer("10.0.0.9", "tcp", port, 50.0, 50.0), Peer("10.0.0.8", "tcp", 443, 200.0, 20.0))
    vm = SimVm("v", script=lambda t: then if t > 300 else before, destinations=tried)
    host = Host(vm, SimVm("x"), SimVm("y")).run(480)
    assert {found for _t, found in host.verdicts("v")} - {Verdict.NEITHER} == (
        {verdict} if verdict else set()
    )


def test_who_answers_a_flood_from_addresses_that_are_not_there_scans_nobody() -> None:
    def flooded(t: float) -> dict[str, float]:
        if t <= 60:
            return {"tx_syn_pps": 0.3, "rx_synack_pps": 0.1}
        return {"tx_syn_pps": 0.3, "rx_synack_pps": 0.1, "rx_syn_pps": 2000.0, "rx_pps": 2050.0,
                "tx_synack_pps": 1500.0, "tx_pps": 1550.0, "tx_dests": 1500.0}  # fmt: skip

    host = Host(SimVm("v", script=flooded), SimVm("x")).run(200)
    assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("v")


@pytest.mark.parametrize(("pps", "dests", "verdict"), [(150, 40, Verdict.ATTACKER), (150, 190, None)])
def test_pings_of_a_busy_vm(pps: float, dests: float, verdict: Verdict | None) -> None:
    """To one address they are a flood; one a second to each of many, as a monitoring host sends, are not."""
    busy = {"tx_pps": 3000.0, "rx_pps": 3000.0, "tx_icmp_pps": 0.1, "tx_dests": 39.0, "tx_top_share": 0.1}
    more = {**busy, "tx_icmp_pps": pps, "tx_dests": dests}
    host = Host(SimVm("v", script=lambda t: more if t > 300 else busy), SimVm("x"), SimVm("y")).run(480)
    assert {found for _t, found in host.verdicts("v")} - {Verdict.NEITHER} == (
        {verdict} if verdict else set()
    )


@pytest.mark.parametrize(
    ("dests", "udp", "answered", "verdict"),
    [
        (400.0, 400.0, 0.0, Verdict.ATTACKER),  # each is asked once
        (400.0, 400.0, 0.95, Verdict.NEITHER),  # a resolver, which is answered
        (
            400.0,
            30.0,
            0.0,
            Verdict.NEITHER,
        ),  # it asks few: the rest are answers
    ],
)
def test_scan_by_a_vm_without_an_agent_is_seen_in_the_headers_that_dom0_samples(
    dests: float, udp: float, answered: float, verdict: Verdict
) -> None:
    """What dom0 counts of addresses covers an interval of level 2, not one of the agent's reports."""
    own = {"tx_pps": 420.0, "tx_bps": 200e3, "rx_pps": 20.0 + answered * udp, "rx_bps": 100e3,
           **{f"vif_{name}": 0.2 for name in HEADERS},
           "vif_tx_dests": dests, "vif_tx_udp_pps": udp, "vif_rx_udp_pps": answered * udp}  # fmt: skip
    vm = SimVm("s", agent=False, base_hrem=dict.fromkeys(own, 0.0), script=lambda t: own if t > 10 else {})
    host = Host(vm, SimVm("x")).run(60)

    assert {found for _t, found in host.verdicts("s")} == {verdict}


def test_detail_of_an_agent_that_lies_elsewhere_is_not_believed() -> None:
    """It tells of the failed connections, not of the ports, and hides most of its packets."""
    more = client(150, 150)
    told = (Peer("10.0.0.9", "tcp", 5432, 150.0, 150.0),)
    vm = SimVm("v", script=lambda t: more if t > 60 else {}, destinations=told)
    honest = Host(vm, SimVm("x")).run(150)
    liar = SimVm("v", script=vm.script, destinations=told, base_hrem={"vif_tx_pps": 5000.0})
    liar.script = lambda t: {**more, "vif_tx_pps": 5000.0} if t > 60 else {"vif_tx_pps": 10.0}
    lying = Host(liar, SimVm("x")).run(150)

    assert honest.verdict("v") in (None, Verdict.NEITHER)
    assert "lying-agent" in lying.alerts("v")
    assert lying.verdict("v") is Verdict.ATTACKER

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole stories, from the first packet to the release: who is found what, when, and what is limited."""

from __future__ import annotations

import pytest
from simulate import CAP, ICMP, RATE, SYN, UDP, Flood, Host, SimVm

from xenwarden_host.records import (
    Alert,
    Ask,
    Level,
    LiftLimit,
    LimitKey,
    OrderLevel,
    SetLimit,
    Transition,
    Verdict,
    VmState,
    VmType,
)

DOM0 = "Domain-0"


def dom0() -> SimVm:
    return SimVm(DOM0, vm_type=VmType.DOM0)


def download(since_s: float = 0.0) -> SimVm:
    return SimVm(
        "bystander",
        script=lambda t: (
            {"rx_pps": 3000.0, "rx_bps": 36e6, "tx_pps": 1500.0, "tx_bps": 0.8e6, "tx_syn_pps": 1.0}
            if t > since_s
            else {}
        ),
    )


@pytest.mark.parametrize("start_s", [9, 10, 11, 12, 13])  # wherever in the reports' intervals
@pytest.mark.parametrize("pps", [300, 500, 1000, 20000])
@pytest.mark.parametrize(("attacker", "victim"), [("mallory", "victim"), ("victim", "mallory"), ("a", "zz")])
def test_syn_flood_is_limited_within_10_s_and_judged_within_30(
    pps: float, start_s: float, attacker: str, victim: str
) -> None:
    flood = Flood(attacker, victim, "syn", pps, start_s, answered=0.9)
    host = Host(SimVm(attacker), SimVm(victim), download(start_s), dom0(), floods=(flood,)).run(60)

    assert host.verdicts(attacker)[0][1] is Verdict.ATTACKER
    assert [verdict for _t, verdict in host.verdicts(victim)] == [Verdict.VICTIM]
    assert host.verdicts(victim)[0][0] - start_s <= 30
    first_s, first = host.limited(attacker)[0]
    assert first_s - start_s <= 10
    assert first.provisional
    assert first.key == SYN
    assert host.verdicts(attacker)[0][0] - start_s <= 20
    assert host.verdict("bystander") in (None, Verdict.NEITHER)
    assert not host.limited("bystander")
    assert not host.limited(victim)
    assert not host.actions(DOM0)
    # What reaches the victim falls by 90 % and more.
    assert host.vms[attacker].limits[SYN] <= 0.1 * pps


@pytest.mark.parametrize("answered", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("counts_drops", [True, False])
@pytest.mark.parametrize("receiver_agent", [True, False])
def test_attacker_without_an_agent_is_judged_by_what_dom0_counts(
    receiver_agent: bool, counts_drops: bool, answered: float
) -> None:
    flood = Flood("mallory", "victim", "syn", 500, 10, answered=answered)
    host = Host(SimVm("mallory", agent=False), SimVm("victim", agent=receiver_agent), download(), dom0(),
                floods=(flood,))  # fmt: skip
    host.counts_drops = counts_drops
    host.run(60)

    assert host.verdict("mallory") is Verdict.ATTACKER
    assert host.verdicts("mallory")[0][0] <= 40
    assert host.limited("mallory")[0][0] <= 20
    assert host.verdict("bystander") in (None, Verdict.NEITHER)
    assert not host.limited("bystander")
    if receiver_agent:
        assert host.verdict("victim") is Verdict.VICTIM
        assert not host.limited("victim")
    else:
        # By counters alone both ends look alike at first; the limit on requests tells them apart.
        assert host.verdict("victim") in (Verdict.VICTIM, Verdict.NEITHER)


def test_lying_agent_is_told_of_and_its_vm_judged_by_what_dom0_counts() -> None:
    flood = Flood("mallory", "victim", "syn", 1000, 10, answered=0.9)
    host = Host(SimVm("mallory", lies=True), SimVm("victim"), download(), floods=(flood,)).run(60)

    assert "lying-agent" in host.alerts("mallory")
    assert host.verdict("mallory") is Verdict.ATTACKER
    assert host.verdict("victim") is Verdict.VICTIM
    assert "lying-agent" not in host.alerts("victim") + host.alerts("bystander")


@pytest.mark.parametrize(
    ("kind", "key", "pps"), [("udp", UDP, 5000), ("udp", UDP, 1200), ("icmp", ICMP, 400)]
)
def test_other_floods_limit_their_own_class_only(kind: str, key: LimitKey, pps: float) -> None:
    host = Host(SimVm("m"), SimVm("v"), download(), floods=(Flood("m", "v", kind, pps, 10),)).run(50)

    assert host.verdict("m") is Verdict.ATTACKER
    assert {action.key for _t, action in host.limited("m")} == {key}
    assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("v")
    assert not host.limited("bystander")


def test_flood_of_bytes_holds_the_rate_while_it_presses() -> None:
    # TCP to nowhere: bytes go out, nothing comes back, and no class of requests is unusual.
    def gushes(t: float) -> dict[str, float]:
        limit = host.vms["m"].limits.get(RATE)
        bps = 2e9 if limit is None else float(limit)
        return {"tx_bps": bps, "tx_pps": bps / 8 / 1500, "rx_pps": 100.0} if t > 10 else {}

    host = Host(SimVm("m", script=gushes))
    host.run(60)

    assert host.verdict("m") is Verdict.ATTACKER
    assert {action.key for _t, action in host.limited("m")} == {RATE}
    assert host.state("m") is VmState.CONTAINED


def test_scan_is_an_attack_and_polling_many_is_not() -> None:
    def scans(t: float) -> dict[str, float]:
        return (
            {"tx_dests": 900.0, "tx_syn_pps": 95.0, "rx_synack_pps": 2.0, "tcp_fail_ps": 70.0}
            if t > 10
            else {}
        )

    def polls(t: float) -> dict[str, float]:
        return (
            {"tx_dests": 900.0, "tx_syn_pps": 95.0, "rx_synack_pps": 94.0, "tx_pps": 500.0} if t > 10 else {}
        )

    host = Host(SimVm("scanner", script=scans), SimVm("monitor", script=polls)).run(120)

    assert host.verdict("scanner") is Verdict.ATTACKER
    assert {verdict for _t, verdict in host.verdicts("monitor")} == {Verdict.NEITHER}


def test_two_attackers_and_their_one_victim() -> None:
    floods = (Flood("a", "v", "syn", 500, 10, answered=0.5), Flood("b", "v", "syn", 700, 15, answered=0.5))
    host = Host(SimVm("a"), SimVm("b"), SimVm("v"), download(), floods=floods).run(60)

    assert host.verdict("a") is Verdict.ATTACKER
    assert host.verdict("b") is Verdict.ATTACKER
    assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("v")
    assert not host.limited("bystander")


def test_attacker_that_is_flooded_itself_is_an_attacker_and_a_victim_too() -> None:
    floods = (Flood("a", "b", "syn", 800, 10), Flood("b", None, "syn", 600, 10))
    # a's flood comes from outside: nothing on this host limits it.
    host = Host(SimVm("b"), SimVm("a", agent=False, base_hrem={}), floods=floods[1:]).run(5)
    host.vms["b"].script = lambda _t: {"rx_syn_pps": 800.0, "rx_pps": 850.0}
    host.run(60)

    assert host.verdict("b") is Verdict.ATTACKER
    last = [action for _t, action in host.actions("b", Transition) if action.verdict is Verdict.ATTACKER][-1]
    assert last.also_victim


def test_flood_from_outside_makes_a_victim_and_no_attacker() -> None:
    def flooded(t: float) -> dict[str, float]:
        if not 10 < t < 100:
            return {}
        return {
            "rx_syn_pps": 3000.0,
            "rx_pps": 3100.0,
            "rx_bps": 1.5e6,
            "tx_synack_pps": 2500.0,
            "tx_pps": 2600.0,
        }

    host = Host(SimVm("v", script=flooded), SimVm("other"), download()).run(200)

    assert [verdict for _t, verdict in host.verdicts("v")] == [Verdict.VICTIM]
    assert host.state("v") is VmState.NORMAL
    assert not any(host.limited(name) for name in host.vms)


def test_flash_crowd_is_neither() -> None:
    def crowd(t: float) -> dict[str, float]:
        return {"rx_syn_pps": 500.0, "rx_pps": 4000.0, "rx_bps": 10e6, "tx_synack_pps": 500.0,
                "tx_pps": 4000.0, "tx_bps": 90e6} if 20 < t < 200 else {}  # fmt: skip

    host = Host(SimVm("web", script=crowd)).run(300)

    assert {verdict for _t, verdict in host.verdicts("web")} == {Verdict.NEITHER}
    assert not host.limited("web")
    assert len(host.verdicts("web")) <= 3  # it is not raised over and over


def test_two_minutes_of_boot_disk_work_and_web_requests_limit_nothing() -> None:
    def ordinary(t: float) -> dict[str, float]:
        beat = int(t) % 10
        return {
            "cpu_pct": 100.0, "vcpu_pct": 99.0, "steal_pct": 20.0 + 5 * (beat == 3), "tx_syn_pps": 4.0 * beat,
            "rx_synack_pps": 4.0 * beat, "tx_pps": 60.0 * beat, "rx_pps": 80.0 * beat, "tx_dests": 5.0 + beat,
            "tcp_fail_ps": 3.0, "hv_blk_rps": 900.0, "event_ps": 2500.0, "vbd_rps": 900.0, "tx_udp_pps": 20.0,
            "rx_bps": 50e6 * (beat > 5), "tx_bps": 2e6, "tx_arp_pps": 2.0, "rx_syn_pps": 10.0,
        }  # fmt: skip

    host = Host(*(SimVm(name, script=ordinary) for name in "abc"), dom0()).run(120)

    assert not any(host.actions(name, SetLimit, Transition, Alert) for name in host.vms)


def test_contained_vm_that_still_tries_is_not_released_and_one_that_stops_is() -> None:
    flood = Flood("m", "v", "syn", 400, 10, end_s=620)
    host = Host(SimVm("m"), SimVm("v"), floods=(flood,)).run(620)
    assert host.state("m") is VmState.CONTAINED

    host.run(40)
    assert host.state("m") is VmState.NORMAL
    assert not host.vms["m"].limits
    assert host.vms["m"].level == 1


def test_attacker_that_begins_again_waits_longer_for_its_release() -> None:
    floods = (Flood("m", "v", "syn", 400, 10, 40), Flood("m", "v", "syn", 400, 100, 130))
    host = Host(SimVm("m"), SimVm("v"), floods=floods)
    host.run(90)
    assert host.state("m") is VmState.NORMAL
    host.run(40 + 40)
    assert host.state("m") is VmState.CONTAINED
    host.run(30)
    assert host.state("m") is VmState.NORMAL


def test_attack_in_short_bursts_adds_up() -> None:
    floods = tuple(Flood("m", "v", "syn", 2000, start, start + 2) for start in range(10, 300, 12))
    host = Host(SimVm("m"), SimVm("v"), floods=floods).run(120)

    assert Verdict.ATTACKER in {verdict for _t, verdict in host.verdicts("m")}


def test_operator_release_holds_for_a_while_and_then_the_attack_counts_again() -> None:
    host = Host(SimVm("m"), SimVm("v"), floods=(Flood("m", "v", "syn", 400, 10),))
    host.until("m", VmState.CONTAINED)

    actions = host.hsem.release(host.vms["m"].uuid, "operator:ann")
    host.apply(actions)
    assert any(isinstance(action, LiftLimit) for action in actions)
    assert "operator:ann" in next(action.why for action in actions if isinstance(action, Transition))
    assert not host.vms["m"].limits
    host.run(50)
    assert host.state("m") is VmState.NORMAL
    assert not host.vms["m"].limits
    host.run(30)
    assert host.state("m") is VmState.CONTAINED


@pytest.mark.parametrize("after_s", [16, 20, 60])
def test_restart_of_the_daemon_keeps_what_was_decided(after_s: int) -> None:
    host = Host(SimVm("m"), SimVm("v"), floods=(Flood("m", "v", "syn", 400, 10, 100),)).run(after_s)
    state, limits = host.state("m"), dict(host.vms["m"].limits)
    assert state is not VmState.NORMAL

    host.restart_daemon()
    assert host.state("m") is state
    said = [action for action in host.tick() if action.uuid == host.vms["m"].uuid]
    assert {a.key: a.value for a in said if isinstance(a, SetLimit)} == limits
    assert any(isinstance(a, OrderLevel) and a.level is Level.TWO for a in said)
    host.run(30)
    assert host.state("m") is VmState.CONTAINED
    host.run(100)
    assert host.state("m") is VmState.NORMAL
    assert not host.vms["m"].limits


def test_new_domid_is_told_again_what_holds() -> None:
    host = Host(SimVm("m"), SimVm("v"), floods=(Flood("m", "v", "syn", 400, 10),))
    host.until("m", VmState.CONTAINED)
    host.vms["m"].domid = 77  # it rebooted, or came back by migration

    said = [action for action in host.tick() if action.uuid == host.vms["m"].uuid]
    assert [a.key for a in said if isinstance(a, SetLimit)] == [SYN]


def test_vrem_is_asked_and_its_silence_is_named() -> None:
    for answers in (True, False):
        host = Host(SimVm("m", answers=answers), SimVm("v"), floods=(Flood("m", "v", "syn", 400, 10),)).run(
            40
        )
        assert len(host.actions("m", Ask)) == 1
        verdict = next(a for _t, a in host.actions("m", Transition) if a.verdict is Verdict.ATTACKER)
        text = verdict.evidence[-1].text
        assert ("load 12 %" in text) is answers
        assert ("did not answer" in text) is not answers


def test_silent_agent_is_told_of_while_its_vm_could_speak() -> None:
    host = Host(SimVm("a", silent_from_s=20), SimVm("b", silent_from_s=20), SimVm("c"))
    host.run(20)
    host.vms["b"].paused = True
    host.run(40)

    assert host.alerts("a") == ["silent-agent"]
    assert host.alerts("b") == []
    assert host.alerts("c") == []
    assert host.actions("a", Alert)[0][0] <= 20 + 30


def test_cpu_hog_is_capped_only_where_others_starve_and_for_long() -> None:
    def burns(_t: float) -> dict[str, float]:
        limit = host.vms["hog"].limits.get(CAP)
        return {"cpu_pct": 100.0, "vcpu_pct": 99.0 if limit is None else float(limit)}

    def waits(t: float) -> dict[str, float]:
        return {"steal_pct": 60.0 if t > 20 and CAP not in host.vms["hog"].limits else 5.0}

    host = Host(SimVm("hog", script=burns), SimVm("x", script=waits), SimVm("y", script=waits))
    host.run(45)
    assert not host.limited("hog")
    host.run(40)
    assert {a.key for _t, a in host.limited("hog")} == {CAP}
    assert not host.limited("x") + host.limited("y")

    alone = host = Host(SimVm("hog", script=burns), SimVm("x"), SimVm("y")).run(120)
    assert not alone.limited("hog")
    # One guest's word against another is a hint, no evidence.
    framed = host = Host(SimVm("hog", script=burns), SimVm("x", script=waits), SimVm("y")).run(120)
    assert not framed.limited("hog")


def test_dom0_is_never_limited_but_told_of() -> None:
    host = Host(
        SimVm(DOM0, vm_type=VmType.DOM0, script=lambda t: {"tx_syn_pps": 5000.0} if t > 5 else {})
    ).run(60)

    assert host.alerts(DOM0) == ["syn-flood"]
    assert not host.actions(DOM0, SetLimit, Transition)


def test_inbound_claims_of_a_guest_limit_nobody() -> None:
    """A guest that cries wolf makes itself a victim at most."""
    cries = SimVm("wolf", script=lambda t: {"rx_syn_pps": 90000.0, "rx_pps": 90001.0} if t > 5 else {})
    host = Host(cries, SimVm("a"), SimVm("b"), download()).run(120)

    assert not any(host.limited(name) for name in host.vms)


def test_level_that_an_operator_orders_outlasts_cases_and_restarts() -> None:
    host = Host(SimVm("m"), SimVm("v"), floods=(Flood("m", "v", "syn", 400, 20, 40),)).run(10)
    said = host.hsem.order_level(host.vms["m"].uuid, Level.TWO, "operator:ann")
    assert [action.level for action in said if isinstance(action, OrderLevel)] == [Level.TWO]
    host.apply(said)
    host.restart_daemon()
    host.run(150)
    assert host.verdict("m") is Verdict.ATTACKER
    assert host.state("m") is VmState.NORMAL
    assert host.vms["m"].level is Level.TWO
    said = host.hsem.order_level(host.vms["m"].uuid, Level.ONE, "operator:ann")
    assert [action.level for action in said if isinstance(action, OrderLevel)] == [Level.ONE]


def test_what_was_seen_before_the_agent_spoke_does_not_keep_the_vm_from_being_learnt() -> None:
    busy = {"tx_pps": 325.0, "rx_pps": 300.0, "tx_syn_pps": 30.0}
    host = Host(SimVm("v", script=lambda _t: busy), SimVm("x")).run(100)
    uuid = host.vms["v"].uuid
    upper = host.history.upper(uuid, "tx_syn_pps")
    assert upper is not None
    assert upper < host.policy.profiles["unknown"]["tx_syn_pps"]

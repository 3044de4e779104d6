# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several at once: floods made of small parts, from outside, and among neighbours that are noisy anyway."""

from __future__ import annotations

import pytest
from simulate import ICMP, SYN, UDP, Flood, Host, SimVm

from xenwarden_channel.signals import BY_DOM0, HEADERS
from xenwarden_host.hsem.traffic import TICKS, Traffic
from xenwarden_host.records import LimitKey, Verdict, VmState

THREE = ("a", "b", "c")


def fetches(since_s: float, name: str = "bystander") -> SimVm:
    """It downloads from the victim, from the second in which the flood begins."""
    busy = {"rx_pps": 300.0, "rx_bps": 3.6e6, "tx_pps": 150.0, "tx_bps": 80e3, "tx_syn_pps": 1.0}
    return SimVm(name, script=lambda t: busy if t > since_s else {})


def three(pps: float, kind: str = "syn", starts_s: tuple[float, ...] = (10, 10, 10)) -> tuple[Flood, ...]:
    return tuple(
        Flood(name, "v", kind, pps, start_s, 610, answered=0.2 if kind == "syn" else 0.0)
        for name, start_s in zip(THREE, starts_s, strict=True)
    )


@pytest.mark.parametrize("starts_s", [(10, 10, 10), (11, 12, 13), (10, 14, 18)])
@pytest.mark.parametrize(
    ("kind", "key", "pps"), [("syn", SYN, 90), ("syn", SYN, 70), ("udp", UDP, 450), ("icmp", ICMP, 45)]
)
def test_three_that_flood_one_are_found_each_below_what_is_usual_for_it(
    kind: str, key: LimitKey, pps: float, starts_s: tuple[float, ...]
) -> None:
    host = Host(*map(SimVm, THREE), SimVm("v"), fetches(10), floods=three(pps, kind, starts_s))
    host.run(60)

    for name in THREE:
        at_s, verdict = host.verdicts(name)[0]
        assert verdict is Verdict.ATTACKER
        assert at_s <= max(starts_s) + 30
        assert {action.key for _t, action in host.limited(name)} == {key}
        assert host.vms[name].limits[key] <= 0.2 * pps
    assert host.verdicts("v")[0][1] is Verdict.VICTIM
    assert not host.limited("v")
    assert not host.limited("bystander")


@pytest.mark.parametrize("restart", [False, True])
def test_they_are_released_once_they_stop_and_not_before(restart: bool) -> None:
    host = Host(*map(SimVm, THREE), SimVm("v"), floods=three(90)).run(60)
    if restart:
        host.restart_daemon()
    host.run(540)
    assert all(host.state(name) is VmState.CONTAINED for name in THREE)
    host.run(80)
    assert all(host.state(name) is VmState.NORMAL and not host.vms[name].limits for name in THREE)


def test_of_vms_without_agents_dom0s_own_sight_of_their_packets_tells() -> None:
    """dom0's agent looks at the vifs of who is at level 2; here from the beginning."""
    quiet = {f"{BY_DOM0}{name}": 0.2 for name in HEADERS}

    def mute(name: str) -> SimVm:
        flood = {"vif_tx_syn_pps": 90.2, "vif_tx_dests": 1.0, "vif_tx_top_share": 1.0}
        return SimVm(
            name, agent=False, base_hrem=quiet, script=lambda t: flood if t > 10 else {"vif_tx_dests": 1.0}
        )

    host = Host(*map(mute, THREE), SimVm("v"), fetches(10), floods=three(90)).run(60)

    assert {host.verdict(name) for name in THREE} == {Verdict.ATTACKER}
    assert {action.key for name in THREE for _t, action in host.limited(name)} == {SYN}
    assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("bystander")


def test_busy_senders_are_found_by_what_rises() -> None:
    """Each sends ten times as many packets of data as of the flood."""
    own = {"tx_pps": 900.0, "tx_bps": 6e6, "rx_pps": 900.0, "rx_bps": 2e6, "tx_syn_pps": 5.0,
           "rx_synack_pps": 5.0}  # fmt: skip
    host = Host(*(SimVm(name, base=own) for name in THREE), SimVm("v"), floods=three(90)).run(70)

    assert {host.verdict(name) for name in THREE} == {Verdict.ATTACKER}


def test_a_flood_from_outside_is_held_against_no_neighbour_that_begins_something_meanwhile() -> None:
    def flooded(t: float) -> dict[str, float]:
        return {"rx_syn_pps": 900.0, "rx_pps": 910.0, "rx_bps": 0.5e6, "tx_synack_pps": 800.0,
                "tx_pps": 810.0, "tx_bps": 0.4e6} if 10 < t < 100 else {}  # fmt: skip

    # Its server is down, and it tries again and again: nothing but SYN.
    tries = Flood("retries", "v", "syn", 40, 10)
    host = Host(SimVm("v", script=flooded), SimVm("retries"), fetches(10), floods=(tries,)).run(200)

    assert [verdict for _t, verdict in host.verdicts("v")] == [Verdict.VICTIM]
    assert not any(host.limited(name) for name in host.vms)
    assert not host.verdicts("retries")


def test_servers_whose_database_refuses_connections_are_no_flood() -> None:
    """Five try again 50 times a second each; the database's agent calls that a flood, and rightly so."""
    again = {"tcp_open_ps": 50.0, "tcp_fail_ps": 50.0}
    servers = [SimVm(f"s{n}", script=lambda t: again if t > 10 else {}) for n in range(5)]
    floods = tuple(Flood(server.name, "db", "syn", 50, 10) for server in servers)
    host = Host(*servers, SimVm("db"), floods=floods).run(120)

    for server in servers:
        assert Verdict.ATTACKER not in [verdict for _t, verdict in host.verdicts(server.name)]


def test_a_vm_that_cries_wolf_gets_nobody_limited() -> None:
    """It drops its clients' connections without a word, and tells of a flood where these try again."""

    def wolf(t: float) -> dict[str, float]:
        return {"rx_syn_pps": 900.0} if t > 10 else {}

    floods = tuple(Flood(name, "wolf", "syn", 30, 10) for name in THREE)
    host = Host(*map(SimVm, THREE), SimVm("wolf", script=wolf), floods=floods).run(120)

    assert not any(host.limited(name) for name in THREE)
    assert not any(host.verdicts(name) for name in THREE)


@pytest.mark.parametrize("pps", [400, 3000])
@pytest.mark.parametrize("attacker", ["quiet", "n3"])
def test_an_attacker_among_noisy_neighbours(attacker: str, pps: float) -> None:
    """The traffic of six jumps up and down all the time, not in step; a quiet one or one of them floods."""

    def noisy(name: str, period_s: int) -> SimVm:
        def jumps(t: float) -> dict[str, float]:
            times = 1 + 6 * (int(t) % period_s < period_s // 2)
            return {"tx_pps": 400.0 * times, "rx_pps": 500.0 * times, "tx_bps": 2e6 * times,
                    "rx_bps": 3e6 * times, "tx_syn_pps": 10.0 * times, "rx_synack_pps": 9.8 * times,
                    "rx_syn_pps": 12.0 * times, "tx_udp_pps": 30.0 * times, "rx_udp_pps": 29.0 * times,
                    "tcp_open_ps": 10.0 * times}  # fmt: skip

        return SimVm(name, script=jumps)

    names = [f"n{number}" for number in range(6)]
    host = Host(
        *(noisy(name, 7 + 4 * number) for number, name in enumerate(names)),
        SimVm("quiet"),
        SimVm("v"),
        floods=(Flood(attacker, "v", "syn", pps, 60, answered=0.3),),
    ).run(120)

    at_s, verdict = host.verdicts(attacker)[0]
    assert verdict is Verdict.ATTACKER
    assert at_s <= 90
    others = {*names, "quiet", "v"} - {attacker}
    assert not any(host.limited(name) for name in others)
    if attacker == "quiet":  # else its own jumps hide when its flood began
        assert host.verdict("v") is Verdict.VICTIM
        assert not any(host.verdicts(name) for name in others - {"v"})


@pytest.mark.parametrize(
    ("quiet_s", "own", "rises"), [(12, 10.0, True), (4, 10.0, True), (40, 3000.0, False)]
)
def test_gusts_of_a_flood_are_a_rise_and_the_ups_and_downs_of_a_busy_vm_are_none(
    quiet_s: int, own: float, rises: bool
) -> None:
    """On a busy emulated host nothing comes evenly."""
    traffic = Traffic()
    for t in range(TICKS):
        gust = (t * 7) % 5 / 4
        pps = own * (1 + 0.3 * gust) + (300.0 + 400.0 * gust if t >= quiet_s else 0.0)
        traffic.add(float(t), {"vif_tx_pps": pps, "vif_tx_bps": 480 * pps, "vif_rx_pps": 10.0})
    assert (traffic.sent() is not None) is rises

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slow HTTP: who holds a server's connections up is found and limited; who merely has many is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from simulate import SYN, Host, SimVm

from xenwarden_host.records import Level, LimitKey, OrderLevel, Verdict, VmState

if TYPE_CHECKING:
    from collections.abc import Callable

TCP = LimitKey.parse("vif-pps/tcp")
BEGIN_S = 30


def slow_http(rate: float, most: float, end_s: float = 1e9) -> Callable[[float], float]:
    """Return how many connections are open some seconds after."""

    def opened(t: float) -> float:
        return min(rate * max(0.0, t - BEGIN_S), most) if t < end_s else 0.0

    return opened


def attacker(opened: Callable[[float], float], every_s: float = 10) -> SimVm:
    def script(t: float) -> dict[str, float]:
        held = opened(t)
        rate = held - opened(t - 1)
        bits = held / every_s
        return {
            "tcp_held": 3 + held,
            "tcp_taken": 1.0,
            "tcp_stalling": opened(t - every_s) if held else 0.0,
            "tcp_open_ps": max(0.0, rate),
            "tx_syn_pps": max(0.2, rate),
            "rx_synack_pps": max(0.2, rate),
            "tx_pps": 10 + 3 * max(0.0, rate) + bits,
            "rx_pps": 10 + 2 * max(0.0, rate) + bits,
        }

    return SimVm("m", script=script)


def server(opened: Callable[[float], float], every_s: float = 10) -> SimVm:
    def script(t: float) -> dict[str, float]:
        held = opened(t)
        rate = max(0.0, held - opened(t - 1))
        bits = held / every_s
        return {
            "tcp_held": 2.0,
            "tcp_taken": 20 + held,
            "tcp_stalled": opened(t - every_s) if held else 0.0,
            "rx_syn_pps": 5 + rate,
            "tx_synack_pps": 5 + rate,
            "rx_pps": 60 + 3 * rate + bits,
            "tx_pps": 60 + 2 * rate + bits,
        }

    return SimVm("v", script=script)


@pytest.mark.parametrize(("rate", "most"), [(300, 4000), (50, 800), (25, 765), (20, 150)])
def test_who_holds_a_server_is_convicted_and_the_server_is_not_limited(rate: float, most: float) -> None:
    opened = slow_http(rate, most)
    host = Host(attacker(opened), server(opened), SimVm("x")).run(BEGIN_S + 40)
    ((when, verdict),) = host.verdicts("m")
    assert verdict is Verdict.ATTACKER
    assert when <= BEGIN_S + 30
    assert {limit.key for _t, limit in host.limited("m")} == {SYN, TCP}
    contained = {limit.key: limit.value for _t, limit in host.limited("m") if not limit.provisional}
    assert contained == {SYN: 10, TCP: 20}
    if most > 150:
        assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("v")
    assert not host.actions("x")


def test_bits_that_come_seldom_take_longer_and_are_found_all_the_same() -> None:
    opened = slow_http(50, 800)
    host = Host(attacker(opened, 45), server(opened, 45)).run(BEGIN_S + 80)
    assert host.verdict("m") is Verdict.ATTACKER


def test_agents_that_get_to_run_only_now_and_then_tell_enough() -> None:
    opened = slow_http(50, 800)
    vms = attacker(opened), server(opened)
    for vm in vms:
        vm.starved_s = 5
    host = Host(*vms).run(BEGIN_S + 60)
    assert host.verdict("m") is Verdict.ATTACKER
    assert host.verdict("v") is Verdict.VICTIM
    assert not host.limited("v")


def test_limits_last_as_long_as_connections_are_held_up() -> None:
    opened = slow_http(100, 1000, end_s=300)
    host = Host(attacker(opened), server(opened)).run(299)
    assert host.state("m") is VmState.CONTAINED
    host.until("m", VmState.NORMAL, 60)
    assert not host.vms["m"].limits
    host.until("v", VmState.NORMAL, 60)


def pool(t: float) -> dict[str, float]:
    return {"tcp_held": 600.0, "tcp_stalling": 0.0, "tx_pps": 40.0, "rx_pps": 40.0} if t > BEGIN_S else {}


def hanging_service(t: float) -> dict[str, float]:
    """Each request is sent whole, and waits for a minute."""
    held = 40 * min(max(0.0, t - BEGIN_S), 60)
    return {
        "tcp_held": held,
        "tcp_taken": held,
        "tcp_stalling": 0.0,
        "tx_syn_pps": 40.0,
        "rx_synack_pps": 40.0,
        "tcp_open_ps": 40.0,
        "tx_pps": 160.0,
        "rx_pps": 120.0,
    }


def proxy_of_slow_clients(t: float) -> dict[str, float]:
    """It hands on what others do to it."""
    held = 50 * min(max(0.0, t - BEGIN_S), 20)
    return {"tcp_held": held, "tcp_taken": held, "tcp_stalling": 0.0, "tcp_stalled": held, "tx_pps": 300.0}


def sends_logs(t: float) -> dict[str, float]:
    return {"tcp_held": 30.0, "tcp_stalling": 20.0, "tx_pps": 900.0, "rx_pps": 450.0} if t > BEGIN_S else {}


def crowd(t: float) -> dict[str, float]:
    """Visitors with keep-alive, a few of them behind bad lines."""
    rate = 180.0 if t > BEGIN_S else 5.0
    return {
        "tcp_taken": rate * 20,
        "tcp_stalled": rate,
        "rx_syn_pps": rate,
        "tx_synack_pps": rate,
        "tcp_drop_ps": 30.0 if t > BEGIN_S else 0.0,
        "rx_pps": rate * 9,
        "tx_pps": rate * 12,
        "tx_bps": rate * 12 * 9000,
    }


@pytest.mark.parametrize("work", [pool, hanging_service, sends_logs, crowd, proxy_of_slow_clients])
def test_many_connections_alone_are_no_attack_and_nothing_is_limited(
    work: Callable[[float], dict[str, float]],
) -> None:
    host = Host(SimVm("w", script=work), SimVm("x")).run(600)
    assert Verdict.ATTACKER not in {verdict for _t, verdict in host.verdicts("w")}
    assert not host.limited("w")
    if work is not proxy_of_slow_clients:
        assert host.verdict("w") in (None, Verdict.NEITHER)
        assert host.state("w") is VmState.NORMAL


def test_a_pool_that_is_there_all_day_is_soon_no_news() -> None:
    host = Host(SimVm("w", base={"tcp_held": 150.0, "tcp_stalling": 0.0}), SimVm("x")).run(3 * 3600)
    raised = [t for t, order in host.actions("w", OrderLevel) if order.level is Level.TWO]
    assert raised
    assert max(raised) < 7200


def test_clients_that_begin_as_a_service_overflows_are_not_taken_for_its_flooders() -> None:
    """A complaint about connections is none about packets."""

    def visitor(t: float) -> dict[str, float]:
        if t <= BEGIN_S:
            return {}
        return {"tx_syn_pps": 60.0, "tx_pps": 150.0, "rx_pps": 90.0, "tx_bps": 80e3, "rx_bps": 60e3}

    def overloaded(t: float) -> dict[str, float]:
        if t <= BEGIN_S:
            return {}
        return {"tcp_drop_ps": 60.0, "rx_syn_pps": 120.0, "rx_pps": 310.0, "rx_bps": 160e3, "tx_pps": 150.0}

    host = Host(SimVm("v", script=overloaded), SimVm("c", script=visitor), SimVm("d", script=visitor)).run(
        200
    )
    assert not host.actions("c")
    assert not host.actions("d")

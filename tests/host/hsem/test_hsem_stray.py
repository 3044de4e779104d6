# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP that belongs to no connection, in numbers: an attack, unless others provoke it."""

from __future__ import annotations

import pytest
from simulate import TCP, Flood, Host, SimVm

from xenwarden_host.records import Verdict


@pytest.mark.parametrize("pps", [300, 1000, 20000])
@pytest.mark.parametrize("busy", [False, True])
def test_a_flood_of_stray_tcp_is_limited_judged_and_nobody_else_touched(pps: float, *, busy: bool) -> None:
    base = {"tx_pps": 100.0, "rx_pps": 150.0, "rx_bps": 1e6, "tx_syn_pps": 5.0} if busy else {}
    flood = Flood("mallory", "victim", "stray", pps, 20, answered=0.9)
    host = Host(SimVm("mallory", base=base), SimVm("victim"), SimVm("bystander"), floods=(flood,)).run(60)

    assert host.verdicts("mallory")[0][1] is Verdict.ATTACKER
    assert host.verdicts("mallory")[0][0] - 20 <= 20
    assert host.limited("mallory")[0][0] - 20 <= 10
    assert set(host.vms["mallory"].limits) == {TCP}
    assert host.verdict("victim") is Verdict.VICTIM
    assert not host.limited("victim")
    assert not host.actions("bystander")


def test_a_flood_from_outside_finds_a_victim_and_no_attacker() -> None:
    def hit(t: float) -> dict[str, float]:
        rate = 800.0 if t > 20 else 0.0
        return {"rx_pps": rate, "tx_pps": 0.9 * rate, "tx_rst_pps": 0.9 * rate}

    host = Host(SimVm("victim", script=hit), SimVm("bystander")).run(60)
    assert host.verdict("victim") is Verdict.VICTIM
    assert not host.actions("bystander")


PROVOKED = {
    # Somebody outside floods closed ports in this VM's name.
    "resets": {"rx_pps": 500.0, "rx_rst_pps": 500.0},
    # Its open ports are scanned: it answers, and the scanner resets.
    "scanned": {
        "rx_pps": 1000.0, "rx_syn_pps": 500.0, "rx_rst_pps": 500.0, "tx_pps": 500.0, "tx_synack_pps": 500.0,
    },
    # It is sent stray packets and resets at once: what it sends are resets as well.
    "both": {"rx_pps": 1000.0, "rx_rst_pps": 500.0, "tx_pps": 500.0, "tx_rst_pps": 500.0},
    # Of its own connections most are refused: one of its servers is down.
    "refused": {
        "rx_pps": 400.0, "rx_rst_pps": 110.0, "tx_pps": 300.0, "tx_syn_pps": 150.0, "tcp_fail_ps": 110.0,
        "tcp_open_ps": 150.0, "rx_synack_pps": 40.0,
    },
    # Its many clients abort what they have begun to read.
    "aborted": {
        "rx_pps": 900.0, "rx_syn_pps": 150.0, "rx_rst_pps": 150.0, "tx_pps": 1500.0, "tx_synack_pps": 150.0,
        "tx_bps": 12e6,
    },
}  # fmt: skip


@pytest.mark.parametrize("what", PROVOKED)
def test_what_others_provoke_convicts_nobody(what: str) -> None:
    host = Host(SimVm("v", script=lambda t: PROVOKED[what] if t > 20 else {}), SimVm("x")).run(90)
    assert host.verdict("v") is not Verdict.ATTACKER
    assert TCP not in {limit.key for _t, limit in host.limited("v")}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals out of counters, and reports out of signals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenwarden_channel.messages import parse
from xenwarden_channel.paths import MAX_MESSAGE_BYTES
from xenwarden_channel.signals import SIGNALS, VREM, VSEM, names
from xenwarden_guest import report
from xenwarden_guest.level import State
from xenwarden_guest.vrem import signals as vrem
from xenwarden_guest.vsem import signals as vsem

BEFORE = {
    "tcp_opens": 100,
    "tcp_fails": 0,
    "tcp_retrans": 0,
    "udp_errors": 5,
    "hv_events": 1000,
    "hv_blk_requests": 10,
    "cpu_total": 1000,
    "cpu_busy": 300,
    "cpu_steal": 100,
    "cpus": 2,
    "running": 5,
    "forks": 50,
    "mem_total_kb": 1000,
    "mem_available_kb": 250,
    "swap_total_kb": 0,
    "swap_free_kb": 0,
    "disk_bytes": 0,
    "psi_cpu_usecs": 0,
    "psi_mem_usecs": 0,
    "psi_io_usecs": 0,
}
AFTER = BEFORE | {
    "tcp_opens": 150,
    "hv_events": 1500,
    "cpu_total": 2000,
    "cpu_busy": 800,
    "cpu_steal": 350,
    "forks": 60,
    "disk_bytes": 1000,
    "psi_io_usecs": 2_500_000,
}


def test_rates_are_per_second_and_shares_of_what_the_vcpus_could_give() -> None:
    found = vsem.signals(BEFORE, AFTER, 5.0) | vrem.signals(BEFORE, AFTER, 5.0)
    assert found["tcp_open_ps"] == 10
    assert found["hv_event_ps"] == 100
    assert found["cpu_pct"] == 50
    assert found["steal_pct"] == 25
    assert found["run_queue"] == 2  # five run, one of them is the agent, two vCPUs
    assert found["mem_used_pct"] == 75
    assert found["swap_used_pct"] == 0
    assert found["disk_bps"] == 1600
    assert found["psi_io_pct"] == 50
    assert found["fork_ps"] == 2


def test_a_counter_that_went_back_or_is_missing_is_a_gap_not_a_zero() -> None:
    reset = AFTER | {"tcp_opens": 3}
    del reset["hv_events"]
    found = vsem.signals(BEFORE, reset, 5.0)
    assert "tcp_open_ps" not in found
    assert "hv_event_ps" not in found
    assert found["udp_error_ps"] == 0


COUNTERS = st.fixed_dictionaries({}, optional=dict.fromkeys(BEFORE, st.integers(0, 2**64 - 1)))


def whole(counters: dict[str, int]) -> dict[str, int]:
    """Keep only what collectors give together."""
    out = dict(counters)
    for group in (("running", "cpus", "forks", "cpu_total", "cpu_busy", "cpu_steal"), ("mem_total_kb",)):
        if any(name not in out for name in group):
            for name in group:
                out.pop(name, None)
    for name in ("mem_available_kb", "swap_total_kb", "swap_free_kb"):
        out.setdefault(name, 0)
    out["cpus"] = max(1, out.get("cpus", 1))
    return out


@given(COUNTERS, COUNTERS, st.floats(0, 1e6))
def test_no_signal_is_ever_negative_or_more_than_a_share_can_be(
    before: dict[str, int], after: dict[str, int], seconds: float
) -> None:
    before, after = whole(before), whole(after)
    for name, value in (vsem.signals(before, after, seconds) | vrem.signals(before, after, seconds)).items():
        assert value >= 0
        if name.endswith("_pct"):
            assert value <= 100


def test_near_capacity_counts_intervals_of_cpu_or_memory_and_forgets_old_ones() -> None:
    load = vrem.Load()
    for cpu, memory in ((96.0, 10.0), (10.0, 99.0), (94.0, 94.0)):
        load.add({"cpu_pct": cpu, "mem_used_pct": memory}, 5.0)
    assert (load.near_max, load.near_max_of) == (2, 3)
    load.add({}, 5.0)  # nothing measured: nothing known
    assert load.near_max_of == 3
    for _ in range(100):
        load.add({"cpu_pct": 1.0, "mem_used_pct": 1.0}, 5.0)
    assert (load.near_max, load.near_max_of) == (0, 60)
    assert load.load_pct is not None
    assert load.load_pct < 2


OWN: dict[str, str | float] = {
    "boot": "0123abcd",
    "interval": 5.0,
    "cpu_ms": 12.5,
    "up_s": 100.0,
    "rss_kb": 10000.0,
}


def test_the_fullest_report_fits_one_value_and_reads_back() -> None:
    signals = dict.fromkeys(names(VSEM, VREM), 123456789012.345)
    state = State()
    state.level, state.why, state.over = 2, "tx_syn_pps", tuple(names(VSEM, VREM))
    raw = report.report(7, OWN, state=state, signals=signals, load=vrem.Load(), missing=["snmp"] * 50)
    assert len(raw) <= MAX_MESSAGE_BYTES
    message = parse(raw, "report")
    assert message.fields["why"] == "tx_syn_pps"
    assert message.fields["missing"].startswith("snmp,snmp")
    assert all(message.number(name) == 123456789012.345 for name in signals)


def test_detail_keeps_as_many_peers_as_fit() -> None:
    peers = ["2001:db8:1111:2222:3333:4444:5555:6666,other,65535,1234567890.1,1234567890.1"] * 8
    message = parse(report.detail(1, peers, peers), "detail")
    assert message.fields["d7"] == peers[0]
    assert parse(report.detail(1, [], []), "detail").fields == {}


def test_an_answer_says_what_is_known() -> None:
    load = vrem.Load()
    assert "load_pct" not in parse(report.answer(1, "77", load, {}), "answer").fields
    load.add({"cpu_pct": 97.0}, 5.0)
    fields = parse(report.answer(2, "77", load, {"cpu_pct": 97.0, "steal_pct": 1.0}), "answer").fields
    assert (fields["id"], fields["load_pct"], fields["near_max"], fields["cpu_pct"]) == (
        "77",
        "97",
        "1",
        "97",
    )


def test_noise_is_not_worth_a_write_and_a_change_is() -> None:
    idle = {"tx_pps": 2.0, "cpu_pct": 1.0, "tx_dests": 2.0}
    assert not report.changed(idle, {"tx_pps": 9.0, "cpu_pct": 4.0, "tx_dests": 4.0}, {})
    assert report.changed(idle, {"tx_pps": 200.0, "cpu_pct": 1.0, "tx_dests": 2.0}, {})
    assert report.changed(idle, {"tx_pps": 2.0, "cpu_pct": 40.0, "tx_dests": 2.0}, {"cpu_pct": 60.0})
    assert report.changed(idle, {"tx_pps": 2.0, "cpu_pct": 1.0}, {})


def test_every_signal_that_the_agent_makes_is_in_the_table() -> None:
    made = set(vsem.signals(BEFORE, AFTER, 5.0)) | set(vrem.signals(BEFORE, AFTER, 5.0))
    assert made <= set(SIGNALS)
    assert {SIGNALS[name][0] for name in made} == {VSEM, VREM}


def test_half_open_connections_of_clients_are_no_failed_attempts_of_the_vm() -> None:
    # Under a SYN flood the victim's kernel counts each half-open connection that it gave up.
    flooded = BEFORE | {"tcp_fails": 5000}
    assert vsem.signals(BEFORE, flooded, 5.0)["tcp_fail_ps"] == 0
    scanning = BEFORE | {"tcp_opens": 5100, "tcp_fails": 4000}
    assert vsem.signals(BEFORE, scanning, 5.0)["tcp_fail_ps"] == 800

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hypercalls by kind from Xen's trace: what the records tell, and who else traces is let alone."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_host.errors import HypervisorError
from xenwarden_host.hrem import hypercalls
from xenwarden_host.hrem.tracing import EVERY_S, Tracing
from xenwarden_host.libxl.fake import ALL_TRACED, FakeHypervisor

if TYPE_CHECKING:
    from pathlib import Path

RUNS, WAITS, STAYS = 0x21201, 0x21031, 0x21002
CALL, TRAP, EXIT, LOST, WRAP = 0x20100D, 0x201003, 0x81102, 0x1F001, 0x1F002


def record(event: int, at: int, *data: int) -> bytes:
    """Return a record as Xen writes it, with the time."""
    return struct.pack(
        f"<{3 + len(data)}I", event | len(data) << 28 | 1 << 31, at & 0xFFFFFFFF, at >> 32, *data
    )


def runs(domid: int, at: int, event: int = RUNS) -> bytes:
    return record(event, at, domid << 16 | 1)


def test_what_stands_between_two_turns_was_done_by_the_one_who_had_the_cpu() -> None:
    first = b"".join(
        [
            record(CALL, 5, 32),  # before the first turn: nobody knows whose
            runs(7, 1_000),
            record(CALL, 1_100, 32),
            record(CALL, 1_200, 1 | 1 << 22, 3),  # with its count of updates
            runs(9, 1_250, WAITS),  # somebody is woken: that is no turn
            record(TRAP, 1_300, 14),
            struct.pack("<I", WRAP | 0 << 28),  # without a time
            runs(9, 2_000),
            record(CALL, 2_500, 17),
            runs(9, 3_000, STAYS),
            record(CALL, 3_500, 13, 4),
        ]
    )
    second = runs(7, 1 << 33) + record(CALL, (1 << 33) + 600, 20)
    seen = hypercalls.count([first, second])
    assert seen[7].cycles == 1_000 + 600
    assert seen[7].counts == {
        "hypercall_ps": 3,
        "hypercall_io_ps": 2,
        "hypercall_memory_ps": 1,
        "xen_fault_ps": 1,
    }
    assert seen[9].cycles == 1_500
    assert seen[9].counts == {"hypercall_ps": 2, "hypercall_other_ps": 1, "hypercall_batch_ps": 1}


def test_of_a_pvh_guest_exits_count_and_those_that_are_hypercalls() -> None:
    records = runs(3, 0) + record(EXIT, 10, 0x81, 0, 0) + record(EXIT, 20, 0x78, 0, 0) + record(EXIT, 30, 18)
    assert hypercalls.count([records])[3].counts == {"vm_exit_ps": 3, "hypercall_ps": 2}


def test_after_lost_records_nobody_knows_who_runs() -> None:
    records = runs(3, 0) + record(LOST, 100, 5, 0, 0, 0) + record(CALL, 110, 1)
    assert not hypercalls.count([records])[3].counts


@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([RUNS, CALL, RUNS | 9 << 28, EXIT | 1 << 31])))
def test_any_words_are_read_to_their_end(words: list[int]) -> None:
    for seen in hypercalls.count([struct.pack(f"<{len(words)}I", *words)]).values():
        assert set(seen.counts) <= set(hypercalls.SIGNALS)


class Host:
    """A machine with one tracing daemon."""

    def __init__(self, folder: Path) -> None:
        self.xen = FakeHypervisor()
        self.proc = folder / "proc"
        self.proc.mkdir()
        self.marker = folder / "trace"
        self.now_s = 0.0
        self.start()

    def start(self) -> None:
        self.tracing = Tracing(self.xen, self.marker, self.proc)
        self.tracing.stop_left()

    def tick(self, *domids: int, passed_s: float = 1.0) -> None:
        self.now_s += passed_s
        self.tracing.tick(dict.fromkeys(domids, 0.5), self.now_s)

    def xentrace(self) -> None:
        (self.proc / "77").mkdir()
        (self.proc / "77/comm").write_text("xentrace\n")

    def signals(self, domid: int) -> dict[str, float]:
        return self.tracing.signals(domid, self.now_s)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    # 2 ms of CPU at the fake's 1 GHz, and ten hypercalls in them.
    host.xen.traced = [runs(7, 0) + b"".join(record(CALL, n, 32) for n in range(1, 11)) + runs(0, 2_000_000)]
    return host


def test_nobody_watched_nothing_traced(host: Host) -> None:
    host.tick()
    assert not host.xen.trace_state().made
    assert not host.xen.trace_on


def test_a_watched_vm_is_traced_for_a_tick_and_its_rate_follows_its_cpu_time(host: Host) -> None:
    host.tick(7)
    assert host.xen.trace_on
    assert host.xen.trace_mask == hypercalls.MASK
    host.tick(7)
    assert not host.xen.trace_on
    assert host.xen.trace_mask == ALL_TRACED
    assert host.signals(7) == {"hypercall_ps": 2500.0, "hypercall_io_ps": 2500.0}
    assert host.signals(8) == {}
    assert host.tracing.cost is not None
    host.tick(7)
    assert not host.xen.trace_on, "a burst at each tick"
    host.tick(7, passed_s=EVERY_S)
    assert host.xen.trace_on


def test_what_is_old_or_of_nobody_watched_is_not_told(host: Host) -> None:
    host.tick(7)
    host.tick(7)
    host.now_s += 10 * EVERY_S
    assert host.signals(7) == {}
    host.tick(7)
    host.tick(7)
    assert host.signals(7)
    host.tick()
    assert host.signals(7) == {}


def test_it_yields_to_xentrace(host: Host) -> None:
    host.xentrace()
    host.tick(7)
    assert not host.xen.trace_on
    assert host.tracing.yields == "xentrace runs"


def test_it_never_uses_buffers_that_others_made(host: Host) -> None:
    host.xen.trace_positions = [(0, 0)]
    host.tick(7)
    assert not host.xen.trace_on
    assert "others" in host.tracing.yields


def test_an_xentrace_that_comes_in_the_middle_goes_on_with_the_mask_that_it_would_have_had(
    host: Host,
) -> None:
    host.tick(7)
    host.xentrace()
    host.tick(7)
    assert host.xen.trace_on
    assert host.xen.trace_mask == ALL_TRACED
    assert host.signals(7) == {}


def test_who_sets_a_mask_in_the_middle_keeps_it(host: Host) -> None:
    host.tick(7)
    host.xen.trace_mask = 0x0002F000
    host.tick(7)
    assert host.xen.trace_on
    assert host.xen.trace_mask == 0x0002F000


def test_who_traces_in_our_buffers_without_a_process_is_let_alone_until_nothing_moves(host: Host) -> None:
    host.tick(7)
    host.tick(7)
    host.xen.trace_positions = [(0, 400)] * 4
    host.tick(7, passed_s=EVERY_S)
    assert not host.xen.trace_on
    host.tick(7, passed_s=EVERY_S)
    assert host.xen.trace_on


def test_the_next_daemon_or_the_fail_safe_stops_what_a_dead_one_left_on(host: Host) -> None:
    host.tick(7)
    host.start()
    assert not host.xen.trace_on
    assert host.xen.trace_mask == ALL_TRACED
    host.tick(7)
    host.tick(7, passed_s=EVERY_S)
    assert host.xen.trace_on, "the buffers are still ours"


def test_what_others_trace_is_not_stopped_by_a_start(host: Host) -> None:
    host.tick(7)
    host.tick(7)
    host.xen.trace_on = True
    host.start()
    assert host.xen.trace_on


def test_a_daemon_that_ends_stops_it(host: Host) -> None:
    host.tick(7)
    host.tracing.close()
    assert not host.xen.trace_on


def test_where_xen_refuses_nothing_is_left_to_stop(host: Host) -> None:
    host.xen.refuse.add("start_trace")
    with pytest.raises(HypervisorError):
        host.tick(7)
    host.xen.refuse.clear()
    host.tick(7)
    assert host.xen.trace_mask == ALL_TRACED

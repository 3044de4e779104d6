# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: hypercalls by kind of watched VMs, from short bursts of Xen's trace, one for all of them.

Xen's trace is one for the whole host, and its buffers stay until the host reboots. So it is ours only in
buffers that we made, of which a file tells that a reboot takes away, and only while nobody else traces.
Whether tracing is on Xen tells nobody; but who traces has a process, sets a mask, or moves what was read
and written. A burst ends with the next tick; what is more than the buffers hold is not recorded, and of that
no more is read than tells how often a VM does what.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from xenwarden_host.errors import HypervisorError
from xenwarden_host.hrem import hypercalls, sysfs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from xenwarden_host.protocols import Hypervisor

PAGES = 32  # for each CPU, as xentrace makes by default: who traces after us gets no less
EVERY_S = 4.0  # from one burst to the next
CPUS = 4  # of so many a burst is read, those that recorded most
SIZE = 16384  # bytes of each: some 800 records
_BURSTS = 3  # what was seen is no older than this
_TRACER = b"xentrace"


class Cost(NamedTuple):
    """What the last burst took."""

    read_kb: float
    took_ms: float


class Tracing:
    """Bursts for VMs at level 2.

    Args:
        hypervisor: Xen.
        marker: a file that a reboot takes away. It is there when the buffers are ours; while we trace, the
            mask that was there before stands in it.
        proc: where processes are.

    Attributes:
        cost: of the last burst, None before there was one.
        yields: why there are none, in words; empty where nothing is in the way.
    """

    def __init__(self, hypervisor: Hypervisor, marker: Path, proc: Path) -> None:
        self._xen = hypervisor
        self._marker = marker
        self._proc = proc
        self._khz: int | None = None
        self._due_s = float("-inf")
        self._on = False
        self._left: tuple[tuple[int, int], ...] | None = None  # the positions when we stopped
        self._seen: dict[int, tuple[float, dict[str, float]]] = {}  # by domid: when, and what
        self.cost: Cost | None = None
        self.yields = ""

    def stop_left(self) -> None:
        """Stop what a daemon that died in a burst has left on.

        Raises:
            HypervisorError: Xen refuses.
        """
        mask = self._mask_before()
        if mask is not None:
            self._stop(mask)

    def tick(self, cpus_used: Mapping[int, float], now_s: float) -> None:
        """End a burst, and begin one where it is due and somebody is watched.

        Args:
            cpus_used: how many CPUs each watched domain used since the last tick, by domid.
            now_s: now.

        Raises:
            HypervisorError: Xen refuses.
        """
        if self._on:
            self._end(cpus_used, now_s)
        for domid in self._seen.keys() - cpus_used.keys():
            del self._seen[domid]
        if cpus_used and now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            self.yields = self._in_the_way()
            if not self.yields:
                self._begin()

    def signals(self, domid: int, now_s: float) -> dict[str, float]:
        """Return the signals of a domain, of the last burst that saw it; empty where that is long ago."""
        at_s, seen = self._seen.get(domid, (float("-inf"), {}))
        return seen if now_s - at_s <= _BURSTS * EVERY_S else {}

    def close(self) -> None:
        """Stop what is on. Never raises."""
        if self._on:
            try:
                self.stop_left()
            except HypervisorError:
                return  # the fail-safe will
            self._on = False

    def _begin(self) -> None:
        self._marker.write_text(f"{self._xen.trace_state().mask:#x}\n", encoding="ascii")
        self._on = True
        self._xen.start_trace(hypercalls.MASK, PAGES)

    def _end(self, cpus_used: Mapping[int, float], now_s: float) -> None:
        """Stop, read and count.

        What the buffers hold may be much shorter than the turns that domains take. So it only tells how often
        a domain asks in a second of CPU time; how much of that it had in the whole burst is known.
        """
        start = time.process_time()
        self._on = False
        mask = self._mask_before()
        if mask is None or not self._stop(mask):
            return
        records = self._xen.take_trace(CPUS, SIZE)
        self._left = self._xen.trace_state().positions
        if self._khz is None:
            self._khz = self._xen.host_info().cpu_khz
        for domid, seen in hypercalls.count(records).items():
            if domid in cpus_used and seen.cycles and self._khz:
                per_s = cpus_used[domid] * 1000 * self._khz / seen.cycles
                self._seen[domid] = (now_s, {name: n * per_s for name, n in seen.counts.items()})
        size = sum(map(len, records))
        self.cost = Cost(size / 1024, 1000 * (time.process_time() - start))

    def _stop(self, mask: int) -> bool:
        """Stop our tracing and put the mask back; return False where somebody else has taken it over."""
        ours = self._xen.trace_state().mask == hypercalls.MASK
        taken = self._tracer() or not ours
        if not taken:
            self._xen.stop_trace()
        if ours:
            self._xen.set_trace_mask(mask)
        self._marker.write_text("", encoding="ascii")
        return not taken

    def _in_the_way(self) -> str:
        """Return why no burst may begin now, in words."""
        if self._tracer():
            return "xentrace runs"
        state = self._xen.trace_state()
        if not state.made:
            return ""
        if not self._marker.exists():
            return "others made Xen's trace buffers"
        if state.positions != self._left:
            first, self._left = self._left is None, state.positions
            # After a restart of ours nothing is known: if it stays so until the next turn, nobody traces.
            return "xenwardend has just begun" if first else "others trace"
        return ""

    def _mask_before(self) -> int | None:
        """Return the mask to put back where we trace, or died while we did."""
        try:
            return int(self._marker.read_text(encoding="ascii"), 16)
        except (OSError, ValueError):
            return None

    def _tracer(self) -> bool:
        """Tell whether somebody's xentrace runs."""
        return any(
            sysfs.word(f"{self._proc}/{pid}/comm") == _TRACER
            for pid in sysfs.listing(str(self._proc))
            if pid.isdigit()
        )

# SPDX-License-Identifier: LGPL-2.1-or-later
"""VREM's signals from two readings of the collectors; pure."""

from __future__ import annotations

from xenwarden_guest.delta import rates, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NEAR_MAX_PCT = 95.0  # from here an interval counts as near capacity
NEAR_MAX_INTERVALS = 60  # how many intervals are remembered
_PSI = {"psi_cpu_pct": "psi_cpu_usecs", "psi_mem_pct": "psi_mem_usecs", "psi_io_pct": "psi_io_usecs"}
_USECS_TO_PCT = 100 / 1e6
_LOAD_WINDOW_S = 10.0


def signals(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> dict[str, float]:
    """Return the VREM signals that the two readings, `seconds` apart, allow."""
    found = _cpu(before, after, seconds)
    if "running" in after:
        # The agent itself runs while it reads.
        found["run_queue"] = max(0, after["running"] - 1) / after["cpus"]
    total = after.get("mem_total_kb")
    if total:
        found["mem_used_pct"] = 100.0 * max(0, total - after["mem_available_kb"]) / total
        swap = after["swap_total_kb"]
        found["swap_used_pct"] = 100.0 * max(0, swap - after["swap_free_kb"]) / swap if swap else 0.0
    found.update(rates(before, after, {"disk_bps": "disk_bytes"}, seconds, 8))
    found.update(rates(before, after, {"fork_ps": "forks"}, seconds))
    for name, value in rates(before, after, _PSI, seconds, _USECS_TO_PCT).items():
        found[name] = min(100.0, value)
    return found


def _cpu(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> dict[str, float]:
    total = step(before, after, "cpu_total", seconds)
    if not total:
        return {}
    found = {}
    for name, counter in (("cpu_pct", "cpu_busy"), ("steal_pct", "cpu_steal")):
        moved = step(before, after, counter, seconds)
        if moved is not None:
            # idle and iowait may go back a tick, so that a part can exceed the whole
            found[name] = min(100.0, 100.0 * moved / total)
    return found


class Load:
    """How near its capacity the VM was, over the last intervals."""

    __slots__ = ("_count", "_history", "load_pct")

    def __init__(self) -> None:
        self._history = 0  # one bit per interval, newest lowest
        self._count = 0
        self.load_pct: float | None = None  # highest of CPU and memory use, smoothed over about 10 s

    def add(self, found: Mapping[str, float], seconds: float) -> None:
        """Take one interval's signals into account."""
        peak = max(found.get("cpu_pct", -1.0), found.get("mem_used_pct", -1.0))
        if peak < 0:
            return
        self._history = (self._history << 1 | (peak >= NEAR_MAX_PCT)) & ((1 << NEAR_MAX_INTERVALS) - 1)
        self._count = min(self._count + 1, NEAR_MAX_INTERVALS)
        weight = min(1.0, seconds / _LOAD_WINDOW_S)
        self.load_pct = peak if self.load_pct is None else self.load_pct + weight * (peak - self.load_pct)

    @property
    def near_max(self) -> int:
        """Return how many of the intervals were near capacity."""
        return self._history.bit_count()

    @property
    def near_max_of(self) -> int:
        """Return how many intervals are remembered."""
        return self._count

# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU time, run queue and forks: /proc/stat."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, line_after, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

# user nice system idle iowait irq softirq steal; guest time is within user.
_FIELDS = 8
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


def collect(roots: Roots) -> dict[str, int]:
    """Return cpu_total, cpu_busy and cpu_steal (ticks), cpus, running and forks.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    return parse(roots.lines("stat"))


def parse(text: bytes) -> dict[str, int]:
    """Parse the lines `cpu`, `cpuN` (counted only), `processes` and `procs_running`.

    Raises:
        Unparsable: one of them is missing or malformed.
    """
    ticks = [number(word) for word in line_after(text, b"cpu ").split()[:_FIELDS]]
    cpus = text.count(b"\ncpu")
    if len(ticks) < _FIELDS or not cpus:
        raise Unparsable("CPU counters not found")
    total = sum(ticks)
    return {
        "cpu_total": total,
        "cpu_steal": ticks[_STEAL],
        "cpu_busy": total - ticks[_IDLE] - ticks[_IOWAIT] - ticks[_STEAL],
        "forks": number(line_after(text, b"\nprocesses ").strip()),
        "running": number(line_after(text, b"\nprocs_running ").strip()),
        "cpus": cpus,
    }

# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU time, run queue and forks: /proc/stat."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, number

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
    found: dict[str, int] = {}
    cpus = 0
    for line in text.split(b"\n"):
        if line.startswith(b"cpu "):
            ticks = [number(word) for word in line.split()[1 : _FIELDS + 1]]
            if len(ticks) < _FIELDS:
                raise Unparsable("short line")
            total = sum(ticks)
            found["cpu_total"] = total
            found["cpu_steal"] = ticks[_STEAL]
            found["cpu_busy"] = total - ticks[_IDLE] - ticks[_IOWAIT] - ticks[_STEAL]
        elif line.startswith(b"cpu"):
            cpus += 1
        elif line.startswith(b"processes "):
            found["forks"] = number(line[10:].strip())
        elif line.startswith(b"procs_running "):
            found["running"] = number(line[14:].strip())
    if len(found) != 5 or not cpus:
        raise Unparsable("CPU counters not found")
    found["cpus"] = cpus
    return found

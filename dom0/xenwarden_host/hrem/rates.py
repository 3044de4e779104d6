# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turn counters into rates. A counter that restarts, or a device that comes or goes, gives a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Counts = dict[str, int]  # of one device, by counter
Counters = dict[str, Counts]  # by device


def rates(before: Mapping[str, Mapping[str, int]], now: Counters, interval_s: float) -> dict[str, float]:
    """Return each counter's rate per second, summed over devices.

    A counter is left out where any device did not have it before, has it no more, or shows less than
    before: half a sum would be a lie, and the difference of a restarted counter a spike.
    """
    out: dict[str, float] = {}
    gaps: set[str] = set()
    for device, counters in now.items():
        old = before.get(device)
        for name, value in counters.items():
            if old is None or name not in old or value < old[name]:
                gaps.add(name)
            else:
                out[name] = out.get(name, 0.0) + (value - old[name]) / interval_s
    for device in before.keys() - now.keys():
        gaps.update(before[device])
    for name in gaps:
        out.pop(name, None)
    return out

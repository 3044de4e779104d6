# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turn counters into rates. A counter that restarts, or a device that comes or goes, never gives a spike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Counts = dict[str, int]  # of one device, by counter
Counters = dict[str, Counts]  # by device


def rates(before: Mapping[str, Mapping[str, int]], now: Counters, interval_s: float) -> dict[str, float]:
    """Return each counter's rate per second, summed over devices.

    What is counted for sure counts: a VM must not hide one device behind another that it makes come and go.
    A counter that restarted has counted what it shows; of a device that just came or went nothing is known.
    A counter of which no device tells anything is left out.
    """
    out: dict[str, float] = {}
    for device, counters in now.items():
        old = before.get(device)
        for name, value in counters.items():
            if old is not None and name in old:
                passed = value - old[name] if value >= old[name] else value
                out[name] = out.get(name, 0.0) + passed / interval_s
    return out

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
    sums: dict[str, int] = {}
    for device, counters in now.items():
        old = before.get(device)
        if old is None:
            continue
        for name, value in counters.items():
            if name in old:
                passed = value - old[name]
                if passed < 0:
                    passed = value
                sums[name] = sums[name] + passed if name in sums else passed
    return {name: passed / interval_s for name, passed in sums.items()}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: packets, bytes and drops of each VM's vifs, from `/sys/class/net/vifD.N/statistics`.

What a vif receives is what its guest sent, counted before any limit of ours on that vif drops it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from xenwarden_host.hrem import sysfs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xenwarden_host.hrem.rates import Counters

# sysfs name: the signal that its rate is, from the guest's side.
COUNTERS = {
    "rx_packets": "vif_tx_pps",
    "rx_bytes": "vif_tx_bps",
    "tx_packets": "vif_rx_pps",
    "tx_bytes": "vif_rx_bps",
    "tx_dropped": "vif_rx_drop_pps",
}
_NAME = re.compile(r"vif([0-9]{1,5})\.[0-9]{1,5}(-emu)?")


def parse_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the vifs of each domid. `vifD.N-emu` is the emulated card of an HVM guest: also its own."""
    found: dict[int, list[str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(name)
    return found


def collect(sys_root: Path) -> dict[int, Counters]:
    """Read all vifs of the host in one pass; a vif that goes away meanwhile is left out."""
    root = os.path.join(sys_root, "class/net")  # noqa: PTH118 - a hot path
    out: dict[int, Counters] = {}
    for domid, names in parse_names(sysfs.listing(root)).items():
        devices = {name: sysfs.numbers(f"{root}/{name}/statistics", COUNTERS) for name in names}
        out[domid] = {name: counters for name, counters in devices.items() if counters}
    return out

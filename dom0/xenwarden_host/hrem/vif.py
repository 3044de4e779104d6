# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: packets, bytes and drops of each VM's vifs, from `/sys/class/net/vifD.N/statistics`.

What a vif receives is what its guest sent, counted before any limit of ours on that vif drops it. What
is dropped of that is lost in dom0's own queues; what is dropped on its way to the guest, the guest did
not take.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xenwarden_host.hrem.sysfs import by_domid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenwarden_host.hrem.rates import Counts
    from xenwarden_host.hrem.sysfs import Files

DIRECTORY = "class/net"
# sysfs name: the signal that its rate is, from the guest's side.
COUNTERS = {
    "rx_packets": "vif_tx_pps",
    "rx_bytes": "vif_tx_bps",
    "rx_dropped": "vif_tx_drop_pps",
    "tx_packets": "vif_rx_pps",
    "tx_bytes": "vif_rx_bps",
    "tx_dropped": "vif_rx_drop_pps",
}
_NAME = re.compile(r"vif([0-9]{1,5})\.[0-9]{1,5}(-emu)?")


def parse_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the vifs of each domid. `vifD.N-emu` is the emulated card of an HVM guest: also its own."""
    return by_domid(names, _NAME)


def read(files: Files, directory: str) -> Counts:
    """Return the counters of the vif at `directory`; empty where it is coming or going."""
    return files.numbers(f"{directory}/statistics", COUNTERS)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: requests to each VM's block backends, from `/sys/bus/xen-backend/devices/vbd-D-N/statistics`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xenwarden_host.hrem import sysfs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xenwarden_host.hrem.rates import Counters

# Reads, writes, flushes and discards; `oo_req` counts waiting, not requests.
COUNTERS = {name: name for name in ("rd_req", "wr_req", "f_req", "ds_req")}
SIGNAL = "vbd_rps"
_NAME = re.compile(r"vbd-([0-9]{1,5})-[0-9]{1,10}")


def parse_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the block devices of each domid."""
    found: dict[int, list[str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(name)
    return found


def collect(sys_root: Path) -> dict[int, Counters]:
    """Read all block devices of the host in one pass, each as one count of requests."""
    root = f"{sys_root}/bus/xen-backend/devices"
    out: dict[int, Counters] = {}
    for domid, names in parse_names(sysfs.listing(root)).items():
        devices = {name: sysfs.numbers(f"{root}/{name}/statistics", COUNTERS) for name in names}
        out[domid] = {name: {SIGNAL: sum(counts.values())} for name, counts in devices.items() if counts}
    return out

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: requests to each VM's block backends, from `/sys/bus/xen-backend/devices/vbd-D-N/statistics`.

A request that finds all of the backend's request slots taken has to wait: the ring is saturated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xenwarden_host.hrem.sysfs import by_domid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenwarden_host.hrem.rates import Counts
    from xenwarden_host.hrem.sysfs import Files

DIRECTORY = "bus/xen-backend/devices"
# Reads, writes, flushes and discards are requests; `oo_req` counts times that one had to wait.
COUNTERS = {name: name for name in ("rd_req", "wr_req", "f_req", "ds_req", "oo_req")}
_NAME = re.compile(r"vbd-([0-9]{1,5})-[0-9]{1,10}")


def parse_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the block devices of each domid."""
    return by_domid(names, _NAME)


def read(files: Files, directory: str) -> Counts:
    """Return the counters of the block device at `directory`; empty where it is coming or going."""
    found = files.numbers(f"{directory}/statistics", COUNTERS)
    if not found:
        return {}
    full = found.pop("oo_req")
    return {"vbd_rps": sum(found.values()), "vbd_full_ps": full}

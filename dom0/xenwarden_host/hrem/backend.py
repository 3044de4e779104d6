# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: events that each VM's backend devices received from it, from `/sys/bus/xen-backend/devices`.

A guest cannot make these fewer than they were; a storm of events is seen here first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xenwarden_host.hrem import sysfs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xenwarden_host.hrem.rates import Counters

COUNTERS = {"events": "event_ps", "spurious_events": "spurious_event_ps"}
_NAME = re.compile(r"(?:vif|vbd)-([0-9]{1,5})-[0-9]{1,10}")


def parse_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the backend devices of each domid."""
    found: dict[int, list[str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            found.setdefault(int(match[1]), []).append(name)
    return found


def collect(sys_root: Path) -> dict[int, Counters]:
    """Read all backend devices of the host in one pass."""
    root = f"{sys_root}/bus/xen-backend/devices"
    out: dict[int, Counters] = {}
    for domid, names in parse_names(sysfs.listing(root)).items():
        devices = {name: sysfs.numbers(f"{root}/{name}/xenbus", COUNTERS) for name in names}
        out[domid] = {name: counters for name, counters in devices.items() if counters}
    return out

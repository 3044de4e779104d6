# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: events that each VM's backend devices received from it, from `/sys/bus/xen-backend/devices`.

A guest cannot make these fewer than they were; a storm of events is seen here first.
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
COUNTERS = {"events": "event_ps", "spurious_events": "spurious_event_ps"}
_NAME = re.compile(r"(?:vif|vbd)-([0-9]{1,5})-[0-9]{1,10}")


def parse_names(names: Iterable[str]) -> dict[int, list[str]]:
    """Return the backend devices of each domid."""
    return by_domid(names, _NAME)


def read(files: Files, directory: str) -> Counts:
    """Return the counters of the device at `directory`; empty where it is coming or going."""
    return files.numbers(f"{directory}/xenbus", COUNTERS)

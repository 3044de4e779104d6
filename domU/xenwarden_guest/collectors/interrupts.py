# SPDX-License-Identifier: LGPL-2.1-or-later
"""Event channels of devices: /proc/interrupts."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots


def collect(roots: Roots) -> dict[str, int]:
    """Return hv_events: event-channel interrupts of devices since boot.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else, or no event channel at all.
    """
    return {"hv_events": parse(roots.lines("interrupts"))}


def parse(text: bytes) -> int:
    """Sum the rows of `xen-dyn` and `xen-pirq` chips over all CPUs.

    `xen-percpu` rows are left out: timer and inter-processor events follow CPU load, which VREM sees,
    and would hide what the VM asks of its back ends.

    Raises:
        Unparsable: no such row: not on Xen, or not this file.
    """
    lines = text.split(b"\n")
    cpus = len(lines[0].split())
    total = 0
    rows = 0
    for line in lines[1:]:
        if b" xen-dyn" not in line and b" xen-pirq" not in line:
            continue
        words = line.split(None, cpus + 1)
        if len(words) < cpus + 2:
            raise Unparsable("short line")
        rows += 1
        for word in words[1 : cpus + 1]:
            total += number(word)
    if not rows:
        raise Unparsable("no event channel")
    return total

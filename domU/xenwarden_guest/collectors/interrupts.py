# SPDX-License-Identifier: LGPL-2.1-or-later
"""Event channels of devices: counted in /proc/stat, named in /proc/interrupts."""

from __future__ import annotations

from xenwarden_guest.collectors import Unparsable, line_after, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots


def collect(roots: Roots) -> dict[str, int]:
    """Return hv_events: event-channel interrupts of devices since boot.

    /proc/stat has the sums by number, as the collector `stat` has just read it. /proc/interrupts, which takes
    more than all other files together, is asked for their names when another one begins or ends to count.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else, or no event channel at all.
    """
    counts = line_after(roots.again("stat"), b"\nintr ").split()[1:]  # behind the sum of all
    used = len(counts) - counts.count(b"0")
    devices = roots.made("interrupts", used, lambda: parse(roots.lines("interrupts")))
    if devices[-1] >= len(counts):
        raise Unparsable("no such interrupt")
    return {"hv_events": sum([number(counts[at]) for at in devices])}


def parse(text: bytes) -> list[int]:
    """Return the numbers of `xen-dyn` and `xen-pirq` interrupts, rising.

    `xen-percpu` rows are left out: timer and inter-processor events follow CPU load, which VREM sees,
    and would hide what the VM asks of its back ends.

    Raises:
        Unparsable: no such row: not on Xen, or not this file.
    """
    rows = [line for line in text.split(b"\n") if b" xen-dyn" in line or b" xen-pirq" in line]
    if not rows:
        raise Unparsable("no event channel")
    return sorted([number(row.partition(b":")[0].strip()) for row in rows])

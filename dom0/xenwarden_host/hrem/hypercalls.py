# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a VM asks of Xen, by kind, from records of Xen's trace. Pure.

A record names no domain. On each CPU, those of the scheduler say who has it: what stands between two of
them was done by the one who had it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Runstate changes, PV guests' ways into Xen, and HVM guests' exits to it. Xen compares class and subclass
# each by itself: a finer mask of these three there is none.
MASK = 0x002A1000

_LOST = 0x0001F001
_RUNSTATE_CHANGE = 0x00021001  # the old state in bits 8 and 9, the new one in 4 and 5: 0 is running
_CONTINUE_RUNNING = 0x00021002
_HYPERCALLS = (0x00201001, 0x0020100D)
_ENTRIES = range(0x00201001, 0x00201101)
_EXITS = (0x00081002, 0x00081102)
_CALL_EXITS = (0x81, 18)  # AMD's VMMCALL, Intel's VMCALL

TOTAL = "hypercall_ps"
_OTHER = "hypercall_other_ps"
# By number, as xen/xen.h has them.
_KINDS = {
    **dict.fromkeys((1, 10, 12, 14, 22, 26), "hypercall_memory_ps"),
    **dict.fromkeys((2, 3, 5, 6, 15, 23, 24, 25, 29), "hypercall_sched_ps"),
    **dict.fromkeys((16, 20, 32), "hypercall_io_ps"),
    13: "hypercall_batch_ps",
}
_FAULTS = "xen_fault_ps"
_VM_EXITS = "vm_exit_ps"
SIGNALS = (TOTAL, *dict.fromkeys(_KINDS.values()), _OTHER, _FAULTS, _VM_EXITS)


class Seen:
    """What was seen of one domain: for how long it had a CPU, in cycles, and how often it did what."""

    def __init__(self) -> None:
        self.cycles = 0
        self.counts: Counter[str] = Counter()


def count(cpus: Iterable[bytes]) -> dict[int, Seen]:
    """Return by domid what the records of each CPU tell."""
    out: dict[int, Seen] = {}
    for records in cpus:
        _count(array("I", records), out)
    return out


def _count(words: array[int], out: dict[int, Seen]) -> None:
    i, end, since, now = 0, len(words), 0, 0
    who: Seen | None = None
    while i < end:
        head = words[i]
        event = head & 0x0FFFFFFF
        body = i + 1
        if head >> 31:
            if body + 2 > end:
                break
            now = words[body] | words[body + 1] << 32
            body += 2
        i = body + (head >> 28 & 7)
        if i > end:
            break
        first = words[body] if i > body else 0
        if event & ~0x330 == _RUNSTATE_CHANGE or event == _CONTINUE_RUNNING:
            if event & 0x30:
                continue  # it is told not to run, or of another that waits
            if who is not None:
                who.cycles += now - since
            who, since = out.setdefault(first >> 16, Seen()), now
        elif who is None:
            continue
        elif event in _HYPERCALLS:
            who.counts[TOTAL] += 1
            who.counts[_KINDS.get(first & 0xFFFFF, _OTHER)] += 1
        elif event in _EXITS:
            who.counts[_VM_EXITS] += 1
            if first in _CALL_EXITS:
                who.counts[TOTAL] += 1
        elif event in _ENTRIES:
            who.counts[_FAULTS] += 1
        elif event == _LOST:
            who = None
    if who is not None:
        who.cycles += now - since

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks: /proc/diskstats, whole devices only."""

from __future__ import annotations

import os

from xenwarden_guest.collectors import Unparsable, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots

_XEN_VBD_MAJOR = b"202"
_SECTOR = 512  # the kernel's unit in this file, whatever the disk's own is
# Positions: 3 reads, 5 sectors read, 7 writes, 9 sectors written, 14 discards, 18 flushes.
_REQUESTS = (3, 7, 14, 18)


def collect(roots: Roots) -> dict[str, int]:
    """Return disk_bytes of all disks and, where there is a Xen disk, hv_blk_requests.

    Raises:
        OSError: there is no such file.
        Unparsable: it holds something else.
    """
    base = roots.sys + "/block/"
    return roots.parsed(
        "diskstats", lambda text: parse(text, lambda name: os.path.lexists(base + name + "/device"))
    )


def parse(text: bytes, whole: Callable[[str], bool]) -> dict[str, int]:
    """Sum over the devices for which `whole` is true: disks, not partitions nor what is stacked on them.

    Raises:
        Unparsable: a line is short or a value no counter.
    """
    disk_bytes = 0
    requests = 0
    xen = False
    for line in text.split(b"\n"):
        words = line.split()
        if not words:
            continue
        if len(words) < 14:
            raise Unparsable("short line")
        # A disk that never was used says nothing, and sparing the look at it saves most of the cost.
        if words[3] == words[7] == b"0" or not whole(words[2].decode("ascii", "replace")):
            continue
        disk_bytes += (number(words[5]) + number(words[9])) * _SECTOR
        if words[0] == _XEN_VBD_MAJOR:
            xen = True
            requests += sum(number(words[at]) for at in _REQUESTS if at < len(words))
    found = {"disk_bytes": disk_bytes}
    if xen:
        found["hv_blk_requests"] = requests
    return found


if TYPE_CHECKING:
    from collections.abc import Callable

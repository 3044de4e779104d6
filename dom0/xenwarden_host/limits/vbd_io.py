# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vbd-io`: bytes per second from disks, and the same to disks, by cgroup v2 on blkback's threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import VbdControl
    from xenwarden_host.records import DomainInfo

# The threads of a disk are new when its frontend reconnects, and a guest can have it do so.
_RECHECK_S = 5.0


class VbdIo:
    """A place is a disk's device id; its text is bytes per second.

    The value is divided evenly over the disks, so that the VM never gets more. Covers disks that the
    kernel serves (`phy:`, and files by a loop device); one that QEMU serves (qdisk) or that an HVM guest
    uses by emulation is none of them.
    """

    ours_alone = True
    outlives_domain = False
    takes_time = True  # the threads of a disk are there when its frontend has connected
    counted = False
    recheck_s = _RECHECK_S

    def __init__(self, vbds: VbdControl) -> None:
        self._vbds = vbds

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return the limit of each disk, read from the kernel."""
        found = self._vbds.limits(domain.domid)
        if not found:
            raise LimitError("no disk that dom0's blkback serves", LimitState.NO_TARGET)
        return {str(devid): None if limit is None else str(limit) for devid, limit in found.items()}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return each disk's share."""
        return dict.fromkeys(originals, str(max(1, value // len(originals))))

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Set or remove the limits."""
        wanted = {int(place): None if text is None else int(text) for place, text in texts.items()}
        self._vbds.set_limits(domain.domid, wanted)

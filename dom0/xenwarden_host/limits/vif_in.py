# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vif-in`: bits per second from network to guest, by a police action on the vif, for a flood's victim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.limits.vif_pps import RECHECK_S
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import VifControl
    from xenwarden_host.records import DomainInfo


class VifIn:
    """A place is a vif's device id; its text is bits per second. All vifs draw on one allowance.

    What is too much is dropped before netback copies it, so a flood costs neither the guest's CPU nor
    most of dom0's.
    """

    ours_alone = True
    outlives_domain = False
    takes_time = False
    counted = False
    recheck_s = RECHECK_S

    def __init__(self, vifs: VifControl) -> None:
        self._vifs = vifs

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return the limit on each vif, read from the kernel."""
        found = self._vifs.inbound(domain.domid)
        if not found:
            raise LimitError("no vif whose backend is in dom0", LimitState.NO_TARGET)
        return {str(devid): None if bps is None else str(bps) for devid, bps in found.items()}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return the value for every vif, which share it, in whole bytes: the kernel counts those."""
        return dict.fromkeys(originals, str(max(8, value // 8 * 8)))

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Set or remove the limit."""
        wanted = {int(place): None if text is None else int(text) for place, text in texts.items()}
        self._vifs.set_inbound(domain.domid, wanted)

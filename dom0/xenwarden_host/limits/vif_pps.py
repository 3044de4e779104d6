# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vif-pps`: packets per second of one class from guest to network, by a police action on the vif."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.limits.kind import Text
    from xenwarden_host.protocols import VifControl
    from xenwarden_host.records import DomainInfo, PacketClass

# What changes a vif's filters behind our back is its being plugged anew.
RECHECK_S = 5.0


class VifPps:
    """One class's limit. A place is a vif's device id; its text is packets per second.

    All vifs of the domain draw on one allowance, so that the value is the whole VM's.
    """

    ours_alone = True
    outlives_domain = False
    takes_time = False
    counted = False
    recheck_s = RECHECK_S

    def __init__(self, vifs: VifControl, packet_class: PacketClass) -> None:
        self._vifs = vifs
        self._class = packet_class

    def read(self, domain: DomainInfo) -> dict[str, Text]:
        """Return the class's limit on each vif, read from the kernel."""
        found = self._vifs.police(domain.domid)
        if not found:
            raise LimitError("no vif whose backend is in dom0", LimitState.NO_TARGET)
        limits = {str(devid): by_class.get(self._class) for devid, by_class in found.items()}
        return {place: None if pps is None else str(pps) for place, pps in limits.items()}

    def plan(self, domain: DomainInfo, value: int, originals: Mapping[str, Text]) -> dict[str, Text]:  # noqa: ARG002
        """Return the value for every vif: they share it."""
        return dict.fromkeys(originals, str(value))

    def write(self, domain: DomainInfo, texts: Mapping[str, Text]) -> None:
        """Set or remove this class's limit and keep the others'."""
        found = self._vifs.police(domain.domid)
        wanted = {}
        for place, text in texts.items():
            others = {c: pps for c, pps in found.get(int(place), {}).items() if c != self._class}
            wanted[int(place)] = others if text is None else {**others, self._class: int(text)}
        self._vifs.set_police(domain.domid, wanted)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Vifs and disks in memory, behind the same Protocols: for dry runs, replays and tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.records import PacketClass


@dataclass(slots=True)
class FakeVif:
    """One vif as netback and the kernel have it."""

    queues: int = 1
    rate: str | None = None
    police: dict[PacketClass, int] = field(default_factory=dict)
    in_bps: int | None = None


class FakeVifs:
    """Implements `protocols.VifControl`.

    Attributes:
        vifs: per domid and device id; a test changes them as an admin or a migration would.
        refuse: names of methods that fail as long as they stand in it.
        drops: per domid, what `police_drops` tells.
    """

    def __init__(self) -> None:
        self.vifs: dict[int, dict[int, FakeVif]] = {}
        self.refuse: set[str] = set()
        self.drops: dict[int, int] = {}

    def add(self, domid: int, devid: int = 0, *, queues: int = 1, rate: str | None = None) -> FakeVif:
        """Plug in a vif."""
        vif = self.vifs.setdefault(domid, {})[devid] = FakeVif(queues, rate)
        return vif

    def renumber(self, old: int, new: int) -> None:
        """Migrate: the new backend has neither rate nor packet limits."""
        gone = self.vifs.pop(old, {})
        self.vifs[new] = {devid: FakeVif(vif.queues) for devid, vif in gone.items()}

    def devids(self, domid: int) -> list[int]:
        """Return the device ids of the domain's vifs, ascending."""
        self._may("devids")
        return sorted(self.vifs.get(domid, {}))

    def queues(self, domid: int, devid: int) -> int:
        """Return how many queues the vif uses."""
        return self._get("queues", domid, devid).queues

    def rate(self, domid: int, devid: int) -> str | None:
        """Return the `rate` node."""
        return self._get("rate", domid, devid).rate

    def set_rate(self, domid: int, devid: int, value: str | None) -> None:
        """Write or remove the `rate` node."""
        self._get("set_rate", domid, devid).rate = value

    def police(self, domid: int) -> dict[int, dict[PacketClass, int]]:
        """Return the packet limits on each vif."""
        self._may("police")
        return {devid: dict(vif.police) for devid, vif in sorted(self.vifs.get(domid, {}).items())}

    def police_drops(self) -> dict[int, int]:
        """Return by domid how many packets its limits dropped."""
        self._may("police_drops")
        return dict(self.drops)

    def set_police(self, domid: int, wanted: Mapping[int, Mapping[PacketClass, int]]) -> None:
        """Make `wanted` the packet limits on the vifs named."""
        for devid, by_class in wanted.items():
            self._get("set_police", domid, devid).police = dict(by_class)

    def inbound(self, domid: int) -> dict[int, int | None]:
        """Return the limit on what reaches the guest by each vif."""
        self._may("inbound")
        return {devid: vif.in_bps for devid, vif in sorted(self.vifs.get(domid, {}).items())}

    def set_inbound(self, domid: int, wanted: Mapping[int, int | None]) -> None:
        """Set or remove that limit."""
        for devid, bps in wanted.items():
            self._get("set_inbound", domid, devid).in_bps = bps

    def _may(self, method: str) -> None:
        if method in self.refuse:
            raise LimitError(f"{method} refused", LimitState.FAILED)

    def _get(self, method: str, domid: int, devid: int) -> FakeVif:
        self._may(method)
        try:
            return self.vifs[domid][devid]
        except KeyError:
            raise LimitError(f"vif{domid}.{devid} went away", LimitState.NO_TARGET) from None


class FakeVbds:
    """Implements `protocols.VbdControl`.

    Attributes:
        disks: per domid and device id, the limit that stands.
    """

    def __init__(self) -> None:
        self.disks: dict[int, dict[int, int | None]] = {}

    def limits(self, domid: int) -> dict[int, int | None]:
        """Return the limit of each disk."""
        return dict(self.disks.get(domid, {}))

    def set_limits(self, domid: int, wanted: Mapping[int, int | None]) -> None:
        """Set or remove limits."""
        for devid, limit in wanted.items():
            if devid not in self.disks.get(domid, {}):
                raise LimitError(f"disk {devid} of domain {domid} went away", LimitState.NO_TARGET)
            self.disks[domid][devid] = limit

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The vifs of a domain whose backend is dom0's netback: `protocols.VifControl` on XenStore and rtnetlink."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenwarden_channel.errors import NotFoundError
from xenwarden_host.errors import LimitError
from xenwarden_host.limits import tc
from xenwarden_host.limits.drops import police_drops
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.protocols import Store
    from xenwarden_host.records import PacketClass

# XenbusState of a backend that is going: its vif takes no limit any more.
_CLOSING = (b"5", b"6")


class DomainVifs:
    """Implements `protocols.VifControl`.

    Everything is read from nodes and files that dom0 alone writes: the number of queues is the
    kernel's, not the guest's word, since a guest that claims few would be limited less.

    Args:
        store: XenStore.
        sys_net: where the kernel shows network devices.
        read: what tells a device's filters, as `tc.read` does.
        apply: what changes them, as `tc.apply` does.
        read_drops: what tells drops by index, as `drops.police_drops` does.
    """

    def __init__(
        self,
        store: Store,
        *,
        sys_net: Path = Path("/sys/class/net"),
        read: Callable[[str], tc.VifFilters] = tc.read,
        apply: Callable[[list[tc.Change]], None] = tc.apply,
        read_drops: Callable[[], dict[int, int]] = police_drops,
    ) -> None:
        self._store = store
        self._sys_net = sys_net
        self._read = read
        self._apply = apply
        self._read_drops = read_drops

    def devids(self, domid: int) -> list[int]:
        """Return the device ids of the domain's vifs in dom0, without those being closed, ascending."""
        try:
            listed = self._store.directory(f"/local/domain/0/backend/vif/{domid}")
        except NotFoundError:
            return []
        devids = sorted(int(name) for name in listed if name.isdigit())
        states = self._store.read_many([f"{_backend(domid, devid)}/state" for devid in devids])
        return [
            devid
            for devid, state in zip(devids, states, strict=True)
            if state is not None and state not in _CLOSING
        ]

    def device(self, domid: int, devid: int) -> str:
        """Return the network device's name: `vifX.Y`, or what the domain's `vifname=` says."""
        (name,) = self._store.read_many([f"{_backend(domid, devid)}/vifname"])
        return name.decode("ascii", "replace") if name else f"vif{domid}.{devid}"

    def queues(self, domid: int, devid: int) -> int:
        """Return how many queues the kernel serves the vif with; 1 as long as it is not connected."""
        folder = self._sys_net / self.device(domid, devid) / "queues"
        return max(1, len(list(folder.glob("tx-*"))))

    def rate(self, domid: int, devid: int) -> str | None:
        """Return the backend's `rate` node as it stands, None where there is none."""
        (value,) = self._store.read_many([f"{_backend(domid, devid)}/rate"])
        return None if value is None else value.decode("latin-1")

    def set_rate(self, domid: int, devid: int, value: str | None) -> None:
        """Write the `rate` node, None removes it. netback takes it at once."""
        backend = _backend(domid, devid)
        if value is None:
            self._store.remove(f"{backend}/rate")
            return
        self._store.write(f"{backend}/rate", value.encode("latin-1"))
        (state,) = self._store.read_many([f"{backend}/state"])
        if state is None:  # the device went meanwhile: the write has made a ghost of it
            self._store.remove(backend)
            raise LimitError(f"vif{domid}.{devid} went away", LimitState.NO_TARGET)

    def police(self, domid: int) -> dict[int, dict[PacketClass, int]]:
        """Return the packet limits that stand on each vif now, per class, read back from the kernel."""
        return {devid: dict(filters.limits().pps) for devid, filters in self._filters(domid).items()}

    def set_police(self, domid: int, wanted: Mapping[int, Mapping[PacketClass, int]]) -> None:
        """Make `wanted` the packet limits of ours on the vifs named; empty removes all trace of them.

        The vifs of one domain share the limit of a class: it is the whole VM's, and what was set last.
        """
        self._set(domid, {devid: {"pps": dict(pps)} for devid, pps in wanted.items()})

    def police_drops(self) -> dict[int, int]:
        """Return by domid how many packets its limits dropped since they were set, in one pass for all."""
        found: dict[int, int] = {}
        for index, drops in self._read_drops().items():
            domid = tc.limited_domid(index)
            if domid is not None:
                found[domid] = found.get(domid, 0) + drops
        return found

    def inbound(self, domid: int) -> dict[int, int | None]:
        """Return the bits per second that may reach the guest by each vif, None where there is no limit."""
        return {devid: filters.limits().in_bps for devid, filters in self._filters(domid).items()}

    def set_inbound(self, domid: int, wanted: Mapping[int, int | None]) -> None:
        """Limit what reaches the guest by the vifs named; they share it as they do packet limits."""
        self._set(domid, {devid: {"in_bps": bps} for devid, bps in wanted.items()})

    def _set(self, domid: int, changes: Mapping[int, Mapping[str, Any]]) -> None:
        there = self._filters(domid)
        for devid, change in changes.items():
            if devid not in there:
                raise LimitError(f"vif{domid}.{devid} went away", LimitState.NO_TARGET)
            filters = there[devid]
            self._apply(tc.plan(domid, filters, replace(filters.limits(), **change)))

    def _filters(self, domid: int) -> dict[int, tc.VifFilters]:
        """Return the filters of the domain's vifs."""
        found = {}
        for devid in self.devids(domid):
            # One whose device is not there yet, or not any more, must not keep the others from their limits.
            try:
                found[devid] = self._read(self.device(domid, devid))
            except LimitError as problem:
                if problem.state != LimitState.NO_TARGET:
                    raise
        return found


def _backend(domid: int, devid: int) -> str:
    return f"/local/domain/0/backend/vif/{domid}/{devid}"

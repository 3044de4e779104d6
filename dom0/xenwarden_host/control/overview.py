# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `xenwarden top` shows of all VMs at once, from what the daemon knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.errors import HypervisorError
from xenwarden_host.records import AgentState, LimitKind, LimitState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.daemon.warden import Warden

_PRESSURES = ("psi_cpu_pct", "psi_mem_pct", "psi_io_pct")


class Overview:
    """Tell of each VM how busy it is, what limits that, and what happened to it last."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._events: dict[str, dict[str, Any] | None] = {}  # the last of each VM that was asked for
        warden.audit.subscribe(self._note)

    def _note(self, event: dict[str, Any]) -> None:
        if event["uuid"] in self._events:
            self._events[event["uuid"]] = event

    def of(self, guests: Sequence[Guest]) -> list[dict[str, Any]]:
        """Return the figures of all VMs, in the same order; null what is not known."""
        here = {guest.info.uuid for guest in guests}
        for uuid in self._events.keys() - here:
            del self._events[uuid]
        rates = {
            status.uuid: status.value
            for status in self._warden.engine.status()
            if status.key.kind is LimitKind.VIF_RATE and status.state is LimitState.SET
        }
        return [self._row(guest) | {"rate_bps": rates.get(guest.info.uuid)} for guest in guests]

    def _row(self, guest: Guest) -> dict[str, Any]:
        warden, info = self._warden, guest.info
        own = warden.signals.get(info.uuid, {})
        report = guest.inbox.report if warden.agent_state(guest) is AgentState.ALIVE else None
        pressures = [report.signals[name] for name in _PRESSURES if name in report.signals] if report else []
        vcpu_pct = own.get("vcpu_pct")
        event = self._last_event(info.uuid)
        return {
            "vcpus": info.vcpus_online,
            "cpu_pct": None if vcpu_pct is None else round(vcpu_pct * info.vcpus_online, 1),
            "cap": self._cap(info.domid),
            "tx_bps": own.get("vif_tx_bps"),
            "rx_bps": own.get("vif_rx_bps"),
            "pressure_pct": max(pressures, default=None),
            "event": None if event is None else {"unix_s": event["unix_s"], "text": event["text"]},
        }

    def _last_event(self, uuid: str) -> dict[str, Any] | None:
        if uuid not in self._events:
            found = self._warden.database.audit(limit=1, uuid=uuid)
            self._events[uuid] = found[0] if found else None
        return self._events[uuid]

    def _cap(self, domid: int) -> int | None:
        try:
            return self._warden.hypervisor.sched_params(domid).cap
        except HypervisorError:
            return None  # it is going, or this scheduler has none

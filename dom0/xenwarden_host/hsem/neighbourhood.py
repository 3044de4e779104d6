# SPDX-License-Identifier: LGPL-2.1-or-later
"""What VMs of one host do to each other, worked out once per tick and only where someone asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.hsem.sight import Flow, Part
from xenwarden_host.hsem.traffic import arrives
from xenwarden_host.hsem.turn import case_of
from xenwarden_host.policy.model import RuleKind
from xenwarden_host.records import LimitKey, LimitKind, PacketClass, VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from xenwarden_host.hsem.state import Vm
    from xenwarden_host.hsem.traffic import Step, Traffic
    from xenwarden_host.policy.model import Neighbours
    from xenwarden_host.records import VmView

_ARP = LimitKey(LimitKind.VIF_PPS, PacketClass.ARP)


class Host:
    """All VMs at one tick, as they stood when it began: who asks first sees no more than who asks last."""

    def __init__(
        self,
        views: Mapping[str, VmView],
        vms: Mapping[str, Vm],
        policy: Neighbours,
        upper: Callable[[str, str], float | None],
        masked: Callable[[str], frozenset[str]],
    ) -> None:
        self._views = views
        self._vms = vms
        self._policy = policy
        self._upper = upper
        self._masked = masked
        self._starving: dict[str, list[VmView]] = {}
        self._victims: dict[str, list[Flow]] = {}
        self._suspects = [
            (uuid, vm.traffic.sent(), vm.state is VmState.CONTAINED)
            for uuid, vm in vms.items()
            if uuid in views and _sends(vm)
        ]
        # Who is under watch for what reaches it, where dom0 counts at least as much as is called unusual.
        self.complaints = [
            (uuid, rise)
            for uuid, vm in vms.items()
            if vm.case is not None and uuid in views and (rise := self._complaint(vm)) is not None
        ]
        self._parts: dict[str, dict[str, Step]] = {}

    def victims(self, uuid: str) -> list[Flow]:
        """Return whom this VM floods."""
        found = self._victims.get(uuid)
        if found is None:
            found = self._victims[uuid] = list(self._find_victims(uuid))
        return found

    def _find_victims(self, uuid: str) -> Iterator[Flow]:
        sent = self._vms[uuid].traffic.sent()
        if sent is None:
            return
        for other, view in self._views.items():
            receiver = self._vms[other]
            if other != uuid and (step := arrives(sent, receiver.traffic, self._policy)):
                rest = step.rise_pps - self._sent_by_others(uuid, other)
                flow = Flow(other, view.name, step, ended=self._ended(step, receiver.traffic))
                flow.complains = receiver.case is not None and bool(receiver.case.of(RuleKind.INBOUND))
                flow.explained = rest < max(self._policy.at_least_pps, self._policy.share * sent.rise_pps)
                yield flow

    def _sent_by_others(self, besides: str, receiver: str) -> float:
        """Return what suspects other than `besides` send to the receiver."""
        traffic = self._vms[receiver].traffic
        return sum(
            sent.rise_pps
            for uuid, sent, _convicted in self._suspects
            if sent is not None and uuid not in (besides, receiver) and arrives(sent, traffic, self._policy)
        )

    def _ended(self, step: Step, receiver: Traffic) -> bool:
        return receiver.latest_rx_pps() <= step.base_pps + self._policy.fell_to * step.rise_pps

    def flooders(self, uuid: str) -> list[Flow]:
        """Return the suspects that flood this VM, or did since its case was opened."""
        vm = self._vms[uuid]
        known = vm.case.flooders if vm.case is not None else {}
        if not self._suspects:
            return []
        flows = []
        for other, sent, convicted in self._suspects:
            if other == uuid:
                continue
            flow = known.get(other)
            if flow is None:
                step = None if sent is None else arrives(sent, vm.traffic, self._policy)
                if step is None:
                    continue
                flow = Flow(other, self._views[other].name, step)
            flow.convicted = convicted
            flow.ended = self._ended(flow.step, vm.traffic)
            flows.append(flow)
        return flows

    def _complaint(self, vm: Vm) -> Step | None:
        """Return the rise of what the VM receives, if that is what it is under watch for."""
        case = case_of(vm)
        if vm.state not in (VmState.WATCHED, VmState.PROTECTED):
            return None
        usual = [
            upper
            for item in case.of(RuleKind.INBOUND)
            if item.evidence[0].signal.endswith("_pps")  # else it complains of no packets
            and (upper := self._upper(vm.uuid, item.evidence[0].signal)) is not None
        ]
        rise = vm.traffic.received() if usual else None
        return rise if rise is not None and rise.rise_pps >= min(usual) else None

    def part(self, uuid: str) -> Part | None:
        """Return this VM's part in what another is under watch for; None without one."""
        vm = self._vms[uuid]
        known = None if vm.case is None else vm.case.part
        if known is not None:
            return known if vm.traffic.still_sends(known.sent, self._policy.fell_to) else None
        for other, got in self.complaints:
            if other == uuid or self._rise_to(other, vm) is None:
                continue
            parts = self._parts_of(other)
            whole = sum(sent.rise_pps for sent in parts.values())
            if uuid in parts and whole >= self._policy.together_share * got.rise_pps:
                return Part(self._views[other].name, parts[uuid], got, len(parts) - 1)
        return None

    def _parts_of(self, receiver: str) -> dict[str, Step]:
        """Return the rises, by sender, that the receiver's rise may be made of."""
        found = self._parts.get(receiver)
        if found is None:
            found = self._parts[receiver] = {
                uuid: sent
                for uuid in self._views
                if uuid != receiver and (sent := self._rise_to(receiver, self._vms[uuid])) is not None
            }
        return found

    def _rise_to(self, receiver: str, vm: Vm) -> Step | None:
        """Return the rise of what the VM sends where the receiver's rise is, in part, its other end."""
        sent, least = vm.traffic.sent(), self._policy.together_pps
        if sent is None or sent.rise_pps < least:
            return None
        return sent if arrives(sent, self._vms[receiver].traffic, self._policy, least) else None

    def starving(self, signal: str, besides: str) -> list[VmView]:
        """Return the other VMs in which the signal is over its usual upper limit."""
        found = self._starving.get(signal)
        if found is None:
            found = self._starving[signal] = [
                view for view in self._views.values() if self._over(view, signal)
            ]
        return [view for view in found if view.uuid != besides]

    def claims_are_stopped(self) -> bool:
        """Tell whether all VMs that claim others' addresses are held from any ARP."""
        claimers = [uuid for uuid, view in self._views.items() if view.hrem.get("arp_claim_pps")]
        return bool(claimers) and all(
            _ARP in self._views[uuid].held and self._vms[uuid].limits.get(_ARP) == 0 for uuid in claimers
        )

    def _over(self, view: VmView, signal: str) -> bool:
        if view.report is None or signal in self._masked(view.uuid):
            return False
        value, upper = view.report.signals.get(signal), self._upper(view.uuid, signal)
        return value is not None and upper is not None and value > upper


def _sends(vm: Vm) -> bool:
    """Tell whether the VM is under suspicion, or convicted, for packets that it sends."""
    if vm.case is None or vm.state not in (VmState.WATCHED, VmState.CONTAINED):
        return False
    return any(
        key.kind is not LimitKind.CAP for item in vm.case.of(RuleKind.ORIGINATED) for key in item.limits
    )

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which limits, how far they go, and whether a VM still presses against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.hsem.turn import case_of, sentence
from xenwarden_host.policy.model import RuleKind
from xenwarden_host.records import (
    AgentState,
    LiftLimit,
    LimitKey,
    LimitKind,
    PacketClass,
    SetLimit,
    VmType,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_host.hrem.history import History
    from xenwarden_host.hsem.state import Finding, Vm
    from xenwarden_host.hsem.turn import Turn
    from xenwarden_host.policy.model import Policy
    from xenwarden_host.records import Action


class Limiter:
    """Turn findings into limits. Nothing is kept here: a VM's limits are in its `Vm`."""

    def __init__(self, policy: Policy, history: History) -> None:
        self._policy = policy
        self._history = history

    def value(self, turn: Turn, key: LimitKey, *, provisional: bool) -> int:
        """Return how far a limit goes: in proportion to what is usual for this VM."""
        policy = self._policy.limits[key]
        usual = self._history.upper(turn.vm.uuid, policy.signal) or 0.0
        if key.kind is LimitKind.CAP:
            usual *= turn.view.vcpus
        part = policy.provisional if provisional else policy.contained
        return max(part.at_least, round(usual * part.times))

    def contained(self, turn: Turn, guilty: Sequence[Finding]) -> dict[LimitKey, int]:
        """Return the limits of one that is convicted of this: of what must stop altogether nothing passes."""
        wanted = {
            key: self.value(turn, key, provisional=False)
            for key in sorted({key for finding in guilty for key in finding.limits})
        }
        return {**wanted, **{key: 0 for finding in guilty if finding.stop for key in finding.limits}}

    def provisional(self, turn: Turn) -> list[Action]:
        """Return what makes the provisional limits those that the case's findings ask for."""
        vm = turn.vm
        if turn.policy.protect:
            return []
        wanted: dict[LimitKey, int] = {}
        reasons: dict[str, None] = {}
        for finding in case_of(vm).of(RuleKind.ORIGINATED):
            if finding.alone and not vm.limits and self._kind_follows(turn):
                continue
            for key in finding.limits:
                if key in vm.limits:
                    wanted[key] = vm.limits[key]
                else:
                    wanted[key] = self.value(turn, key, provisional=True)
                    reasons[sentence(finding.evidence)] = None
        why = "; ".join(reasons) or "it was another kind of activity"
        return self.set(vm, wanted, why, provisional=True)

    def _kind_follows(self, turn: Turn) -> bool:
        """Tell whether dom0's own agent is about to say of what kind the packets are that were found.

        Then one kind is limited instead of all that it might be, and its proof is seen before that hides it.
        """
        waited_s = turn.sight.now_s - case_of(turn.vm).opened_s
        return (
            not turn.sight.seen
            and waited_s < self._policy.watch.look_s
            and any(
                view.vm_type is VmType.DOM0 and view.agent is AgentState.ALIVE for view in turn.snapshot.vms
            )
        )

    def set(self, vm: Vm, wanted: dict[LimitKey, int], why: str, *, provisional: bool) -> list[Action]:
        """Return what makes `wanted` the VM's limits."""
        out: list[Action] = [LiftLimit(vm.uuid, key, why) for key in vm.limits if key not in wanted]
        out += [
            SetLimit(vm.uuid, key, value, provisional, why)
            for key, value in wanted.items()
            if vm.limits.get(key) != value
        ]
        vm.limits = wanted
        return out

    def still_pressed(self, turn: Turn) -> bool:
        """Tell whether a contained VM uses its limits up: by what it offers, not by what passes."""
        signals, pressing = turn.sight.signals, self._policy.release.pressing
        dropped = signals.get("vif_police_drop_pps", 0.0)
        packets = [key for key in turn.vm.limits if key.kind is LimitKind.VIF_PPS]
        if packets and dropped > 0:
            usual = (
                self._history.upper(turn.vm.uuid, self._policy.limits[key].signal) or 0.0 for key in packets
            )
            if dropped + sum(turn.vm.limits[key] for key in packets) > sum(usual):
                return True
        # An agent that fell silent since says no more what these packets are; of ARP dom0 hears that itself.
        sent = signals.get("vif_tx_pps", 0.0)
        if (
            any(key.match is not PacketClass.ARP for key in packets)
            and not turn.trusted
            and sent >= pressing * case_of(turn.vm).offered_pps
        ):
            return True
        rate = turn.vm.limits.get(LimitKey(LimitKind.VIF_RATE))
        if rate is not None and signals.get("vif_tx_bps", 0.0) >= pressing * rate:
            return True
        cap = turn.vm.limits.get(LimitKey(LimitKind.CAP))
        return cap is not None and signals.get("vcpu_pct", 0.0) * turn.view.vcpus >= pressing * cap

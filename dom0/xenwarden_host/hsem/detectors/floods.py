# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this VM sends arrives at another VM of this host, by dom0's counters.

Arguments: `held`, `complaining` (both false). The policy's `neighbours` says what is close enough.
Fires if another VM's received packets rose when this one's sent packets did, by as much, of the same
size. If `held`, only once that rise is gone again: what this VM goes on to send no longer arrives,
so it is of the kind that our limits hold back: requests, no answers. If `complaining`, only where the
other VM is under watch for what reaches it. Both only where no other suspect accounts for the rise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Floods:
    """The far end is next door."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._held: bool = arguments.get("held", False)
        self._complaining: bool = arguments.get("complaining", False)
        self.signals: tuple[str, ...] = ()
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        flows = sight.host.victims(sight.vm.uuid)
        if self._held:
            flows = [flow for flow in flows if flow.ended and not flow.explained]
        if self._complaining:
            flows = [flow for flow in flows if flow.complains and not flow.explained]
        if not flows:
            return None
        most = max(flows, key=lambda flow: flow.step.rise_pps)
        step = most.step
        text = f"as it began, {most.name} received {amount(step.rise_pps)}/s more packets of the same size"
        if self._held:
            text += ", which the limits on requests now hold back"
        return Hit(sight.evidence("vif_rx_pps", step.rise_pps, step.base_pps, text))

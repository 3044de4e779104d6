# SPDX-License-Identifier: LGPL-2.1-or-later
"""What another VM of this host sends arrives here, by dom0's counters.

Arguments: `by`, `suspect` (watched or contained for what it sends) or `attacker` (contained).
Fires if received packets here rose when that VM's sent packets did, by as much, of the same size; by
an `attacker` only once the rise is gone, as it is when the attacker's limits were its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Flooded:
    """At the far end of a flood."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._by: str = arguments["by"]
        self.signals: tuple[str, ...] = ()
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        flows = sight.host.flooders(sight.vm.uuid)
        if self._by == "attacker":
            flows = [flow for flow in flows if flow.convicted and flow.ended]
        if not flows:
            return None
        most = max(flows, key=lambda flow: flow.step.rise_pps)
        step = most.step
        text = f"{amount(step.rise_pps)}/s more packets arrived as {most.name} began to send such packets"
        if self._by == "attacker":
            text += ", and it ended with the limits on that VM"
        return Hit(sight.evidence("vif_rx_pps", step.base_pps + step.rise_pps, step.base_pps, text))

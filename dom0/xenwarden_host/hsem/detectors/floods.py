# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this VM sends arrives at another VM of this host, by dom0's counters.

No arguments; the policy's `neighbours` says what is close enough.
Fires if another VM's received packets rise when this one's sent packets do, by as much, of the same size.
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
        del arguments
        self.signals: tuple[str, ...] = ()

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        flows = sight.host.victims(sight.vm.uuid)
        if not flows:
            return None
        most = max(flows, key=lambda flow: flow.step.rise_pps)
        step = most.step
        text = f"as it began, {most.name} received {amount(step.rise_pps)}/s more packets of the same size"
        return Hit(sight.evidence("vif_rx_pps", step.rise_pps, step.base_pps, text))

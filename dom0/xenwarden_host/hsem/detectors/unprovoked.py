# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the VM sends is no answer to a flood from next door.

No arguments.
Fires unless another VM of this host, under suspicion for what it sends, floods this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Unprovoked:
    """Nobody began it."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        del arguments
        self.signals: tuple[str, ...] = ()
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        if sight.host.flooders(sight.vm.uuid):
            return None
        received = sight.signals.get("vif_rx_pps", 0.0)
        text = f"{amount(received)}/s packets reach it, and no suspect of this host sends them"
        return Hit(sight.evidence("vif_rx_pps", received, received, text))

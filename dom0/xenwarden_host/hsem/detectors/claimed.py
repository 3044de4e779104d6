# SPDX-License-Identifier: LGPL-2.1-or-later
"""Others claim the VM's address by ARP, or tell it such claims, as dom0's own agent hears.

Arguments: `at_least` (per second).
Fires if so many claims reach the VM, unless each VM of this host that claims anything is held from all ARP:
dom0 hears what is tried, and the limit takes it away behind that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight

_SIGNAL = "arp_claimed_pps"


class Claimed:
    """Somebody says to be it."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._at_least: float = arguments["at_least"]
        self.signals = (_SIGNAL,)
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        value = sight.signals.get(_SIGNAL, 0.0)
        if value < self._at_least or sight.host.claims_are_stopped():
            return None
        text = f"{SIGNALS[_SIGNAL][2]}: {measured(_SIGNAL, value)}"
        return Hit(sight.evidence(_SIGNAL, value, self._at_least, text), value / self._at_least)

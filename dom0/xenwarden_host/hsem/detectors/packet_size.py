# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packets are small: requests or answers, no data.

Arguments: `bps`, `pps` (signals), `at_most_bytes`.
Fires if the mean packet is no larger; so it does where there are no packets at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class PacketSize:
    """Nothing but small packets."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._bps: str = arguments["bps"]
        self._pps: str = arguments["pps"]
        self._at_most: float = arguments["at_most_bytes"]
        self.signals = (self._bps, self._pps)
        self.corruptible: tuple[str, ...] = ()  # a limit makes packets fewer, not larger

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        bps, pps = sight.signals.get(self._bps), sight.signals.get(self._pps)
        if bps is None or pps is None or bps > self._at_most * 8 * pps:
            return None
        size = bps / 8 / pps if pps else 0.0
        text = f"{SIGNALS[self._pps][2]}: of {amount(size)} bytes on average, no data"
        return Hit(sight.evidence(self._pps, pps, pps, text))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The VM chose its destinations: it asks them, and does not answer whoever claims to be one of many.

Arguments: `at_least`.
Fires if the VM sends at least so many requests (SYN, UDP, ICMP) to each of its destinations on average, or
if no kind of request is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, amount

_REQUESTS = ("tx_syn_pps", "tx_udp_pps", "tx_icmp_pps")

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class AsksEach:
    """Of its own accord."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._at_least: float = arguments["at_least"]
        self.signals = ("tx_dests", *_REQUESTS)
        self.corruptible: tuple[str, ...] = ()  # counted before any limit

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        dests = sight.signals.get("tx_dests")
        if not dests:
            return None
        rates = [sight.signals[name] for name in _REQUESTS if name in sight.signals]
        asked = sum(rates) * sight.span_s
        if rates and asked < self._at_least * dests:
            return None
        text = f"to {amount(dests)} addresses, {amount(asked)} requests"
        return Hit(sight.evidence("tx_dests", dests, dests, text))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connections are tried at many addresses: not at a few again and again, as by a client whose server is down.

Arguments: `at_most` (0 to 1).
Fires unless the most frequent destinations, as its agent tells them at level 2, get more than this share of
the SYN that the VM sends; also without a detail that can be believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Spread:
    """Here and there."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._at_most: float = arguments["at_most"]
        self.signals = ("tx_syn_pps",)
        self.corruptible: tuple[str, ...] = ()  # counted before any limit

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        report, sent = sight.vm.report, sight.signals.get("tx_syn_pps")
        if not sent:
            return None
        few = (
            sum(peer.syn_pps for peer in report.destinations) if report is not None and sight.trusted else 0.0
        )
        if few > self._at_most * sent:
            return None
        text = f"{amount(few)}/s of {amount(sent)}/s TCP SYN go to the most frequent addresses"
        return Hit(sight.evidence("tx_syn_pps", sent, few, text))

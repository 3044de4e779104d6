# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connections are tried at many ports of an address: not what a client does whose server is down.

Arguments: `at_least` (0 to 1); `unknown` (false).
Fires if at least this share of the SYN that the VM sends goes to addresses at which no port stands out, by
the detail that its agent tells at level 2; if `unknown`, also without a detail that can be believed: dom0
itself does not see ports, but how many SYN there are, and whether the agent tells the truth of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class ManyPorts:
    """From port to port."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._at_least: float = arguments["at_least"]
        self._unknown: bool = arguments.get("unknown", False)
        self.signals = ("tx_syn_pps",)
        self.corruptible: tuple[str, ...] = ()  # counted before any limit

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        report, sent = sight.vm.report, sight.signals.get("tx_syn_pps")
        if not sent:
            return None
        detail = report.destinations if report is not None and sight.trusted else ()
        if not detail and self._unknown:
            return Hit(sight.evidence("tx_syn_pps", sent, sent, "to which ports, no agent says"))
        scattered = sum(peer.syn_pps for peer in detail if peer.protocol == "tcp" and not peer.port)
        if not scattered or scattered < self._at_least * sent:
            return None
        text = f"{amount(min(scattered, sent))}/s of {amount(sent)}/s go to many ports of an address"
        return Hit(
            sight.evidence(
                "tx_syn_pps", scattered, self._at_least * sent, f"TCP SYN without ACK sent: {text}"
            )
        )

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dom0's own agent hears of all VMs' ARP: each message counts once, in the tick that follows it."""

from __future__ import annotations

from xenwarden_channel import messages
from xenwarden_channel.messages import parse_number
from xenwarden_channel.signals import ARP_RATES


class Arp:
    """HREM's signals of ARP, by domid, as long as nobody has taken them."""

    def __init__(self) -> None:
        self._heard: dict[int, dict[str, float]] = {}

    def take(self, value: bytes | None) -> None:
        """Take the value of the node, as read now; None is a node that is not there.

        Raises:
            MessageError: the value is no such message.
        """
        if value is None:
            return
        fields = messages.parse(value, "arp").fields
        heard: dict[int, dict[str, float]] = {
            int(word): {} for word in fields.get("domids", "").split(",") if word.isdigit()
        }
        for name, signal in ARP_RATES.items():
            for rates, word in zip(heard.values(), fields.get(name, "").split(","), strict=False):
                rate = parse_number(word)
                if rate is not None:
                    rates[signal] = rate
        self._heard.update(heard)

    def taken(self) -> dict[int, dict[str, float]]:
        """Return HREM's signals by domid, and forget them."""
        heard, self._heard = self._heard, {}
        return heard

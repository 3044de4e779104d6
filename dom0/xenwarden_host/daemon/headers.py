# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM's order to dom0's own agent to look at VMs' vifs, and what it saw there.

The agent parses the packets; here only its messages are read. dom0 is trusted: what they say counts as
counted by dom0 itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_channel import messages, paths, signals
from xenwarden_channel.messages import parse_number

if TYPE_CHECKING:
    from collections.abc import Sequence

FOR_S = 60.0  # the agent lets all go when it was not told again for so long
_RENEW_S = 20.0
_INTERVALS = 3  # of level 2: what was seen is no older than this
_NAMES = frozenset(signals.HEADERS)


class Headers:
    """At which domains dom0's agent looks, and what it saw last of each, by domid."""

    def __init__(self) -> None:
        self.wanted: tuple[int, ...] = ()
        self._told_s = float("-inf")
        self._seen: dict[int, tuple[float, dict[str, float]]] = {}  # when, and what

    def want(self, domids: Sequence[int], now_s: float) -> dict[str, str | float] | None:
        """Have it look at the first `paths.MAX_LOOKS` of `domids`; return the order where it is due.

        Who is looked at already stays.
        """
        stay = [domid for domid in self.wanted if domid in domids]
        wanted = tuple([*stay, *(domid for domid in domids if domid not in stay)][: paths.MAX_LOOKS])
        if wanted == self.wanted and (not wanted or now_s - self._told_s < _RENEW_S):
            return None
        self.wanted, self._told_s = wanted, now_s
        for domid in self._seen.keys() - set(wanted):
            del self._seen[domid]
        return {"domids": ",".join(map(str, wanted)), "for": FOR_S}

    def has(self, node: str) -> bool:
        """Tell whether a node of dom0's home is that of a domain that is looked at."""
        return _domid_of(node) in self.wanted

    def take(self, node: str, value: bytes | None, now_s: float) -> None:
        """Take the value of a node for which `has` is true, as read now; None is a node that is not there.

        Raises:
            MessageError: the value is no such message.
        """
        domid = _domid_of(node)
        if value is None or domid not in self.wanted:
            return
        fields = messages.parse(value, "headers").fields
        seen = {name: parse_number(fields[name]) for name in _NAMES & fields.keys()}
        self._seen[domid] = (
            now_s,
            {f"{signals.BY_DOM0}{name}": number for name, number in seen.items() if number is not None},
        )

    def signals(self, domid: int, now_s: float, level2_s: float) -> dict[str, float]:
        """Return HREM's signals of what dom0's agent saw; empty where it is not looking, or says nothing."""
        at_s, seen = self._seen.get(domid, (float("-inf"), {}))
        return seen if now_s - at_s <= _INTERVALS * level2_s else {}


def _domid_of(node: str) -> int:
    parent, _, name = node.rpartition("/")
    return int(name) if parent == paths.UP_HEADERS_DIR and name.isdigit() and len(name) < 6 else -1

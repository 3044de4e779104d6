# SPDX-License-Identifier: LGPL-2.1-or-later
"""The nodes that dom0 keeps below a guest's `~/xenwarden`: what they should hold, and what is written.

A node is written when what it should hold changed, and again in full when the store may have lost it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_channel import messages, paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KINDS = {
    paths.DOWN_ORDER: "order",
    paths.DOWN_HISTORY: "history",
    paths.DOWN_ASK: "ask",
    paths.DOWN_STATUS: "status",
    paths.DOWN_GRANT: "grant",
    paths.DOWN_LOOK: "look",
}


class Down:
    """One guest's nodes. `first_seq` is above all that an earlier daemon used: seconds since 1970 are."""

    def __init__(self, domid: int, first_seq: int) -> None:
        self._domid = domid
        self._seq = first_seq
        self._wanted: dict[str, Mapping[str, str | float]] = {}
        self._unwritten: set[str] = set()

    def want(self, node: str, fields: Mapping[str, str | float]) -> None:
        """Have `node` hold `fields`, which nobody changes any more, from the next `pending` on."""
        known = self._wanted.get(node)
        if known is not fields and known != fields:
            self._wanted[node] = fields
            self._unwritten.add(node)

    def again(self, node: str) -> None:
        """Have `node` written again, with a new number, though it holds what it should."""
        self._unwritten.add(node)

    def pending(self) -> Sequence[tuple[str, str, bytes]]:
        """Return (node, absolute path, value) of each node that is not as it should be."""
        if not self._unwritten:
            return ()
        out = []
        for node in sorted(self._unwritten):
            self._seq += 1
            value = messages.encode(_KINDS[node], self._seq, self._wanted[node])
            out.append((node, paths.absolute(self._domid, node), value))
        return out

    def written(self, node: str) -> None:
        """Note that the store took the value that `pending` gave for `node`."""
        self._unwritten.discard(node)

    def lost(self) -> None:
        """Have everything written again: the store may have forgotten it."""
        self._unwritten.update(self._wanted)

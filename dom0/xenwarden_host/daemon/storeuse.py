# SPDX-License-Identifier: LGPL-2.1-or-later
"""What guests hold of their XenStore quotas, and who holds a transaction open.

Any guest can hold one, and as long as it does C xenstored lets all guests together write 200 times in a
second: reports come late, and the guest that causes it is the only one to blame. oxenstored tells no
number of transactions, and has no such brake.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xenwarden_channel.errors import DisconnectedError, NotFoundError, StoreError
from xenwarden_host import audit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.audit import Audit
    from xenwarden_host.daemon.tracker import Guest
    from xenwarden_host.protocols import Clock, Store

log = logging.getLogger("xenwarden.storeuse")

_EVERY_S = 2.0
_AT_ONCE = 128  # guests asked for in one look, in turn; those that had a transaction open each time
_HELD_S = 4.0  # open whenever looked at for so long: held. Honest ones last milliseconds
_TELL_EVERY_S = 60.0


class StoreUse:
    """Look now and then; `of` and `holders` say what was seen."""

    def __init__(self, store: Store, clock: Clock, audit_log: Audit) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit_log
        self._use: dict[int, dict[str, int]] = {}
        self._open_since_s: dict[int, float] = {}
        self._told_s: dict[int, float] = {}
        self._next_s = float("-inf")
        self._after = -1  # the domid that was asked for last
        self._refused = -1  # the connection on which the daemon would not tell

    def of(self, domid: int) -> dict[str, int]:
        """Return what the domain holds of its quotas, by the daemon's names; empty where not known."""
        return self._use.get(domid, {})

    def held_s(self, domid: int) -> float | None:
        """Return for how long the domain holds a transaction open; None where it does not."""
        since_s = self._open_since_s.get(domid)
        if since_s is None or self._clock.monotonic() - since_s < _HELD_S:
            return None
        return self._clock.monotonic() - since_s

    def suspects(self) -> frozenset[int]:
        """Return the domids that had a transaction open when last looked at: others may be slowed by it."""
        return frozenset(self._open_since_s)

    def notices(self, guests: Mapping[int, Guest]) -> list[str]:
        """Return a sentence for an admin about each guest that holds a transaction open."""
        held = {domid: held_s for domid in self._open_since_s if (held_s := self.held_s(domid)) is not None}
        return [_sentence(guests[domid], held_s) for domid, held_s in held.items() if domid in guests]

    def look(self, guests: Mapping[int, Guest]) -> None:
        """Ask for some guests, where that is due, and tell of who holds a transaction.

        Raises:
            StoreError: the connection is lost.
        """
        now_s = self._clock.monotonic()
        if now_s < self._next_s or self._store.generation() == self._refused:
            return
        self._next_s = now_s + _EVERY_S
        for known in (self._use, self._open_since_s, self._told_s):
            for domid in known.keys() - guests.keys():
                del known[domid]
        for domid in self._turn(guests):
            try:
                use = self._store.usage(domid)
            except NotFoundError:
                continue  # it has just gone
            except DisconnectedError:
                raise
            except StoreError as error:
                self._refused = self._store.generation()
                log.info("event=store-use-unknown error=%r", str(error))
                return
            self._use[domid] = use
            if use.get("transactions", 0):
                self._open_since_s.setdefault(domid, now_s)
                self._tell(guests[domid], now_s)
            else:
                self._open_since_s.pop(domid, None)

    def _turn(self, guests: Mapping[int, Guest]) -> list[int]:
        """Return whom to ask for now: who had a transaction open, and the next of the others."""
        others = sorted(domid for domid in guests if domid and domid not in self._open_since_s)
        later = [domid for domid in others if domid > self._after]
        chosen = (later + others)[: min(_AT_ONCE, len(others))]
        self._after = chosen[-1] if chosen else -1
        return [*self._open_since_s, *chosen]

    def _tell(self, guest: Guest, now_s: float) -> None:
        domid = guest.info.domid
        held_s = self.held_s(domid)
        if held_s is None or now_s - self._told_s.get(domid, float("-inf")) < _TELL_EVERY_S:
            return
        self._told_s[domid] = now_s
        self._audit.record(
            "transaction-held",
            who=audit.DAEMON,
            text=_sentence(guest, held_s),
            uuid=guest.info.uuid,
            name=guest.info.name,
            level=logging.WARNING,
            held_s=round(held_s, 1),
        )


def _sentence(guest: Guest, held_s: float) -> str:
    held = f"holds a XenStore transaction open for {held_s:.0f} s"
    return f"{guest.info.name} {held}: that slows the writes of all VMs"

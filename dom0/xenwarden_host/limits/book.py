# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine's memory: wants and places, with the journal behind them.

Memory is what counts while we run. What it has and the journal has not, because the disk is full, is
kept and written with the next change; until then nothing new is set.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from xenwarden_host.limits.journal import JournalError, Want

if TYPE_CHECKING:
    from xenwarden_host.limits.journal import Journal
    from xenwarden_host.limits.place import Place
    from xenwarden_host.records import LimitKey

_log = logging.getLogger("xenwarden.limits")

# Whose word counts: the first of these that decided. A person's order stands before any decision, security
# before balance. Whoever decides, an original that is stricter stays.
PRECEDENCE = ("operator", "hsem", "hrem")

# Inactive places that are remembered, over all VMs.
MAX_INACTIVE = 10_000

Id = tuple[str, "LimitKey"]


class Book:
    """All wants and places, read from the journal once.

    Attributes:
        wants: per VM and key, then per rank.
        places: per VM and key, then per place.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.wants: dict[Id, dict[str, Want]] = {}
        self.places: dict[Id, dict[str, Place]] = {}
        self._puts: dict[object, Want | Place] = {}
        self._drops: dict[object, Want | Place] = {}
        for want in journal.wants():
            self.wants.setdefault((want.uuid, want.key), {})[want.rank] = want
        for place in journal.places():
            self.places.setdefault((place.uuid, place.key), {})[place.place] = place

    def want(self, id_: Id) -> Want | None:
        """Return the want that counts."""
        ranks = self.wants.get(id_, {})
        return next((ranks[rank] for rank in PRECEDENCE if rank in ranks), None)

    def all_wants(self) -> list[Want]:
        """Return every want of every rank."""
        return [want for ranks in self.wants.values() for want in ranks.values()]

    def known(self, id_: Id) -> dict[str, Place]:
        """Return the places of one limit."""
        return self.places.get(id_, {})

    def put(self, item: Want | Place) -> None:
        """Remember the item in place of the one with its id; `flush` writes it."""
        table, name = self._table(item)
        if table.get(name) != item:
            table[name] = item
            self._drops.pop(item.id, None)
            self._puts[item.id] = item

    def drop(self, item: Want | Place) -> None:
        """Forget the item; `flush` writes that."""
        table, name = self._table(item)
        if table.pop(name, None) is not None:
            if not table:
                (self.wants if isinstance(item, Want) else self.places).pop((item.uuid, item.key))
            self._puts.pop(item.id, None)
            self._drops[item.id] = item

    def forget_surplus(self) -> None:
        """Keep the number of inactive places bounded."""
        inactive = [place for places in self.places.values() for place in places.values() if not place.active]
        for place in inactive[: max(0, len(inactive) - MAX_INACTIVE)]:
            self.drop(place)

    def flush(self, *, durable: bool = True) -> bool:
        """Commit what memory has and the journal has not; tell whether the journal has it all.

        Not `durable`: what is put may be lost with the machine's power, not with this process.
        """
        if not self._puts and not self._drops:
            return True
        try:
            puts, drops = list(self._puts.values()), list(self._drops.values())
            self._journal.save(put=puts, drop=drops, durable=durable or bool(drops))
        except JournalError as problem:
            _log.error("event=journal-failed error=%r", problem.message)
            return False
        self._puts.clear()
        self._drops.clear()
        return True

    def _table(self, item: Want | Place) -> tuple[dict[str, Any], str]:
        if isinstance(item, Want):
            return self.wants.setdefault((item.uuid, item.key), {}), item.rank
        return self.places.setdefault((item.uuid, item.key), {}), item.place

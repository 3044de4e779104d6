# SPDX-License-Identifier: LGPL-2.1-or-later
"""State that outlives the daemon: what is kept of VMs in the database, and how often."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from xenwarden_host.database import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.daemon.ledger import Ledger
    from xenwarden_host.daemon.tracker import Tracker
    from xenwarden_host.database import Database
    from xenwarden_host.hrem.history import History
    from xenwarden_host.hrem.sprawl import Idle
    from xenwarden_host.hsem.hsem import Hsem
    from xenwarden_host.protocols import Clock

log = logging.getLogger("xenwarden")

_EVERY_S = 60.0
_HOURS_EVERY_S = 3600.0  # several kB of each VM, which change slowly


class Keeper:
    """Save and restore these parts."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        tracker: Tracker,
        history: History,
        hsem: Hsem,
        ledger: Ledger,
        idle: Idle,
    ) -> None:
        self._database = database
        self._clock = clock
        self._tracker = tracker
        self._history = history
        self._hsem = hsem
        self._ledger = ledger
        self._idle = idle
        self._next_s = 0.0
        self._next_hours_s = clock.monotonic() + _HOURS_EVERY_S

    def due(self) -> bool:
        """Tell whether it is time to save, once each time."""
        now_s = self._clock.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _EVERY_S
        return True

    def save(self, *, all_of_it: bool) -> None:
        """Save; what is kept seldom only when it is due, or with `all_of_it`.

        Raises:
            DatabaseError: not all could be written.
        """
        now_s, unix_s = self._clock.monotonic(), self._clock.unix()
        self._next_s = now_s + _EVERY_S
        self.save_decisions()
        known = self._tracker.dump()
        self._history.expire(self._tracker.vms(), now_s)
        for uuid in self._history.uuids():
            if uuid not in known:  # of the VMs that are gone, only the latest are kept
                self._history.forget(uuid)
        histories = {vm: self._history.dump(vm, hours=False) for vm in self._history.uuids()}
        self._database.save("history", histories, unix_s)
        if all_of_it or now_s >= self._next_hours_s:
            self._next_hours_s = now_s + _HOURS_EVERY_S
            self._database.save("hours", {vm: self._history.dump_hours(vm) for vm in histories}, unix_s)
        self._database.save("known", known, unix_s)
        self._database.save("idle", self._idle.dump(), unix_s)

    def save_decisions(self) -> None:
        """Save what was decided, and what of it was told.

        Raises:
            DatabaseError: it could not be written.
        """
        unix_s = self._clock.unix()
        self._database.save("hsem", self._hsem.dump(), unix_s)
        self._database.save("ledger", self._ledger.dump(), unix_s)

    def restore(self) -> None:
        """Take over what an earlier daemon kept; a part that cannot be read begins anew, and is told."""
        parts: tuple[tuple[str, Callable[[Any], None]], ...] = (
            ("history", self._restore_history),
            ("hours", self._restore_hours),
            ("hsem", self._hsem.restore),
            ("ledger", self._ledger.restore),
            ("known", self._tracker.restore),
            ("idle", self._idle.restore),
        )
        for key, take in parts:
            try:
                kept = self._database.load(key)
                if kept is not None:
                    take(kept)
            except (DatabaseError, ValueError, KeyError, TypeError, AttributeError):
                self._database.notices.append(f"what was kept of {key} could not be read: it begins anew")
                log.exception("event=restore-failed part=%s", key)

    def _restore_history(self, kept: Mapping[str, Any]) -> None:
        for uuid, data in kept.items():
            self._history.restore(uuid, data, self._clock.monotonic())

    def _restore_hours(self, kept: Mapping[str, Any]) -> None:
        for uuid in kept.keys() & self._history.uuids():
            self._history.restore_hours(uuid, kept[uuid])

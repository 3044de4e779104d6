# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the limit engine must not forget: what is wanted, and what was there before we changed it.

Two tables in the daemon's SQLite file, through a connection of their own, because this one pays for
`synchronous = FULL`: an original is on disk before the first change, also when power fails, since a
save file that carries our value may survive it. What was read back need not be: no domain survives that.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenwarden_host.errors import XenwardenError
from xenwarden_host.limits.place import Place
from xenwarden_host.records import LimitKey

if TYPE_CHECKING:
    from collections.abc import Iterable


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# Step n brings the tables from version n to n + 1.
_UPGRADES: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE limit_wants (uuid TEXT NOT NULL, key TEXT NOT NULL, rank TEXT NOT NULL,
            owner TEXT NOT NULL, value INTEGER NOT NULL, why TEXT NOT NULL, since_unix_s REAL NOT NULL,
            expires_unix_s REAL, PRIMARY KEY (uuid, key, rank)) WITHOUT ROWID""",
        """CREATE TABLE limit_places (uuid TEXT NOT NULL, key TEXT NOT NULL, place TEXT NOT NULL,
            active INTEGER NOT NULL, original TEXT, applied TEXT, intended TEXT, texts TEXT NOT NULL,
            domid INTEGER NOT NULL, PRIMARY KEY (uuid, key, place)) WITHOUT ROWID""",
        "CREATE TABLE limit_boot (boot_id TEXT NOT NULL)",
    ),
)
SCHEMA_VERSION = len(_UPGRADES)

NO_DOMID = -1


class JournalError(XenwardenError):
    """The journal could not be opened, read or written: no limit is set that it does not hold."""


def rank_of(owner: str) -> str:
    """Return whose word an owner's is: `operator` of `operator:root`."""
    return owner.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Want:
    """A limit that somebody decided. One stands per VM, key and rank (`owner` up to its colon)."""

    uuid: str
    key: LimitKey
    owner: str
    value: int
    why: str
    since_unix_s: float
    expires_unix_s: float | None

    @property
    def rank(self) -> str:
        """Whose word this is: `operator`, `hsem`."""
        return rank_of(self.owner)

    @property
    def id(self) -> tuple[str, LimitKey, str]:
        """What the want is known by."""
        return self.uuid, self.key, self.rank


class Journal:
    """The tables, opened and brought up to date.

    Args:
        where: the SQLite file, made where there is none.
        boot_id: of this boot of dom0. After another one no domain is the one it was, whatever its domid.

    Raises:
        JournalError: not openable, or of a newer xenwarden.
    """

    def __init__(self, where: Path | str, *, boot_id: str | None = None) -> None:
        self._where = where
        try:
            # isolation_level None: transactions are ours to begin.
            self._connection = sqlite3.connect(where, isolation_level=None, timeout=2.0)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._upgrade()
            self._note_boot(boot_id if boot_id is not None else _BOOT_ID.read_text(encoding="ascii").strip())
        except (OSError, sqlite3.Error) as problem:
            raise JournalError(
                f"cannot open the limit journal in {where}: {problem}", "check that its directory has space"
            ) from problem

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def wants(self) -> list[Want]:
        """Return all wants."""
        rows = self._rows(
            "SELECT uuid, key, owner, value, why, since_unix_s, expires_unix_s FROM limit_wants"
        )
        return [Want(uuid, LimitKey.parse(key), *rest) for uuid, key, *rest in rows]

    def places(self) -> list[Place]:
        """Return all places."""
        columns = "uuid, key, place, active, original, applied, intended, texts, domid"
        rows = self._rows(f"SELECT {columns} FROM limit_places")  # noqa: S608  the columns are ours
        return [
            Place(
                uuid,
                LimitKey.parse(key),
                place,
                bool(active),
                original,
                applied,
                intended,
                tuple(json.loads(texts)),
                domid,
            )
            for uuid, key, place, active, original, applied, intended, texts, domid in rows
        ]

    def save(
        self,
        *,
        put: Iterable[Want | Place] = (),
        drop: Iterable[Want | Place] = (),
        durable: bool = True,
    ) -> None:
        """Write and remove, all or nothing; on return it is on disk.

        Args:
            put: written.
            drop: removed.
            durable: False: on return it outlives this process, but not a power failure.

        Raises:
            JournalError: nothing was written (disk full, file damaged).
        """
        try:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for item in drop:
                    self._drop(item)
                for item in put:
                    self._put(item)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as problem:
            raise JournalError(f"cannot write the limit journal in {self._where}: {problem}") from problem

    def _put(self, item: Want | Place) -> None:
        if isinstance(item, Want):
            self._connection.execute(
                "INSERT OR REPLACE INTO limit_wants VALUES (?,?,?,?,?,?,?,?)",
                (
                    item.uuid,
                    str(item.key),
                    item.rank,
                    item.owner,
                    item.value,
                    item.why,
                    item.since_unix_s,
                    item.expires_unix_s,
                ),
            )
        else:
            self._connection.execute(
                "INSERT OR REPLACE INTO limit_places VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    item.uuid,
                    str(item.key),
                    item.place,
                    item.active,
                    item.original,
                    item.applied,
                    item.intended,
                    json.dumps(item.texts),
                    item.domid,
                ),
            )

    def _drop(self, item: Want | Place) -> None:
        table, column, name = (
            ("limit_wants", "rank", item.rank)
            if isinstance(item, Want)
            else ("limit_places", "place", item.place)
        )
        self._connection.execute(
            f"DELETE FROM {table} WHERE uuid = ? AND key = ? AND {column} = ?",  # noqa: S608  both are ours
            (item.uuid, str(item.key), name),
        )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query).fetchall()
        except sqlite3.Error as problem:
            raise JournalError(f"cannot read the limit journal in {self._where}: {problem}") from problem

    def _upgrade(self) -> None:
        """Bring older tables to this version in one transaction; the old file is kept beside it."""
        connection = self._connection
        connection.execute("CREATE TABLE IF NOT EXISTS limit_schema (version INTEGER NOT NULL)")
        row = connection.execute("SELECT version FROM limit_schema").fetchone()
        version = 0 if row is None else int(row[0])
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the limit journal in {self._where} has version {version}, this xenwarden knows up to "
                f"{SCHEMA_VERSION}",
                "install the newer xenwarden again: the journal holds originals that must be restored",
            )
        if version == SCHEMA_VERSION:
            return
        if version > 0:
            with closing(sqlite3.connect(f"{self._where}.limits-v{version}")) as copy:
                connection.backup(copy)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in (s for step in _UPGRADES[version:] for s in step):
                connection.execute(statement)
            connection.execute("DELETE FROM limit_schema")
            connection.execute("INSERT INTO limit_schema VALUES (?)", (SCHEMA_VERSION,))
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _note_boot(self, boot_id: str) -> None:
        row = self._connection.execute("SELECT boot_id FROM limit_boot").fetchone()
        if row is not None and row[0] == boot_id:
            return
        moved = [replace(place, domid=NO_DOMID) for place in self.places()]
        self.save(put=moved)
        self._connection.execute("DELETE FROM limit_boot")
        self._connection.execute("INSERT INTO limit_boot VALUES (?)", (boot_id,))

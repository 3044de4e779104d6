# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's one SQLite file: audit log, and state that outlives the daemon.

The limit engine keeps its journal in the same file through a connection of its own. A file that is
damaged is set aside under another name, never removed, and `notices` says so until an admin has it
moved away. A full disk is survived: what could not be written is counted and told.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FILE_NAME = "state.db"

# Step n brings the file from version n to n + 1. The version stands in the table `daemon_schema`,
# because PRAGMA user_version belongs to the whole file and the journal is another owner in it.
_UPGRADES: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE audit (id INTEGER PRIMARY KEY, unix_s REAL NOT NULL, mono_s REAL NOT NULL,
           event TEXT NOT NULL, uuid TEXT NOT NULL, name TEXT NOT NULL, who TEXT NOT NULL,
           text TEXT NOT NULL, data TEXT NOT NULL)""",
        "CREATE INDEX audit_uuid ON audit (uuid, id)",
        "CREATE TABLE kept (key TEXT PRIMARY KEY, value TEXT NOT NULL, unix_s REAL NOT NULL)",
    ),
)
SCHEMA_VERSION = len(_UPGRADES)

_TRIM_EVERY = 1_000  # inserts


class DatabaseError(XenwardenError):
    """The database could not be opened, read or written."""


class Database:
    """The file at `path`, opened; made where there is none. The audit log keeps so many rows and days.

    Raises:
        DatabaseError: the file is of a newer xenwarden, or its directory cannot be written.
    """

    def __init__(self, path: Path, *, audit_rows: int, audit_days: int) -> None:
        self.path = path
        self.notices = set_aside_if_damaged(path)
        self._audit_rows = audit_rows
        self._audit_days = audit_days
        self._inserts = 0
        try:
            _create_private(path)
            self._connection = _connect(path)
            self._upgrade()
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(
                f"cannot open {path}: {error}", hint="check that its directory exists and has space"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add_audit(
        self,
        *,
        unix_s: float,
        mono_s: float,
        event: str,
        uuid: str,
        name: str,
        who: str,
        text: str,
        data: Mapping[str, Any],
    ) -> int:
        """Append one entry and return its id; now and then those beyond the bounds go.

        Raises:
            DatabaseError: not written (disk full, file damaged).
        """
        try:
            cursor = self._connection.execute(
                "INSERT INTO audit (unix_s, mono_s, event, uuid, name, who, text, data) "
                "VALUES (?,?,?,?,?,?,?,?)",
                (unix_s, mono_s, event, uuid, name, who, text, json.dumps(dict(data))),
            )
            self._inserts += 1
            # With the first as well: a daemon that is restarted often would never come to so many.
            if self._inserts == 1 or self._inserts % _TRIM_EVERY == 0:
                self._trim_audit(unix_s)
        except sqlite3.Error as error:
            raise DatabaseError(f"cannot write the audit log to {self.path}: {error}") from error
        return int(cursor.lastrowid or 0)

    def _trim_audit(self, unix_s: float) -> None:
        """Remove what is too old; of too many, the oldest of those VMs that have the most.

        A VM that makes noise loses its own entries first and expels no other's.
        """
        self._connection.execute("DELETE FROM audit WHERE unix_s < ?", (unix_s - self._audit_days * 86400.0,))
        rows = self._connection.execute("SELECT uuid, count(*) FROM audit GROUP BY uuid").fetchall()
        keep = _fair_share([count for _uuid, count in rows], self._audit_rows)
        for uuid, count in rows:
            if count > keep:
                self._connection.execute(
                    "DELETE FROM audit WHERE uuid = ? AND id IN "
                    "(SELECT id FROM audit WHERE uuid = ? ORDER BY id LIMIT ?)",
                    (uuid, uuid, count - keep),
                )

    def audit(self, *, limit: int, uuid: str | None = None) -> list[dict[str, Any]]:
        """Return the newest `limit` entries, oldest first; of one VM where `uuid` is given.

        Raises:
            DatabaseError: not readable.
        """
        where, values = ("WHERE uuid = ?", [uuid]) if uuid is not None else ("", [])
        try:
            rows = self._connection.execute(
                f"SELECT id, unix_s, mono_s, event, uuid, name, who, text, data FROM audit {where} "  # noqa: S608  both forms of `where` are ours
                "ORDER BY id DESC LIMIT ?",
                [*values, limit],
            ).fetchall()
        except sqlite3.Error as error:
            raise DatabaseError(f"cannot read the audit log in {self.path}: {error}") from error
        columns = ("id", "unix_s", "mono_s", "event", "uuid", "name", "who", "text", "data")
        entries = [dict(zip(columns, row, strict=True)) for row in reversed(rows)]
        for entry in entries:
            entry["data"] = json.loads(entry["data"])
        return entries

    def save(self, key: str, value: Any, unix_s: float) -> None:
        """Keep `value` (JSON) under `key`, in place of what was there.

        Raises:
            DatabaseError: not written; what was there stands.
        """
        try:
            self._connection.execute(
                "INSERT INTO kept (key, value, unix_s) VALUES (?,?,?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value, unix_s = excluded.unix_s",
                (key, json.dumps(value), unix_s),
            )
        except sqlite3.Error as error:
            raise DatabaseError(f"cannot write {key} to {self.path}: {error}") from error

    def load(self, key: str) -> Any:
        """Return what was kept under `key`, None where there is nothing.

        Raises:
            DatabaseError: not readable.
        """
        try:
            row = self._connection.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise DatabaseError(f"cannot read {key} from {self.path}: {error}") from error
        return None if row is None else json.loads(row[0])

    def _upgrade(self) -> None:
        """Bring an older file to this version in one transaction, keeping a copy of the old one."""
        connection = self._connection
        connection.execute("CREATE TABLE IF NOT EXISTS daemon_schema (version INTEGER NOT NULL)")
        row = connection.execute("SELECT version FROM daemon_schema").fetchone()
        version = 0 if row is None else int(row[0])
        if version > SCHEMA_VERSION:
            raise DatabaseError(
                f"{self.path} has schema version {version}, this xenwardend knows up to {SCHEMA_VERSION}",
                hint="install the newer xenwarden again, or move the file away to start without its state",
            )
        if version == SCHEMA_VERSION:
            return
        if version > 0:
            copy = self.path.with_name(f"{self.path.name}.v{version}")
            _create_private(copy)
            with closing(sqlite3.connect(copy)) as target:
                connection.backup(target)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for step in _UPGRADES[version:]:
                for statement in step:
                    connection.execute(statement)
            connection.execute("DELETE FROM daemon_schema")
            connection.execute("INSERT INTO daemon_schema VALUES (?)", (SCHEMA_VERSION,))
        except sqlite3.Error:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _fair_share(counts: Sequence[int], total: int) -> int:
    """Return the most that each may keep so that all keep at most `total`; none is cut below another."""
    left = total
    for index, count in enumerate(sorted(counts)):
        share = left // (len(counts) - index)
        if count > share:
            return share
        left -= count
    return max(counts, default=0)


def set_aside_if_damaged(path: Path) -> list[str]:
    """Rename an SQLite file that is refused or found torn, and what belongs to it.

    Returns:
        A sentence for an admin about each such file that is still there.
    """
    if path.exists() and _check(path) is not None:
        number = 1
        while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm"):
            side = Path(f"{path}{suffix}")
            if side.exists():
                side.rename(f"{aside}{suffix}")
        path.rename(aside)
        path.touch(mode=0o600)
    return [
        f"a damaged database was set aside as {aside}: originals of limits that were in force "
        "may be in it only; look with sqlite3, then move it away"
        for aside in sorted(path.parent.glob(f"{path.name}.damaged-*"))
        if not aside.name.endswith(("-wal", "-shm"))
    ]


def _create_private(path: Path) -> None:
    """Make the file readable by its owner only, before SQLite would make it by the umask."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: each statement is its own transaction unless BEGIN says otherwise.
    connection = sqlite3.connect(path, isolation_level=None, timeout=2.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # the audit log may lose its last second, no more
    return connection


def _check(path: Path) -> str | None:
    """Return what is wrong with the file, None where SQLite finds it sound."""
    try:
        with closing(sqlite3.connect(path, timeout=2.0)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        # A lock, a missing permission or a full disk is no damage.
        return None if "malformed" not in str(error) else str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if verdict == "ok" else str(verdict)

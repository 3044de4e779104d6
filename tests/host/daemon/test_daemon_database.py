# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state file: private, bounded, upgraded in place, never silently dropped."""

from __future__ import annotations

import logging
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from xenwarden_host.audit import Audit, logfmt
from xenwarden_host.daemon.clock import FakeClock
from xenwarden_host.database import Database, DatabaseError
from xenwarden_host.limits.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


def opened(path: Path, rows: int = 1000) -> Database:
    return Database(path, audit_rows=rows, audit_days=90)


def add(database: Database, text: str, *, unix_s: float = 1e9, uuid: str = "u") -> int:
    return database.add_audit(
        unix_s=unix_s, mono_s=1.0, event="state", uuid=uuid, name="web", who="hsem", text=text, data={"n": 1}
    )


def test_audit_and_kept_values_outlive_the_daemon(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "state.db")) as database:
        add(database, "first")
        add(database, "second", uuid="other")
        database.save("hsem", {"a": [1, 2]}, 1e9)
        database.save("hsem", {"a": [3]}, 1e9)
    with closing(opened(tmp_path / "state.db")) as database:
        assert [entry["text"] for entry in database.audit(limit=10)] == ["first", "second"]
        assert [entry["text"] for entry in database.audit(limit=10, uuid="u")] == ["first"]
        assert database.audit(limit=1)[0]["data"] == {"n": 1}
        assert database.load("hsem") == {"a": [3]}
        assert database.load("nothing") is None
        assert database.notices == []


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "state.db")) as database:
        add(database, "x")
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_audit_log_is_bounded_in_rows_and_days(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "state.db", rows=50)) as database:
        for number in range(1000):
            add(database, str(number))
        texts = [entry["text"] for entry in database.audit(limit=5000)]
        assert texts == [str(number) for number in range(950, 1000)]
        for number in range(1000):
            add(database, f"later {number}", unix_s=1e9 + 91 * 86400)
        assert len(database.audit(limit=5000)) == 50


def test_audit_log_of_a_daemon_that_is_restarted_often_is_bounded_too(tmp_path: Path) -> None:
    for start in range(9):
        with closing(opened(tmp_path / "state.db", rows=5)) as database:
            for number in range(3):
                add(database, f"{start}.{number}")
    with closing(opened(tmp_path / "state.db")) as database:
        assert len(database.audit(limit=5000)) <= 5 + 3
        assert database.audit(limit=1)[0]["text"] == "8.2"


def test_noise_of_one_vm_expels_no_entry_of_another(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "state.db", rows=50)) as database:
        for number in range(10):
            add(database, f"verdict {number}", uuid="quiet")
        for number in range(1990):
            add(database, str(number), uuid=f"noisy {number % 2}")
        assert [entry["text"] for entry in database.audit(limit=5000, uuid="quiet")] == [
            f"verdict {number}" for number in range(10)
        ]
        noisy = [database.audit(limit=5000, uuid=f"noisy {which}") for which in (0, 1)]
        assert [len(entries) for entries in noisy] == [20, 20]
        assert noisy[1][-1]["text"] == "1989"  # the newest stay


@pytest.mark.parametrize(
    "damage", [b"this is no database, whatever its name says" * 20, b"SQLite format 3\0" + b"\xff" * 8000]
)
def test_damaged_file_is_set_aside_and_told_until_moved_away(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(damage)
    with closing(opened(path)) as database:
        add(database, "goes on")
        (notice,) = database.notices
    aside = tmp_path / "state.db.damaged-1"
    assert str(aside) in notice
    assert aside.read_bytes() == damage
    with closing(opened(path)) as database:
        assert len(database.notices) == 1
        assert [entry["text"] for entry in database.audit(limit=9)] == ["goes on"]
    aside.unlink()
    with closing(opened(path)) as database:
        assert database.notices == []


def test_torn_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(opened(path)) as database:
        for number in range(500):
            add(database, f"entry {number}" * 20)
    raw = bytearray(path.read_bytes())
    raw[8192:16384] = b"\xa5" * 8192
    path.write_bytes(raw)
    with closing(opened(path)) as database:
        assert len(database.notices) == 1


def test_file_of_a_newer_xenwarden_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened(path).close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE daemon_schema SET version = 99")
    with pytest.raises(DatabaseError) as caught:
        opened(path)
    assert "99" in caught.value.message
    assert caught.value.hint


def test_journal_lives_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(opened(path)) as database, closing(Journal(path)) as journal:
        add(database, "beside the journal")
        assert journal.wants() == []
    with closing(opened(path)) as database:
        assert database.notices == []


def test_full_disk_loses_the_entry_and_not_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(tmp_path / "state.db")) as database:
        audit = Audit(database, FakeClock())
        followed: list[dict[str, Any]] = []
        audit.subscribe(followed.append)
        pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
        database._connection.execute(f"PRAGMA max_page_count = {pages}")
        logging.getLogger("xenwarden").propagate = True
        with caplog.at_level(logging.INFO):
            for number in range(300):
                audit.record("state", who="hsem", text=f"event {number} " + "x" * 200)
        assert audit.lost > 0
        assert len(followed) == 300
        # A record may be caught twice, by two loggers that a test before left so.
        lost = {id(record) for record in caplog.records if "audit-lost" in record.getMessage()}
        assert len(lost) == 1
        database._connection.execute("PRAGMA max_page_count = 1000000")
        audit.record("state", who="hsem", text="space again")
        assert database.audit(limit=1)[0]["text"] == "space again"


def test_log_line_quotes_what_could_be_taken_for_more_fields() -> None:
    line = logfmt({"vm": "a b=c", "n": 1.5, "why": 'says "x"\n', "on": True, "empty": ""})
    assert line == r'vm="a b=c" n=1.5 why="says \"x\"\n" on=true empty=""'

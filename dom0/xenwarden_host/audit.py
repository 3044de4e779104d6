# SPDX-License-Identifier: LGPL-2.1-or-later
"""The audit log: who or what did what to which VM, why, and what was there before.

Each entry goes to the database, to the log as one line of `name=value` words, and to those who
follow `xenwarden events`.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from typing import TYPE_CHECKING, Any

from xenwarden_channel.errors import StoreError
from xenwarden_host.database import DatabaseError
from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenwarden_host.database import Database
    from xenwarden_host.protocols import Clock

log = logging.getLogger("xenwarden.audit")

HSEM = "hsem"  # `who` of what HSEM decided
HREM = "hrem"  # `who` of what HREM did with resources
DAEMON = "xenwardend"  # `who` of what the daemon did by itself
_COMPLAIN_EVERY_S = 60.0


class Audit:
    """Record events; `subscribe` hands each entry on as the dict that `xenwarden events --json` prints."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._subscribers: list[Callable[[dict[str, Any]], object]] = []
        self._next_complaint_s = 0.0
        self.lost = 0  # entries that did not reach the database

    def subscribe(self, callback: Callable[[dict[str, Any]], object]) -> None:
        """Have `callback` called with each entry from now on."""
        self._subscribers.append(callback)

    def record(
        self,
        event: str,
        *,
        who: str,
        text: str,
        uuid: str = "",
        name: str = "",
        level: int = logging.INFO,
        **data: Any,
    ) -> None:
        """Record one event. `event` is a short stable name, `text` one sentence, `data` its figures.

        Never raises: a limit that is set must not fail because its log entry did.
        """
        unix_s, mono_s = self._clock.unix(), self._clock.monotonic()
        entry: dict[str, Any] = {
            "id": None, "unix_s": unix_s, "mono_s": mono_s, "event": event, "uuid": uuid, "name": name,
            "who": who, "text": text, "data": data,
        }  # fmt: skip
        # Evidence is in the sentence already, and in the database in full.
        plain = {key: value for key, value in data.items() if key != "evidence"}
        fields = {"event": event, "vm": name, "uuid": uuid, "who": who, **plain, "text": text}
        log.log(level, "%s", logfmt({key: value for key, value in fields.items() if value not in ("", None)}))
        try:
            entry["id"] = self._database.add_audit(
                unix_s=unix_s, mono_s=mono_s, event=event, uuid=uuid, name=name, who=who, text=text, data=data
            )
        except DatabaseError:
            self.lost += 1
            if mono_s >= self._next_complaint_s:
                self._next_complaint_s = mono_s + _COMPLAIN_EVERY_S
                log.exception("event=audit-lost count=%d", self.lost)
        for callback in self._subscribers:
            callback(entry)


def logfmt(fields: dict[str, Any]) -> str:
    """Return `name=value` words; text with anything but plain characters is quoted as JSON does."""
    return " ".join(f"{name}={_logfmt_value(value)}" for name, value in fields.items())


def _logfmt_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)


class JournalFormatter(logging.Formatter):
    """Format for stderr: journald's `<priority>` in front where journald reads it, nothing else."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))

    def __init__(self, *, debug: bool) -> None:
        super().__init__("%(message)s")
        self._prefix = _stderr_is_journal()
        self._debug = debug

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line with the error in it; the traceback only with `--debug`."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not self._debug:
            text = f"{record.getMessage()} {logfmt(_told(error))}"
        else:
            text = super().format(record)
        if not self._prefix:
            return text
        number = next((n for level, n in self._PRIORITIES if record.levelno >= level), 7)
        # journald takes each line as an entry of its own
        return "\n".join(f"<{number}>{line}" for line in text.splitlines())


def _stderr_is_journal() -> bool:
    """Tell whether standard error is what systemd named: a shell of a service inherits the name only."""
    device, _colon, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        here = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(here.st_dev), str(here.st_ino))


def _told(error: BaseException) -> dict[str, Any]:
    """Return an error as fields: what a user can be shown in words, a bug with its place."""
    if isinstance(error, (XenwardenError, StoreError)):
        return {"error": str(error)}
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else None  # noqa: PTH119
    return {"error": str(error), "type": type(error).__name__, "at": place}

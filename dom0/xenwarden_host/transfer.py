# SPDX-License-Identifier: LGPL-2.1-or-later
"""Carry what a daemon knows from one state directory to another: policy, history, limits, true originals.

The file is JSON with a version and a checksum of what it carries. Domain ids stay behind: on another host,
and after a reinstallation, the VMs are known by their UUIDs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenwarden_host import __version__
from xenwarden_host.database import FILE_NAME, Database
from xenwarden_host.errors import XenwardenError
from xenwarden_host.limits.journal import NO_DOMID, Journal, Want
from xenwarden_host.limits.place import Place
from xenwarden_host.policy.load import load
from xenwarden_host.records import LimitKey

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = "xenwarden-state"
VERSION = 1
# What the daemon keeps besides the audit log, which stays where it was written.
_KEPT = ("history", "hours", "known", "hsem", "ledger")
_AUDIT = {"audit_rows": 1, "audit_days": 1}  # not written here


def export(state_dir: Path, config: Path) -> dict[str, Any]:
    """Return all of a state directory's; xenwardend may run.

    Raises:
        XenwardenError: there is none, it is damaged, or may not be read.
    """
    with _copy(state_dir / FILE_NAME) as copy:
        database = Database(copy, **_AUDIT)
        if database.notices:
            raise XenwardenError(f"{state_dir / FILE_NAME} is damaged", "start xenwardend: it sets it aside")
        with closing(database), closing(Journal(copy)) as journal:
            state = {
                "policy": _text(config) if config.exists() else None,
                "kept": {key: database.load(key) for key in _KEPT},
                "wants": [_plain(want) for want in journal.wants()],
                "places": [_plain(place) for place in journal.places()],
            }
    return {
        "format": FORMAT,
        "version": VERSION,
        "xenwarden": __version__,
        "unix_s": round(time.time(), 3),
        "sha256": _checksum(state),
        "state": state,
    }


def restore(text: str, state_dir: Path, config: Path, *, dry_run: bool) -> dict[str, Any]:
    """Fill an empty state directory with what `export` gave; return what was taken.

    Raises:
        XenwardenError: the text is damaged or newer, or there is something already that it would hide.
    """
    state = _checked(text)
    try:
        kept = {key: state["kept"][key] for key in _KEPT}
        wants = [_want(data) for data in state["wants"]]
        places = [_place(data) for data in state["places"]]
        items: list[Want | Place] = [*wants, *places]
        policy = state["policy"]
        vms = {item.uuid for item in items} | set(kept["history"] or ())
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise XenwardenError(f"the file is damaged: {problem!r}") from None
    if state_dir.exists() and any(state_dir.iterdir()):
        raise XenwardenError(
            f"{state_dir} is not empty", "stop xenwardend and move away what is there, or leave it be"
        )
    with_policy = _check_policy(policy, config)
    taken = {
        "vms": len(vms),
        "limits": len(wants),
        "originals": len(places),
        "policy": str(config) if with_policy else None,
    }
    if not dry_run:
        try:
            _fill(state_dir, kept, items)
            if with_policy:
                _write_whole(config, policy)
        except OSError as problem:
            raise XenwardenError(f"cannot write {state_dir}: {problem.strerror}", "be root") from None
    return taken


@contextmanager
def _copy(path: Path) -> Iterator[Path]:
    """Yield a copy as of one moment, whatever the daemon does."""
    if not path.exists():
        raise XenwardenError(f"there is no {path}", "xenwardend never ran with this directory")
    with tempfile.TemporaryDirectory(prefix="xenwarden-export-") as folder:
        copy = Path(folder) / FILE_NAME
        try:
            with (
                closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as problem:
            raise XenwardenError(f"cannot read {path}: {problem}", "be root; is it damaged?") from None
        yield copy


def _checked(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(data["format"])  # noqa: TRY301  told below like the others
        version, state, checksum = data["version"], data["state"], data["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise XenwardenError("this is no export of xenwarden, or it was cut short") from None
    if version != VERSION:
        raise XenwardenError(
            f"the export has version {version}, this xenwarden knows {VERSION}", "install the newer xenwarden"
        )
    if not isinstance(state, dict) or _checksum(state) != checksum:
        raise XenwardenError("the file is damaged: its checksum does not fit", "export it again")
    return state


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _plain(item: Want | Place) -> dict[str, Any]:
    return {**asdict(item), "key": str(item.key)} | ({"domid": NO_DOMID} if isinstance(item, Place) else {})


def _want(data: dict[str, Any]) -> Want:
    return Want(**_fields(Want, data))


def _place(data: dict[str, Any]) -> Place:
    return Place(**{**_fields(Place, data), "texts": tuple(data["texts"]), "domid": NO_DOMID})


def _fields(kind: type[Want | Place], data: dict[str, Any]) -> dict[str, Any]:
    return {item.name: data[item.name] for item in fields(kind)} | {"key": LimitKey.parse(data["key"])}


def _check_policy(policy: str | None, config: Path) -> bool:
    """Tell whether the policy is to be written.

    Raises:
        XenwardenError: it is none, or another one is there.
    """
    if policy is None or (config.exists() and _text(config) == policy):
        return False
    if config.exists():
        raise XenwardenError(f"{config} is another policy than the export's", "move it away first")
    with tempfile.TemporaryDirectory(prefix="xenwarden-import-") as folder:
        file = Path(folder) / config.name
        file.write_text(policy, encoding="utf-8")
        load(file)
    return True


def _fill(state_dir: Path, kept: dict[str, Any], items: list[Want | Place]) -> None:
    """Make the database under another name first: half of it would be taken for all."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = state_dir / f"{FILE_NAME}.import"
    try:
        with closing(Database(part, **_AUDIT)) as database, closing(Journal(part)) as journal:
            journal.save(put=items)
            for key, value in kept.items():
                if value is not None:
                    database.save(key, value, time.time())
        part.rename(state_dir / FILE_NAME)
    except BaseException:
        for file in state_dir.glob(f"{part.name}*"):
            file.unlink()
        raise


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise XenwardenError(f"cannot read {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise XenwardenError(f"cannot read {path}: it is no text") from None

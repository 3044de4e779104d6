# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads `xenstore/xenstore-paths.md`, and holds a live store against it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xenwarden_channel import messages

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "xenstore" / "xenstore-paths.md"

_NUMBER = re.compile(r"\d{1,16}(\.\d{1,6})?", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,23}", re.ASCII)


@dataclass
class Entry:
    """One path of the page: `kind` of its message, `fields` with their VALUES, `signals` with their unit."""

    path: str
    values: str
    tags: str
    fields: dict[str, str] = field(default_factory=dict)
    signals: dict[str, tuple[str, str]] = field(default_factory=dict)
    text: str = ""

    @property
    def kind(self) -> str:
        """Return the kind of message, empty where the path holds none."""
        return self.values.removeprefix('MESSAGE "').rstrip('"') if self.values.startswith("MESSAGE") else ""


@dataclass
class Contract:
    """The page."""

    entries: dict[str, Entry]
    limits: dict[str, int]


def read_page() -> Contract:
    """Parse the page."""
    entries: dict[str, Entry] = {}
    limits: dict[str, int] = {}
    entry: Entry | None = None
    for line in PAGE.read_text().splitlines():
        if line.startswith("#### "):
            match = re.fullmatch(r"#### (\S+?)(?: = (.+?))? \[(.*)\]", line)
            assert match, f"not in Xen's notation: {line}"
            entry = Entry(match[1], match[2] or "", match[3])
            assert entry.path not in entries, f"given twice: {entry.path}"
            entries[entry.path] = entry
        elif line.startswith("#"):
            entry = None
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if entry is None and cells[-1].isdecimal():
                limits[cells[0]] = int(cells[-1])
            elif entry is not None and cells[0].startswith("`"):
                _add_row(entry, cells)
        elif entry is not None:
            entry.text += line + "\n"
    return Contract(entries, limits)


def _add_row(entry: Entry, cells: list[str]) -> None:
    names = re.findall(r"`(\w+)`", cells[0])
    if " to " in cells[0]:
        first, last = names
        names = [f"{first[:-1]}{number}" for number in range(int(first[-1]), int(last[-1]) + 1)]
    for name in names:
        assert name not in entry.fields, f"{entry.path}: {name} given twice"
        entry.fields[name] = cells[1].replace("\\|", "|")
        if len(cells) == 4:
            entry.signals[name] = (cells[2], cells[3])


def violations(listing: str) -> list[str]:
    """Return what in a store breaks the contract, in sentences; `listing` is what `xenstore-ls -fp` prints.

    Only what lies below the directories of the page is looked at.
    """
    contract = read_page()
    found = []
    for line in listing.splitlines():
        match = re.fullmatch(r'(/\S*) = "(.*)" +\(([^)]*)\)', line)
        if match is None:
            continue
        path, value, permissions = match[1], match[2], match[3]
        home = re.match(r"/local/domain/(\d+)(?=/)", path)
        short = "~" + path[home.end() :] if home else path
        if not re.match(r"(~/data|~|/tool)/xenwarden(/|$)", short):
            continue
        entry = contract.entries.get(short) or contract.entries.get(_aggregate(short))
        if entry is None:
            found.append(f"{path} is not on the page")
            continue
        found += [
            f"{path}: {text}" for text in _bad_permissions(entry, permissions, int(home[1]) if home else 0)
        ]
        if entry.kind:
            found += [f"{path}: {text}" for text in _bad_message(contract, entry, value.encode())]
    return found


def _aggregate(short: str) -> str:
    for directory, key in (("policy", "$KEY"), ("vm", "$UUID/$KEY")):
        if f"{short}/".startswith(
            f"/tool/xenwarden/{directory}/"
        ):  # what is on the way to a key is as the key
            return f"/tool/xenwarden/{directory}/{key}"
    return re.sub(r"(?<=/headers/)\d+$", "$DOMID", short)


def _bad_permissions(entry: Entry, permissions: str, domid: int) -> list[str]:
    if domid == 0:
        return []  # dom0's own agent: dom0 may do everything anyhow
    wanted = {"w": f"n{domid}", "": f"n0,r{domid}", "n": "n0"}[entry.tags]
    return [] if permissions == wanted else [f"permissions are {permissions}, not {wanted}"]


def _bad_message(contract: Contract, entry: Entry, value: bytes) -> list[str]:
    try:
        message = messages.parse(value, entry.kind)
    except messages.MessageError as error:
        return [str(error)]
    fields = dict(entry.fields)
    if entry.kind == "history":
        fields.update(dict.fromkeys(contract.entries["~/data/xenwarden/report"].signals, "NUMBER"))
    return [
        f"field {name} is not on the page" if name not in fields else f"{name} is no {fields[name]}: {text!r}"
        for name, text in message.fields.items()
        if name not in fields or not is_value(fields[name], text)
    ]


def is_value(values: str, text: str) -> bool:
    """Tell whether `text` is one of VALUES as the page defines them."""
    if values.startswith("("):
        return text in re.findall(r'"([^"]*)"', values)
    return _CHECKS[values](text)


def _all(check: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: not text or all(check(part) for part in text.split(","))


def _is_number(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and float(text) <= 1e15


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


def _is_peer(text: str) -> bool:
    parts = text.split(",")
    try:
        ipaddress.ip_address(parts[0])
    except ValueError:
        return False
    return (
        len(parts) == 5
        and parts[1] in ("tcp", "udp", "icmp", "other")
        and parts[2].isdecimal()
        and int(parts[2]) <= 65535
        and all(map(_is_number, parts[3:]))
    )


_CHECKS: dict[str, Callable[[str], bool]] = {
    "NUMBER": _is_number,
    "INTEGER": lambda text: _is_number(text) and "." not in text,
    "HEX8": lambda text: bool(re.fullmatch("[0-9a-f]{8}", text)),
    "NAME": lambda text: not text or bool(_NAME.fullmatch(text)),
    "NAMES": _all(lambda text: bool(_NAME.fullmatch(text))),
    "LIMITS": _all(lambda text: 1 <= len(parts := text.split("/")) <= 2 and all(map(_NAME.fullmatch, parts))),
    "WORD": lambda _text: True,  # all that a message can carry
    "NETWORKS": _all(_is_network),
    "DOMIDS": _all(str.isdecimal),
    "NUMBERS": _all(_is_number),
    "PEER": _is_peer,
}

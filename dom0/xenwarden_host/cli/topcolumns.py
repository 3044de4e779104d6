# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of columns of `xenwarden top`: what each shows, how it sorts, what fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xenwarden_host.cli.output import clock_time, columns, cut, printable, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GAP = " "
_STATES = ("contained", "watched", "protected", "normal")  # those that an admin should look at stand first
_LEAST_EVENT = 24  # columns below which there is no last event
_LEAST_NAME, _MOST_NAME = 8, 32


class Column(NamedTuple):
    """A column: `text` of a cell, `key` to sort by (ascending)."""

    name: str
    title: str
    width: int  # 0: what is left
    right: bool
    text: Callable[[dict[str, Any]], str]
    key: Callable[[dict[str, Any]], Any]


def event_of(vm: dict[str, Any]) -> str:
    """Return a VM's last event with its time."""
    event = vm["event"]
    return f"{clock_time(event['unix_s'])} {printable(event['text'])}" if event else "-"


def _figures(name: str, title: str, width: int, member: str) -> Column:
    return Column(name, title, width, True, lambda vm: short(vm[member]), lambda vm: -(vm[member] or 0))


def _urgency(vm: dict[str, Any]) -> tuple[int, bool, float]:
    return _STATES.index(vm["state"]), not vm["limits"], -(vm["cpu_pct"] or 0)


COLUMNS = (
    Column("name", "Name", 0, False, lambda vm: printable(vm["name"]), lambda vm: vm["name"].lower()),
    Column("id", "ID", 5, True, lambda vm: str(vm["domid"]), lambda vm: vm["domid"]),
    Column("level", "L", 1, True, lambda vm: str(vm["level"]), lambda vm: -vm["level"]),
    Column("state", "State", 9, False, lambda vm: str(vm["state"]), _urgency),
    _figures("cpu", "CPU%", 5, "cpu_pct"),
    Column("cap", "Cap%", 5, True, lambda vm: short(vm["cap"] or None), lambda vm: vm["cap"] or 1 << 30),
    _figures("out", "Out b/s", 7, "tx_bps"),
    _figures("in", "In b/s", 7, "rx_bps"),
    Column("rate", "Rate", 5, True, lambda vm: short(vm["rate_bps"]), lambda vm: vm["rate_bps"] or 1 << 60),
    _figures("pressure", "PSI%", 4, "pressure_pct"),
    Column(
        "event", "Last event", 0, False, event_of,
        lambda vm: -(vm["event"]["unix_s"] if vm["event"] else 0),
    ),
)  # fmt: skip
NAMES = tuple(column.name for column in COLUMNS)


def arrange(
    vms: Sequence[dict[str, Any]], sort: str, text: str = "", *, reverse: bool = False
) -> list[dict[str, Any]]:
    """Return the VMs with `text` in what names or judges them, sorted by the column named `sort`."""
    wanted = text.lower()

    def said(vm: dict[str, Any]) -> str:
        return "\n".join((vm["name"], vm["uuid"], vm["state"], vm["verdict"] or "", *vm["limits"])).lower()

    found = [vm for vm in vms if wanted in said(vm)]
    found.sort(key=COLUMNS[NAMES.index(sort)].key, reverse=reverse)
    return found


def fit(vms: Sequence[dict[str, Any]], width: int | None) -> tuple[list[Column], dict[str, int]]:
    """Return the columns that `width` has room for, None all, and the widths of those that have none."""
    fixed = sum(column.width + len(GAP) for column in COLUMNS if column.width)
    name = max((columns(printable(vm["name"])) for vm in vms), default=0)
    name = max(name, _LEAST_NAME)
    if width is None:
        return list(COLUMNS), {"name": name, "event": 0}
    name = min(name, _MOST_NAME, max(width - fixed, _LEAST_NAME))
    event = width - fixed - name - len(GAP)
    return [c for c in COLUMNS if c.name != "event" or event >= _LEAST_EVENT], {"name": name, "event": event}


def cells(vm: dict[str, Any] | None, shown: Sequence[Column], widths: dict[str, int]) -> list[str]:
    """Return the cells of a VM's line, None of the header's, each as wide as its column."""
    out = []
    for column in shown:
        wide = column.width or widths[column.name]
        text = column.title if vm is None else column.text(vm)
        text = cut(text, wide) if wide else text
        gap = " " * (wide - columns(text))
        out.append(gap + text if column.right else text + gap)
    return out


def batch(vms: Sequence[dict[str, Any]]) -> str:
    """Return a table of all, nothing of it cut."""
    shown, widths = fit(vms, None)
    return "\n".join(GAP.join(cells(vm, shown, widths)).rstrip() for vm in (None, *vms))

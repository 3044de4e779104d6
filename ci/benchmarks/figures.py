# SPDX-License-Identifier: LGPL-2.1-or-later
"""One measured figure beside its peer, and how a list of them is printed."""

from __future__ import annotations

from typing import TypedDict


class Figure(TypedDict):
    """One figure. `ratio` is value / peer_value; `goal` says in words what `met` means.

    `peer` names what stands beside it: another program measured in the same run, or a limit.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    ratio: float
    goal: str
    met: bool


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    peer: str,
    peer_value: float,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Return a figure whose goal is a bound on the ratio to its peer.

    Args:
        name: stable name, `group.what`.
        value: what was measured, in `unit`.
        unit: unit of value and peer_value.
        peer: what it is compared with.
        peer_value: the peer's value in the same unit and run.
        at_most: the ratio must not be above this.
        at_least: the ratio must not be below this. Exactly one of both is given.
    """
    ratio = value / peer_value if peer_value else float("inf")
    if at_most is not None:
        goal, met = f"at most {at_most:g} x", ratio <= at_most
    elif at_least is not None:
        goal, met = f"at least {at_least:g} x", ratio >= at_least
    else:
        raise ValueError("a figure has a goal")
    return Figure(
        name=name, value=value, unit=unit, peer=peer, peer_value=peer_value, ratio=ratio, goal=goal, met=met
    )


def _number(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:,.{digits}g}"


def table(figures: list[Figure]) -> str:
    """Return the figures as a fixed-width table, header first."""
    rows = [("Figure", "Value", "Unit", "Peer or limit", "Its value", "Ratio", "Goal", "Met")]
    rows += [
        (f["name"], _number(f["value"]), f["unit"], f["peer"], _number(f["peer_value"]),
         _number(f["ratio"], 3), f["goal"], "yes" if f["met"] else "NO")
        for f in figures
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {1, 4, 5}
    return "\n".join(
        "  ".join(cell.rjust(width) if i in right else cell.ljust(width)
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    )  # fmt: skip

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plain words for what happens: the sentences of events, for `xenwarden events` and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenwarden_host.records import LimitKind, LimitState, PacketClass

if TYPE_CHECKING:
    from xenwarden_host.records import LimitKey, LimitStatus

_PACKETS = {
    PacketClass.SYN: "TCP SYN packets",
    PacketClass.UDP: "UDP packets",
    PacketClass.ICMP: "ICMP requests",
}


def amount(key: LimitKey, value: int) -> str:
    """Return a limit's value with its unit, as `10 Mbit/s`."""
    if key.kind is LimitKind.CAP:
        return f"{value} % of one CPU"
    if key.kind is LimitKind.VIF_RATE:
        for unit, size in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
            if value >= size:
                return f"{value / size:.4g} {unit}"
        return f"{value} bit/s"
    return f"{value} per second"


def subject(key: LimitKey) -> str:
    """Return what a limit acts on, as `TCP SYN packets sent`."""
    if key.kind is LimitKind.CAP:
        return "CPU"
    if key.kind is LimitKind.VIF_RATE:
        return "network traffic sent"
    return f"{_PACKETS[key.match]} sent" if key.match else "packets sent"


def limit_change(status: LimitStatus, name: str) -> str:
    """Return the sentence for a limit that was set, lifted or refused."""
    what = subject(status.key)
    before = f"before: {status.original}" if status.original is not None else "before: no limit"
    if status.state is LimitState.SET:
        return f"{what} by {name} limited to {amount(status.key, status.value)} ({before})"
    if status.state is LimitState.LIFTED:
        there = status.original if status.original is not None else "no limit"
        return f"{what} by {name} no longer limited (again: {there})"
    return f"{what} by {name} not limited: {status.detail or status.state}"

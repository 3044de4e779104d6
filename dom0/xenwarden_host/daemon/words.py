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
    PacketClass.TCP: "TCP packets to services",
    PacketClass.ARP: "ARP packets",
}


_SUBJECTS = {
    LimitKind.CAP: "CPU of",
    LimitKind.VIF_RATE: "network traffic sent by",
    LimitKind.VIF_IN: "network traffic to",
    LimitKind.VBD_IO: "disk traffic of",
    LimitKind.WEIGHT: "scheduler weight of",
    LimitKind.MEMORY: "memory of",
    LimitKind.VCPUS: "vCPUs of",
    LimitKind.PAUSE: "running of",
}
_PAUSED = {LimitState.SET: "paused", LimitState.LIFTED: "runs again"}


def amount(key: LimitKey, value: int) -> str:
    """Return a limit's value with its unit, as `10 Mbit/s`."""
    match key.kind:
        case LimitKind.CAP:
            return f"{value} % of one CPU"
        case LimitKind.VIF_RATE | LimitKind.VIF_IN:
            return _scaled(value, "bit/s")
        case LimitKind.VIF_PPS:
            return f"{value} per second" if value else "none"
        case LimitKind.VBD_IO:
            return _scaled(value, "byte/s")
        case LimitKind.MEMORY:
            return f"{value} kB"
        case LimitKind.PAUSE:
            return "nothing"
        case LimitKind.WEIGHT | LimitKind.VCPUS:
            return str(value)


def order(key: LimitKey, value: int) -> str:
    """Return what an operator ordered, as `cap 25 % of one CPU`; 0 takes an order back."""
    if not value:
        return f"{key} none"
    return str(key) if key.kind is LimitKind.PAUSE else f"{key} {amount(key, value)}"


def subject(key: LimitKey, name: str) -> str:
    """Return what of the VM a limit acts on, as `TCP SYN packets sent by web1`."""
    if key.kind is LimitKind.VIF_PPS:
        return f"{_PACKETS[key.match] if key.match else 'packets'} sent by {name}"
    return f"{_SUBJECTS[key.kind]} {name}"


def _scaled(value: int, unit: str) -> str:
    for prefix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value} {unit}"


def limit_change(status: LimitStatus, name: str) -> str:
    """Return the sentence for a limit that was set, lifted or refused."""
    if status.key.kind is LimitKind.PAUSE and status.state in _PAUSED:
        return f"{name} {_PAUSED[status.state]}"
    what = subject(status.key, name)
    none = status.original is None or (status.key.kind is LimitKind.CAP and status.original == "0")
    there = "no limit" if none else status.original
    if status.state is LimitState.SET:
        if status.detail:
            return f"{what} not limited to {amount(status.key, status.value)}: {status.detail}"
        return f"{what} limited to {amount(status.key, status.value)} (before: {there})"
    if status.state is LimitState.LIFTED:
        return f"{what} no longer limited (again: {there})"
    return f"{what} not limited: {status.detail or status.state}"

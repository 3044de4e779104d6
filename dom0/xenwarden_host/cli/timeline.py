# SPDX-License-Identifier: LGPL-2.1-or-later
"""What held from when to when, read from a VM's events: states, levels, limits, verdicts. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BEFORE_S = 120.0  # shown of the time before an incident
_CHANGES = ("state", "verdict")


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that held: `kind` says what to colour it as."""

    begin_s: float
    end_s: float
    text: str
    kind: str


def window(data: Mapping[str, Any], *, whole: bool) -> tuple[float, float]:
    """Return begin and end of what is shown: all that was asked for, or what matters of it.

    What matters begins shortly before the first change of state; nothing begins before there is data.
    """
    begin_s, end_s = float(data["since_unix_s"]), float(data["unix_s"])
    known = [kind[0]["unix_s"] for kind in (data["samples"], data["events"]) if kind]
    begin_s = max(begin_s, min(known, default=begin_s))
    changes = [event["unix_s"] for event in data["events"] if event["event"] in _CHANGES]
    if changes and not whole:
        begin_s = max(begin_s, changes[0] - _BEFORE_S)
    return min(begin_s, end_s - 1.0), end_s


def states(data: Mapping[str, Any], begin_s: float, end_s: float) -> list[Bar]:
    """Return HSEM's states of the VM."""
    changes = [event for event in data["events"] if event["event"] in _CHANGES]
    first = changes[0]["data"]["old"] if changes else data["vm"]["state"]
    steps = [(event["unix_s"], event["data"]["new"]) for event in changes]
    return [Bar(*bar, kind=bar[2]) for bar in _held(first, steps, begin_s, end_s)]


def levels(data: Mapping[str, Any], begin_s: float, end_s: float) -> list[Bar]:
    """Return the levels that the VM's monitors worked at."""
    changes = [
        (event["unix_s"], event["data"]["to"]) for event in data["events"] if event["event"] == "level"
    ]
    first = 3 - changes[0][1] if changes else data["vm"]["level"]
    bars = _held(str(first), [(unix_s, str(to)) for unix_s, to in changes], begin_s, end_s)
    return [Bar(*bar, kind=f"level{bar[2]}") for bar in bars]


def _held(
    first: str, changes: Iterable[tuple[float, str]], begin_s: float, end_s: float
) -> list[tuple[float, float, str]]:
    """Return what held from when to when, those of no length left out."""
    out, since_s, now = [], begin_s, first
    for unix_s, new in (*changes, (end_s, "")):
        at_s = min(max(unix_s, begin_s), end_s)
        if at_s > since_s:
            out.append((since_s, at_s, now))
        since_s, now = at_s, new
    return out


def limits(data: Mapping[str, Any], begin_s: float, end_s: float) -> dict[str, list[Bar]]:
    """Return by kind the limits that were in force, each with its value."""
    out: dict[str, list[Bar]] = {}
    now: dict[str, tuple[float, str]] = {}
    for event in data["events"]:
        if event["event"] not in ("limit-set", "limit-lifted"):
            continue
        kind, lifted = event["data"]["kind"], event["event"] == "limit-lifted"
        since_s, value = now.pop(kind, (begin_s, "?") if lifted and kind not in out else (None, ""))
        bars = out.setdefault(kind, [])
        if since_s is not None and event["unix_s"] > since_s:
            bars.append(Bar(max(since_s, begin_s), event["unix_s"], value, "limit"))
        if not lifted:
            now[kind] = (event["unix_s"], f"{event['data']['value']:,}")
    for limit in data["vm"]["limits_now"]:
        if limit["state"] == "set":
            now.setdefault(limit["kind"], (limit["since_unix_s"], f"{limit['value']:,}"))
    for kind, (since_s, value) in now.items():
        out.setdefault(kind, []).append(Bar(max(since_s, begin_s), end_s, value, "limit"))
    return {kind: [bar for bar in bars if bar.end_s > begin_s] for kind, bars in sorted(out.items())}


def verdicts(data: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Return when which verdict came."""
    return [
        (event["unix_s"], event["data"]["verdict"]) for event in data["events"] if event["event"] == "verdict"
    ]


def evidence(data: Mapping[str, Any]) -> list[tuple[float, Mapping[str, Any]]]:
    """Return each piece of evidence with the time of the decision that rests on it."""
    return [
        (event["unix_s"], item)
        for event in data["events"]
        if event["event"] in _CHANGES
        for item in event["data"]["evidence"]
    ]


def notable(data: Mapping[str, Any], most: int) -> list[str]:
    """Return the signals worth a plot, those that evidence rests on first, then those above what is usual."""
    peaks: dict[str, float] = {}
    for sample in data["samples"]:
        for name, value in sample["signals"].items():
            peaks[name] = max(peaks.get(name, 0.0), value)
    told = [item["signal"] for _unix_s, item in evidence(data)] + [
        item["signal"] for item in data["vm"]["evidence"]
    ]

    def usual(name: str) -> float:
        return data["vm"]["signals"].get(name, {}).get("usual") or float("inf")

    names: Sequence[str] = sorted(peaks, key=lambda name: -peaks[name] / usual(name))
    out = [name for name in dict.fromkeys((*told, *names)) if peaks.get(name)]
    return out[:most]

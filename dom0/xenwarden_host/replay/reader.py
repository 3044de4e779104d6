# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a recording line by line. A line that is none is refused with the reason; it changes nothing."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from xenwarden_channel.messages import MAX_NUMBER
from xenwarden_channel.signals import HREM, SIGNALS
from xenwarden_host.records import AgentState, Level, LimitKey, VmType
from xenwarden_host.replay.recorder import MAGIC, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_LINE_BYTES = 1 << 20
_MAX_INTERVAL_S = 86400.0
_PEER = ("protocol", "port", "pps", "syn_pps")
_PROTOCOLS = ("tcp", "udp", "icmp", "other")
_OF_DOM0 = frozenset(name for name, (source, _unit, _meaning) in SIGNALS.items() if source == HREM)


class BadLineError(ValueError):
    """A line is none of a recording: the text says why."""


class Header(NamedTuple):
    """A recording's first line."""

    unix_s: float  # the time of day at `t` = 0
    interval_s: float | None  # how far apart a VM's records are, where they do not say


class Line(NamedTuple):
    """One line after the header, checked. `vm` is None where it is about no VM."""

    t: float
    vm: str | None
    said: Mapping[str, Any]  # the members as they stand, each checked
    guest: dict[str, float]  # signals of the VM's agent
    dom0: dict[str, float]  # signals that dom0 counts


def parse_header(text: str | bytes) -> Header:
    """Parse the first line.

    Raises:
        BadLineError: it is none, or of another version.
    """
    data = _object(text)
    version = data.get(MAGIC)
    if version is None:
        raise BadLineError(f'the first line of a recording has "{MAGIC}"')
    if version != VERSION or isinstance(version, bool):
        raise BadLineError(f"a recording of version {version!r}; this reads version {VERSION}")
    for name in data:
        if name not in (MAGIC, "unix_s", "interval_s", "comment"):
            raise BadLineError(f"unknown member {name!r}")
    interval_s = data.get("interval_s")
    return Header(
        _number(data.get("unix_s", 0), "unix_s"), None if interval_s is None else _interval(interval_s)
    )


def parse_line(text: str | bytes) -> Line:
    """Parse a line after the header.

    Raises:
        BadLineError: what is wrong with it.
    """
    data = _object(text)
    t = data.pop("t", None)
    # The common case without a call: this is where a replay spends its time.
    if t.__class__ is not float or not 0.0 <= t <= MAX_NUMBER:
        t = _number(t, "t", "a number of seconds")
    vm = data.pop("vm", None)
    if vm.__class__ is not str or not vm:
        if vm is not None or data.keys() - {"unix_s"}:
            raise BadLineError("vm: expected a name or UUID")
        if data:
            _number(data["unix_s"], "unix_s")
        return Line(t, None, data, {}, {})
    guest: dict[str, float] = {}
    dom0: dict[str, float] = {}
    signals = data.pop("signals", None)
    if signals is not None:
        _take_signals(signals, guest, dom0)
    for name, value in data.items():
        check = _CHECKS.get(name)
        if check is None:
            raise BadLineError(f"unknown member {name!r}")
        check(value, name)
    return Line(t, vm, data, guest, dom0)


def _take_signals(signals: Any, guest: dict[str, float], dom0: dict[str, float]) -> None:
    if signals.__class__ is not dict:
        raise BadLineError("signals: expected an object")
    for name, value in signals.items():
        if value.__class__ is not float or not 0.0 <= value <= MAX_NUMBER:
            value = _number(value, name)  # noqa: PLW2901  as a float
        if name in _OF_DOM0:
            dom0[name] = value
        elif name in SIGNALS:
            guest[name] = value
        else:
            raise BadLineError(_unknown_signal(name))


def _object(text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_LINE_BYTES:
        raise BadLineError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise BadLineError(f"no JSON{what}") from None
    if data.__class__ is not dict:
        raise BadLineError("expected a JSON object")
    found: dict[str, Any] = data
    return found


def _unknown_signal(name: str) -> str:
    close = difflib.get_close_matches(name, SIGNALS, n=1)
    return f"unknown signal {name!r}: " + (
        f"did you mean {close[0]!r}?" if close else "recording-format.md has their names"
    )


def _number(value: Any, name: str, what: str = "a number") -> float:
    # bool is an int to Python, and NaN is between nothing.
    if value.__class__ not in (int, float) or not 0 <= value <= MAX_NUMBER:
        raise BadLineError(f"{name}: expected {what} from 0 to {MAX_NUMBER:g}")
    return float(value)


def _interval(value: Any, name: str = "interval_s") -> float:
    interval_s = _number(value, name)
    if not 0 < interval_s <= _MAX_INTERVAL_S:
        raise BadLineError(f"{name}: expected more than 0 and at most {_MAX_INTERVAL_S:g}")
    return interval_s


def _whole(value: Any, name: str) -> None:
    if value.__class__ is not int or not 0 <= value <= MAX_NUMBER:
        raise BadLineError(f"{name}: expected a whole number from 0")


def _level(value: Any, name: str) -> None:
    if value not in tuple(Level) or value.__class__ is not int:
        raise BadLineError(f"{name}: expected 1 or 2")


def _text(value: Any, name: str) -> None:
    if value.__class__ is not str or not value:
        raise BadLineError(f"{name}: expected a text")


def _flag(value: Any, name: str) -> None:
    if value.__class__ is not bool:
        raise BadLineError(f"{name}: expected true or false")


def _one_of(kind: type[AgentState | VmType]) -> Callable[[Any, str], None]:
    words = [str(item) for item in kind]

    def check(value: Any, name: str) -> None:
        if value not in words:
            raise BadLineError(f"{name}: expected one of {', '.join(words)}")

    return check


def _held(value: Any, name: str) -> None:
    try:
        for key in value:
            LimitKey.parse(key)
    except (TypeError, AttributeError, ValueError):
        raise BadLineError(f"{name}: expected a list of kinds of limits") from None


def _members(
    optional: tuple[str, ...] = (), **checks: Callable[[Any, str], object]
) -> Callable[[Any, str], None]:
    def check(value: Any, name: str) -> None:
        if value.__class__ is not dict:
            raise BadLineError(f"{name}: expected an object")
        for member, content in value.items():
            if member not in checks:
                raise BadLineError(f"unknown member {name}.{member}")
            checks[member](content, f"{name}.{member}")
        missing = checks.keys() - value.keys() - {*optional}
        if missing:
            raise BadLineError(f"{name}: expected {min(missing)}, which is missing")

    return check


def _destinations(value: Any, name: str) -> None:
    if value.__class__ is not list or not all(
        peer.__class__ is list
        and len(peer) == len(_PEER)
        and peer[0] in _PROTOCOLS
        and peer[1].__class__ is int
        and all(number.__class__ in (int, float) and 0 <= number <= MAX_NUMBER for number in peer[1:])
        for peer in value
    ):
        raise BadLineError(f"{name}: expected a list of [{', '.join(_PEER)}]")


def _kept(value: Any, name: str) -> None:
    if value.__class__ is not dict:
        raise BadLineError(f"{name}: expected an object")


_CHECKS: dict[str, Callable[[Any, str], object]] = {
    "interval_s": _interval,
    "name": _text,
    "domid": _whole,
    "type": _one_of(VmType),
    "vcpus": _whole,
    "known_s": _number,
    "paused": _flag,
    "agent": _one_of(AgentState),
    "held": _held,
    "report": _members(
        ("passed_s",),
        seq=_whole,
        boot=_text,
        level=_whole,
        interval_s=_interval,
        age_s=_number,
        passed_s=_number,
    ),
    "destinations": _destinations,
    "answer": _members(id=_whole, load_pct=_number, near_max=_whole, near_max_of=_whole),
    "gone": _flag,
    "release": _text,
    "order": _members(level=_level, who=_text),
    "history": _kept,
    "state": _kept,
    "overflow": _kept,
}

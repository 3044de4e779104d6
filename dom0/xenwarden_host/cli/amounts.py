# SPDX-License-Identifier: LGPL-2.1-or-later
"""Amounts on the command line, written as `xl` takes them: xl(1), xl-network-configuration(5). Pure.

xl's traps are kept, since who knows xl expects them: `b` is a bit and `B` a byte, `K`, `M` and `G` of a rate
are powers of ten and must be capitals, a bare interval is seconds, a bare memory size is MiB.
"""

from __future__ import annotations

import re

NONE = "none"  # takes an order back

# 15 digits are more than there is of anything, and what Python reads in no time.
_MOST_DIGITS = 15
_RATE = re.compile(r"([0-9]{1,15})([GMK]?)([bB])/s")
_INTERVAL = re.compile(r"([0-9]{1,15})([mu]?)s?")
_MEMORY = re.compile(r"([0-9]{1,15})([bkmgt]?)", re.IGNORECASE)
_SPAN = re.compile(r"([0-9]{1,15})([smhd]?)")
_THOUSANDS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_USECS = {"": 10**6, "m": 10**3, "u": 1}
_BYTES = {"b": 1, "k": 1 << 10, "m": 1 << 20, "": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_REQUESTS = ("syn", "udp", "icmp")
_CLASSES = (*_REQUESTS, "tcp", "arp")  # `tcp` keeps connections open; it and `arp` are limited by name only
_INTERVAL_USECS = 50_000
_MAX_WEIGHT = 65535


def orders(options: dict[str, str]) -> dict[str, int]:
    """Return the limits that options of `xenwarden limit` ask for, by key, in the unit of its kind.

    Raises:
        ValueError: a value is none; the sentence says what was expected.
    """
    out: dict[str, int] = {}
    for name, text in options.items():
        if name == "vif_pps":
            out.update(packets(text))
        elif name == "pause":
            out["pause"] = 1
        elif name in _READ:
            out[name.replace("_", "-")] = 0 if text == NONE else _READ[name](text)
    return out


def count(text: str) -> int:
    """Return a number above 0."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS) or int(text) == 0:
        raise ValueError(f"{text!r} is no whole number above 0; to take an order back, say {NONE}")
    return int(text)


def cap(text: str) -> int:
    """Return percent of one CPU; 0 is none, as in `xl sched-credit -c`."""
    return 0 if text == "0" else count(text)


def weight(text: str) -> int:
    """Return a scheduler weight."""
    if (number := count(text)) > _MAX_WEIGHT:
        raise ValueError(f"a weight is 1 to {_MAX_WEIGHT}, not {number}")
    return number


def bits(text: str) -> int:
    """Return bits per second of `10Mb/s` or `1MB/s`."""
    number, unit = _rate(text)
    return number * (8 if unit == "B" else 1)


def byte_rate(text: str) -> int:
    """Return bytes per second; a rate in bits is rounded down."""
    number, unit = _rate(text)
    return max(1, number // (8 if unit == "b" else 1))


def vif_rate(text: str) -> int:
    """Return bits per second of `10Mb/s@50ms`; the interval is xl's own or left out.

    netback's is chosen by the rate: none that is asked for would be kept.
    """
    rate, at, interval = text.partition("@")
    if at:
        found = _INTERVAL.fullmatch(interval)
        if found is None:
            raise ValueError(f"{interval!r} is no interval such as 50ms")
        usecs = int(found[1]) * _USECS[found[2]]
        if usecs != _INTERVAL_USECS:
            bare = " (a bare number is seconds)" if interval.isdigit() else ""
            raise ValueError(f"an interval of {usecs} us{bare} is not offered: leave it out")
    return bits(rate)


def packets(text: str) -> dict[str, int]:
    """Return packets per second by key: `100` of each class of requests, or `syn=100,tcp=none`."""
    if "=" not in text:
        value = 0 if text == NONE else count(text)
        # Without ARP a VM finds nobody, and is found by nobody: that is limited by name.
        return {f"vif-pps/{name}": value for name in (_REQUESTS if value else _CLASSES)}
    out = {}
    for word in text.split(","):
        name, _equals, number = word.partition("=")
        if name not in _CLASSES:
            raise ValueError(f"{name!r} is no class of packets: {', '.join(_CLASSES)}")
        out[f"vif-pps/{name}"] = 0 if number == NONE else count(number)
    return out


def memory_kb(text: str) -> int:
    """Return kB of a size as `xl mem-set` takes it: `512`, `512m`, `1g`."""
    found = _MEMORY.fullmatch(text)
    size = int(found[1]) * _BYTES[found[2].lower()] // 1024 if found else 0
    if size == 0:
        raise ValueError(f"{text!r} is no size such as 512m; a bare number is MiB")
    return size


def span_s(text: str) -> int:
    """Return seconds of `90`, `90s`, `10m`, `2h` or `1d`."""
    found = _SPAN.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no time such as 10m; a bare number is seconds")
    return int(found[1]) * _SECONDS[found[2]]


def _rate(text: str) -> tuple[int, str]:
    """Return a rate above 0 and its unit."""
    found = _RATE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no rate such as 10Mb/s (bits) or 1MB/s (bytes)")
    return int(found[1]) * _THOUSANDS[found[2]], found[3]


_READ = {
    "cap": cap,
    "weight": weight,
    "vif_rate": vif_rate,
    "vif_in": bits,
    "vbd_io": byte_rate,
    "memory": memory_kb,
    "vcpus": count,
}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fuzz what the guest's agent reads: files below /proc and /sys, and the headers of packets.

    ./ci/fuzz/collectors [SECONDS]

As the channel's fuzzer: new inputs go to `.cache/fuzz/collectors`, `tests/guest/fuzz_corpus` holds the few
that the tests replay, and `keep` in place of SECONDS renews it. The fuzzer begins with the files of
`tests/guest/kernel_files.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from fuzz import ROOT, require
from xenwarden_channel import messages
from xenwarden_guest import report
from xenwarden_guest.agent import Sensor, own_rss_kb
from xenwarden_guest.collectors import (
    Roots,
    Unparsable,
    diskstats,
    interfaces,
    interrupts,
    meminfo,
    netdev,
    netstat,
    pressure,
    snmp,
    sockdiag,
    stat,
)
from xenwarden_guest.level import State
from xenwarden_guest.vrem.pressure import lacks
from xenwarden_guest.vsem import headers, monitor
from xenwarden_guest.vsem.headers import Networks
from xenwarden_guest.vsem.plan import Plan
from xenwarden_guest.vsem.talkers import Talkers
from xenwarden_host.daemon import guests

sys.path.append(str(ROOT / "tests" / "guest"))
import frames  # the fixtures lie with the tests
import kernel_files

if TYPE_CHECKING:
    from collections.abc import Iterator

CORPUS = ROOT / "tests" / "guest" / "fuzz_corpus"
MAX_INPUT = 4096
INTERVAL_S = 5.0
NAMES = sorted(kernel_files.FILES)
MISSING = {
    "diskstats", "headers", "interfaces", "interrupts", "meminfo", "netdev", "netstat", "pressure", "snmp",
    "sockdiag", "stat",
}  # fmt: skip
MOST = 1e20  # what the kernel's counters can hold at all: a gauge is told as it stands


@cache
def tree() -> Path:
    """Make the directory in which the files stand, in memory where there is some."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    kernel_files.plant(directory)
    return directory


def check(data: bytes) -> None:
    """Feed one input to one target, which the first byte chooses; raises where a promise is broken."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def check_parser(data: bytes) -> None:
    """Any bytes in a file are counters of sane size, or refused as Unparsable; a cut there is one, too."""
    if not data:
        return
    parse = PARSERS[data[0] % len(PARSERS)]
    for text in (data[1:], data[1:-7]):
        try:
            found = parse(text)
        except Unparsable:
            continue
        numbers = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]
        for number in numbers:
            for value in number if isinstance(number, tuple) else (number,):
                require(isinstance(value, int), "counters are whole")
                require(abs(value) < 10**20 * (len(text) + 1), "counters are bounded")


def parse_disks(text: bytes) -> dict[str, int]:
    """Parse with every device taken for a disk."""
    return diskstats.parse(text, lambda _name: True)


def parse_mac(text: bytes) -> int:
    """Parse an interface's address, which is six bytes or nothing."""
    address = interfaces.parse_address(text)
    require(len(address) in (0, 6), "an address is whole")
    return len(address)


def parse_sockets(answer: bytes) -> int:
    """Parse what the kernel tells of sockets, or its refusal."""
    found: list[sockdiag.Connection] = []
    with contextlib.suppress(OSError):
        sockdiag.parse(answer, found)
    return sum([int(getattr(one, name)) for one in found for name in one.__slots__])


def check_tree(data: bytes) -> None:
    """Whatever becomes of the files, from one sample to the next: no crash, and a report that is sane."""
    for name in NAMES:
        write(name, kernel_files.FILES[name])
    # As without CAP_NET_RAW; a real socket takes the kernel milliseconds to close.
    with mock.patch.object(monitor, "ClassCounter", side_effect=PermissionError):
        follow(data)


def follow(data: bytes) -> None:
    """Change the files, and look at them, in turns."""
    roots = Roots(str(tree()))
    sensor = Sensor(roots, management=bool(data[:1] >= b"\x80"), now_s=0.0)
    now_s = 0.0
    for edit in data[1:].split(b"\x00\x00")[:8]:  # no file of the kernel's has two
        if edit:
            change(NAMES[edit[0] % len(NAMES)], edit[1:])
        now_s += INTERVAL_S
        sensor.peek(now_s - 1, 1)
        sample = sensor.finish(now_s)
        require(set(sample.missing) <= MISSING, "what is missing has a known name")
        sane = [math.isfinite(value) and 0 <= value <= MOST for value in sample.signals.values()]
        require(all(sane), "signals are sane")
        for name in ("cpu_pct", "steal_pct", "mem_used_pct", "swap_used_pct", "psi_cpu_pct"):
            require(sample.signals.get(name, 0.0) <= 100, "a share is no more than all")
        value = report.report(
            1, {"rss_kb": own_rss_kb(roots)}, state=State(), signals=sample.signals,
            load=sensor.load, missing=sample.missing,
        )  # fmt: skip
        message = messages.parse(value, "report")
        require(sample.signals.keys() <= message.fields.keys(), "the report has all signals")
        lacks(sample.signals, ())
    sensor.network.close()


def write(name: str, text: bytes) -> None:
    """Put a file of the tree there, whatever stands in its place."""
    path = tree() / name
    if path.is_dir():
        path.rmdir()
    path.write_bytes(text)


def change(name: str, edit: bytes) -> None:
    """Change one file as the first byte of `edit` says: gone, unreadable, cut, new, or new bytes in it."""
    kind, rest = edit[:1], edit[1:]
    known, at = kernel_files.FILES[name], int.from_bytes(edit[1:3], "big")
    at %= len(known) + 1
    write(name, b"")
    if kind == b"g":
        (tree() / name).unlink()
    elif kind == b"d":
        (tree() / name).unlink()
        (tree() / name).mkdir()
    elif kind == b"c":
        write(name, known[:at])
    elif kind == b"n":
        write(name, rest)
    else:
        write(name, known[:at] + edit[3:] + known[at + len(edit[3:]) :])


def check_headers(data: bytes) -> None:
    """Any frames give headers or nothing; the tables of who talks stay small, and fit their message."""
    networks = Networks(data[:24].decode("latin-1"))
    talkers = [Talkers(networks, outgoing=way) for way in (True, False)]
    plan = Plan(int.from_bytes(data[:4], "big"), *(byte % 21 for byte in data[4:7].ljust(3, b"\0")))
    for frame in data[24:].split(b"\xfe\xfe"):
        header = headers.parse(frame)
        if header is None:
            continue
        require({len(header.source), len(header.dest)} <= {4, 16}, "addresses are whole")
        for table in talkers:
            table.add(header, plan, 1.0)
    lines = []
    for table in talkers:
        require(0 <= table.top_share() <= 1.0001, "a share")
        require(table.distinct() >= 0, "distinct peers")
        lines.append(table.top(1e6, 1e5))
    _seq, *read = guests.parse_detail(report.detail(1, *lines))
    require([len(peers) for peers in read] == [len(found) for found in lines], "dom0 reads what was seen")


def seeds() -> Iterator[bytes]:
    """Give what kernels print, to each parser, and changes of each file."""
    for at in range(len(PARSERS)):
        for text in kernel_files.FILES.values():
            yield bytes([0, at]) + text
    for at in range(len(NAMES)):
        for edit in (b"g", b"d", b"c\x01\x40", b"n", b"s\x01\x20999999999999"):
            yield bytes([1, 1, at]) + edit + b"\0\0" + bytes([at]) + b"\0\0"
    yield bytes([2]) + b"10.0.0.0/8,fe80::/10    " + b"\xfe\xfe".join(FRAMES)


FRAMES = (
    frames.ethernet(0x0800, frames.ipv4(6, frames.tcp(frames.SYN))),
    frames.ethernet(0x0800, frames.ipv4(17, frames.udp(), options=bytes(8))),
    frames.ethernet(0x86DD, frames.ipv6(17, frames.udp()), 0x8100),
    frames.ethernet(0x86DD, frames.ipv6(58, frames.icmp(128))),
    frames.ethernet(0x0806, frames.arp()),
)
PARSERS = (
    parse_disks, interrupts.parse, meminfo.parse, netdev.parse, pressure.parse, snmp.parse,
    snmp.parse6, stat.parse, parse_mac, netstat.parse, parse_sockets,
)  # fmt: skip
TARGETS = (check_parser, check_tree, check_headers)

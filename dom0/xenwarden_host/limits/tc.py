# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packet limits on a vif by `tc`: what to tell it and what it tells, both pure, and the call between.

What a guest sends arrives at ingress of its vif in dom0. For each packet class two flower filters
(IPv4 and IPv6) hand to one police action, which drops what is too much and lets the rest *continue*,
so that filters of the admin's behind ours see it. All vifs of a domain share the one police action of
a class, by its index: the limit holds for the whole VM, however many vifs it spreads its packets over.
The kernel frees the action with the last filter that uses it, also when the vif goes.

Ours are known by preference *and* handle; anything else on the vif is somebody's and stays. Packets
with a VLAN tag of the guest's own are not matched.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from collections.abc import Mapping

# Before the preferences that people use (100) and that the kernel gives by itself (49152), since a
# filter that ends classification would hide the packet from later ones.
_FIRST_PREF = 41

# The upper half marks a filter as ours. The lower tells whether we made the vif's clsact qdisc, so
# that the last filter to go takes it along: kept in the kernel, it survives us and goes with the vif.
_HANDLE = 0x7877_0000
_FOUND_QDISC = 1
_MADE_QDISC = 2

# Police actions are numbered in one space for the whole of dom0.
_INDEX = 0x7800_0000

_MATCH: dict[PacketClass, tuple[str, str]] = {
    PacketClass.SYN: ("ip_proto tcp tcp_flags 0x02/0x12", "ip_proto tcp tcp_flags 0x02/0x12"),
    PacketClass.UDP: ("ip_proto udp", "ip_proto udp"),
    PacketClass.ICMP: ("ip_proto icmp type 8", "ip_proto icmpv6 type 128"),
}
_PROTOCOLS = ("ip", "ipv6")
_TIMEOUT_S = 10.0

_UNSUPPORTED = (
    "TC classifier not found",
    "Failed to load TC action module",
    "Specified qdisc kind is unknown",
)
_GONE = ("Cannot find device", "No such device")


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of ours as the kernel has it."""

    pref: int
    protocol: str
    handle: int
    pps: int


@dataclass(frozen=True, slots=True)
class VifFilters:
    """What stands on a vif: `qdisc` is "clsact", "ingress" or empty; `others` counts filters not ours."""

    ours: tuple[Filter, ...] = ()
    qdisc: str = ""
    others: int = 0
    taken: tuple[int, ...] = field(default=())  # preferences of ours that somebody else uses

    def limits(self) -> dict[PacketClass, int]:
        """Return packets per second of each class whose filters are complete."""
        found = {}
        for packet_class in PacketClass:
            pps = [f.pps for f in self.ours if f.pref in _prefs(packet_class)]
            if len(pps) == len(_PROTOCOLS) and len(set(pps)) == 1:
                found[packet_class] = pps[0]
        return found


def burst(pps: int) -> int:
    """Return the packets that may pass at once at `pps`: a fifth of a second's, never fewer than two.

    A VM that was quiet gets that much above its rate, once; over any longer time the rate is exact.
    """
    return max(2, pps // 5)


def query(device: str) -> list[str]:
    """Return the `tc -j -batch` lines whose answers `parse` reads."""
    return [
        f"filter show dev {device} ingress",
        f"filter show dev {device} egress",
        f"qdisc show dev {device}",
    ]


def parse(text: str) -> list[VifFilters]:
    """Return what `tc -j -batch` answered to `query`, asked for one device after the other.

    Raises:
        ValueError: the answer is none of `tc`'s.
    """
    arrays = [json.loads(line) for line in text.splitlines() if line.strip()]
    if len(arrays) % 3:
        raise ValueError(f"{len(arrays)} arrays")
    try:
        return [_device(*arrays[i : i + 3]) for i in range(0, len(arrays), 3)]
    except (AttributeError, KeyError, TypeError) as problem:
        raise ValueError(f"unknown form: {problem!r}") from problem


def _device(ingress: list[Any], egress: list[Any], qdiscs: list[Any]) -> VifFilters:
    ours, taken, others = [], set(), len([f for f in egress if "options" in f])
    for shown in ingress:
        if "options" not in shown:  # the head of a preference, not a filter
            continue
        found = _ours(shown)
        if found is not None:
            ours.append(found)
            continue
        others += 1
        if shown["pref"] in _ALL_PREFS:
            taken.add(int(shown["pref"]))
    kinds = [str(q["kind"]) for q in qdiscs if q["kind"] in ("clsact", "ingress")]
    return VifFilters(tuple(ours), kinds[0] if kinds else "", others, tuple(sorted(taken)))


def _ours(shown: Mapping[str, Any]) -> Filter | None:
    options = shown["options"]
    handle = options.get("handle", 0)
    if shown["kind"] != "flower" or shown["pref"] not in _ALL_PREFS or handle >> 16 != _HANDLE >> 16:
        return None
    rates = [int(a.get("pkts_rate", 0)) for a in options.get("actions", ()) if a.get("kind") == "police"]
    return Filter(int(shown["pref"]), str(shown["protocol"]), int(handle), rates[0] if rates else 0)


def plan(device: str, domid: int, there: VifFilters, wanted: Mapping[PacketClass, int]) -> list[str]:
    """Return the `tc -batch` lines that turn `there` into `wanted`; none where it is so already.

    Raises:
        LimitError: somebody else's filters stand at our preferences.
    """
    if there.limits() == dict(wanted) and len(there.ours) == len(_PROTOCOLS) * len(wanted):
        return []
    if there.taken and wanted:
        raise LimitError(
            f"{device} has filters of somebody else at preference {there.taken[0]}, which xenwarden uses",
            LimitState.FAILED,
            f"move them out of {_FIRST_PREF}..{max(_ALL_PREFS)}",
        )
    lines = []
    made = any(f.handle & 0xFFFF == _MADE_QDISC for f in there.ours)
    if wanted and not there.qdisc:
        lines.append(f"qdisc add dev {device} clsact")
        made = True
    handle = _HANDLE | (_MADE_QDISC if made else _FOUND_QDISC)
    keep = set()
    for packet_class, pps in wanted.items():
        prefs = _prefs(packet_class)
        present = {f.pref for f in there.ours}
        index = _INDEX | domid << 4 | list(PacketClass).index(packet_class)
        rate = f"pkts_rate {pps} pkts_burst {burst(pps)} conform-exceed drop/continue"
        action = f"action police {rate} index {index}"
        for pref, protocol, match in zip(prefs, _PROTOCOLS, _MATCH[packet_class], strict=True):
            keep.add(pref)
            if pref not in present:
                lines.append(
                    f"filter add dev {device} ingress pref {pref} protocol {protocol} "
                    f"handle {handle:#x} flower {match} {action}"
                )
        # A filter that names the index of an action that is there takes it as it is.
        lines.append(action.replace("action", "actions replace action", 1))
    lines += [
        f"filter del dev {device} ingress pref {f.pref} protocol {f.protocol} handle {f.handle:#x} flower"
        for f in there.ours
        if f.pref not in keep
    ]
    if not wanted and made and not there.others and there.qdisc == "clsact":
        lines.append(f"qdisc del dev {device} clsact")
    return lines


def _prefs(packet_class: PacketClass) -> tuple[int, ...]:
    first = _FIRST_PREF + len(_PROTOCOLS) * list(PacketClass).index(packet_class)
    return tuple(range(first, first + len(_PROTOCOLS)))


_ALL_PREFS = frozenset(pref for packet_class in PacketClass for pref in _prefs(packet_class))


def run(lines: list[str], *, json_output: bool = False) -> str:
    """Have one `tc` do all `lines`, in order, stopping at the first that fails; return what it said.

    Raises:
        LimitError: state `unsupported` where the kernel or the program has no such thing, `no-target`
            where the vif is gone, else `failed`.
    """
    argv = ["tc", *(["-j"] if json_output else []), "-batch", "-"]
    try:
        done = subprocess.run(
            argv,
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise LimitError("there is no `tc` program", LimitState.UNSUPPORTED, "install iproute2") from None
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise LimitError(f"tc does not run: {problem}", LimitState.FAILED) from problem
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    if any(word in said for word in _GONE):
        raise LimitError(f"the vif went away: {said}", LimitState.NO_TARGET)
    if any(word in said for word in _UNSUPPORTED):
        raise LimitError(
            f"this kernel cannot limit packets: {said}",
            LimitState.UNSUPPORTED,
            "it needs the modules sch_ingress, cls_flower and act_police",
        )
    raise LimitError(f"tc refused: {said}", LimitState.FAILED)

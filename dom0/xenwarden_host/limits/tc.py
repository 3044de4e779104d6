# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on a vif by `tc`: what to tell it and what it tells, both pure, and the call between.

What a guest sends arrives at *ingress* of its vif in dom0, what it is to receive leaves at *egress*. For
each packet class two flower filters at ingress (IPv4 and IPv6) hand to one police action, which drops
what is too much and lets the rest *continue*, so that filters of the admin's behind ours see it. A
limit on what arrives is one filter at egress that matches everything. All vifs of a domain share each
police action, by its index: the limit holds for the whole VM, however many vifs it spreads its traffic
over. The kernel frees the action with the last filter that uses it, also when the vif goes.

Ours are known by preference *and* handle; anything else on the vif is somebody's and stays. Packets
with a VLAN tag of the guest's own are of no packet class.
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
_IN_PREF = 47
_IN_NUMBER = 8  # of its police action within the domain's; packet classes count from 0
# Twentieths of a second of traffic that may arrive at once, and never less than a few large segments.
_IN_BURST_S = 0.05
_IN_MIN_BURST = 128 << 10
_TIMEOUT_S = 10.0

_UNSUPPORTED = (
    "TC classifier not found",
    "Failed to load TC action module",
    "Specified qdisc kind is unknown",
)
_GONE = ("Cannot find device", "No such device")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to stand on a vif: packets per second from the guest by class, bits per second to it."""

    pps: Mapping[PacketClass, int]
    in_bps: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of ours as the kernel has it; `value` is packets per second, at egress bits per second."""

    pref: int
    protocol: str
    handle: int
    value: int


@dataclass(frozen=True, slots=True)
class VifFilters:
    """What stands on a vif: `qdisc` is "clsact", "ingress" or empty; `others` counts filters not ours."""

    ours: tuple[Filter, ...] = ()
    qdisc: str = ""
    others: int = 0
    taken: tuple[int, ...] = field(default=())  # preferences of ours that somebody else uses

    def limits(self) -> Wanted:
        """Return what the filters amount to; a class with one address family alone is not limited."""
        found = {}
        for packet_class in PacketClass:
            pps = [f.value for f in self.ours if f.pref in _prefs(packet_class)]
            if len(pps) == len(_PROTOCOLS) and len(set(pps)) == 1:
                found[packet_class] = pps[0]
        return Wanted(found, next((f.value for f in self.ours if f.pref == _IN_PREF), None))


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


def limited_domid(index: int) -> int | None:
    """Return whose packets the police action of this index limits, None where it is not one of ours."""
    ours = index & ~0xF_FFFF == _INDEX and index & 0xF < len(PacketClass)
    return index >> 4 & 0xFFFF if ours else None


def _device(ingress: list[Any], egress: list[Any], qdiscs: list[Any]) -> VifFilters:
    ours, taken, others = [], set(), 0
    for prefs, kind, listed in ((_ALL_PREFS, "flower", ingress), ((_IN_PREF,), "matchall", egress)):
        for shown in listed:
            if "options" not in shown:  # the head of a preference, not a filter
                continue
            options, pref = shown["options"], int(shown["pref"])
            handle = options.get("handle", 0)
            if shown["kind"] == kind and pref in prefs and handle >> 16 == _HANDLE >> 16:
                ours.append(Filter(pref, str(shown["protocol"]), int(handle), _value(options)))
                continue
            others += 1
            if pref in prefs:
                taken.add(pref)
    kinds = [str(q["kind"]) for q in qdiscs if q["kind"] in ("clsact", "ingress")]
    return VifFilters(tuple(ours), kinds[0] if kinds else "", others, tuple(sorted(taken)))


def _value(options: Mapping[str, Any]) -> int:
    """Return the police action's packet rate; `tc` leaves a byte rate out of its JSON, the cookie has it."""
    actions = options.get("actions", ())
    police: Mapping[str, Any] = next((a for a in actions if a.get("kind") == "police"), {})
    return int(police["pkts_rate"]) if "pkts_rate" in police else int(police.get("cookie", "0"), 16)


def plan(device: str, domid: int, there: VifFilters, wanted: Wanted) -> list[str]:
    """Return the `tc -batch` lines that turn `there` into `wanted`; none where it is so already.

    Raises:
        LimitError: somebody else's filters stand at our preferences, or the vif's qdisc has no egress.
    """
    targets = _targets(device, domid, wanted)
    if there.limits() == wanted and len(there.ours) == sum(len(t.filters) for t in targets):
        return []
    anything = bool(targets)
    if there.taken and anything:
        raise LimitError(
            f"{device} has filters of somebody else at preference {there.taken[0]}, which xenwarden uses",
            LimitState.FAILED,
            f"move them out of {_FIRST_PREF}..{_IN_PREF}",
        )
    if wanted.in_bps is not None and there.qdisc == "ingress":
        raise LimitError(
            f"{device} has an ingress qdisc of somebody else, beside which nothing can limit what arrives",
            LimitState.UNSUPPORTED,
            "replace it by clsact",
        )
    lines = []
    made = any(f.handle & 0xFFFF == _MADE_QDISC for f in there.ours)
    if anything and not there.qdisc:
        lines.append(f"qdisc add dev {device} clsact")
        made = True
    handle = f"handle {_HANDLE | (_MADE_QDISC if made else _FOUND_QDISC):#x}"
    present = {f.pref for f in there.ours}
    keep = set()
    for target in targets:
        for pref, (place, match) in target.filters.items():
            keep.add(pref)
            if pref not in present:
                lines.append(f"filter add {place} pref {pref} {match.format(handle=handle)} {target.action}")
        # A filter that names the index of an action that is there takes it as it is.
        lines.append(target.action.replace("action", "actions replace action", 1))
    lines += [_deletion(device, f) for f in there.ours if f.pref not in keep]
    if not anything and made and not there.others and there.qdisc == "clsact":
        lines.append(f"qdisc del dev {device} clsact")
    return lines


@dataclass(frozen=True, slots=True)
class _Target:
    """One police action and the filters that hand to it: preference to (where, match)."""

    action: str
    filters: Mapping[int, tuple[str, str]]


def _targets(device: str, domid: int, wanted: Wanted) -> list[_Target]:
    targets = []
    for packet_class, pps in wanted.pps.items():
        number = list(PacketClass).index(packet_class)
        rate = f"pkts_rate {pps} pkts_burst {burst(pps)}"
        filters = {
            pref: (f"dev {device} ingress", f"protocol {protocol} {{handle}} flower {match}")
            for pref, protocol, match in zip(
                _prefs(packet_class), _PROTOCOLS, _MATCH[packet_class], strict=True
            )
        }
        targets.append(_Target(_action(domid, number, rate), filters))
    if wanted.in_bps is not None:
        size = max(_IN_MIN_BURST, int(wanted.in_bps / 8 * _IN_BURST_S))
        # Without a large mtu every segment that the kernel has merged would count as too much.
        rate = f"rate {wanted.in_bps}bit burst {size} mtu 65535"
        action = f"{_action(domid, _IN_NUMBER, rate)} cookie {wanted.in_bps:016x}"
        targets.append(
            _Target(action, {_IN_PREF: (f"dev {device} egress", "protocol all {handle} matchall")})
        )
    return targets


def _action(domid: int, number: int, rate: str) -> str:
    return f"action police {rate} conform-exceed drop/continue index {_INDEX | domid << 4 | number}"


def _deletion(device: str, found: Filter) -> str:
    where, kind = ("egress", "matchall") if found.pref == _IN_PREF else ("ingress", "flower")
    return (
        f"filter del dev {device} {where} pref {found.pref} protocol {found.protocol} "
        f"handle {found.handle:#x} {kind}"
    )


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

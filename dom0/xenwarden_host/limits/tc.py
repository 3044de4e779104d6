# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on a vif by the kernel's traffic control: what to change and what stands, both pure, and the calls.

What a guest sends arrives at *ingress* of its vif in dom0, what it is to receive leaves at *egress*. For
each packet class two flower filters at ingress (IPv4 and IPv6) hand to one police action, which drops
what is too much and lets the rest *continue*, so that filters of the admin's behind ours see it. A
limit on what arrives is one filter at egress that matches everything. All vifs of a domain share each
police action, by its index: the limit holds for the whole VM, however many vifs it spreads its traffic
over. The kernel frees the action with the last filter that uses it, also when the vif goes.

Ours are known by preference *and* handle; anything else on the vif is somebody's and stays. Packets
with a VLAN tag of the guest's own are of no packet class. `tc filter show dev vifX.Y ingress` shows it all.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.limits import rtnetlink
from xenwarden_host.limits.rtnetlink import CREATE, EXCLUSIVE, REPLACE, attribute, attributes
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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

_IN_PREF = 47
_IN_NUMBER = 8  # of its police action within the domain's; packet classes count from 0
# Twentieths of a second of traffic that may arrive at once, and never less than a few large segments.
_IN_BURST_S = 0.05
_IN_MIN_BURST = 128 << 10
# Without a large one every segment that the kernel has merged would count as too much.
_IN_MTU = 65535

# linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h, linux/if_ether.h
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_NEWTFILTER, _DELTFILTER, _GETTFILTER = 44, 45, 46
_NEWACTION = 48
_CLSACT, _CLSACT_HANDLE, _INGRESS, _EGRESS = 0xFFFF_FFF1, 0xFFFF_0000, 0xFFFF_FFF2, 0xFFFF_FFF3
_TCA_KIND, _TCA_OPTIONS = 1, 2
_MATCHALL_ACT, _FLOWER_ACT = 2, 3
_FLOWER_ETH_TYPE, _FLOWER_FLAGS, _FLOWER_IP_PROTO = 8, 22, 9
_FLOWER_TCP_FLAGS, _FLOWER_ICMP_TYPE, _FLOWER_ICMPV6_TYPE = 0x47, 0x33, 0x37  # each mask: the next number
_POLICE_TBF, _POLICE_RATE, _POLICE_RESULT, _POLICE_RATE64 = 1, 2, 5, 8
_POLICE_PKTRATE64, _POLICE_PKTBURST64 = 10, 11
_ACT_SHOT, _ACT_CONTINUE = 2, -1
_ETH_P_ALL = 0x0003
_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, preference and protocol
_POLICE = struct.Struct("=IiIII BBHhHI 12x iiI")  # struct tc_police with its first tc_ratespec
_TICKS_PER_S = 10**9 // 64  # the kernel's PSCHED_SHIFT
_PROTOCOLS = (0x0800, 0x86DD)  # IPv4, IPv6

_TCP_SYN = attribute(_FLOWER_TCP_FLAGS, b"\0\x02") + attribute(_FLOWER_TCP_FLAGS + 1, b"\0\x12")
_ECHO = attribute(_FLOWER_ICMP_TYPE, b"\x08") + attribute(_FLOWER_ICMP_TYPE + 1, b"\xff")
_ECHO6 = attribute(_FLOWER_ICMPV6_TYPE, b"\x80") + attribute(_FLOWER_ICMPV6_TYPE + 1, b"\xff")
# Of each class for IPv4 and IPv6: IP protocol, and what else must match.
_MATCH: dict[PacketClass, tuple[tuple[int, bytes], ...]] = {
    PacketClass.SYN: ((6, _TCP_SYN), (6, _TCP_SYN)),
    PacketClass.UDP: ((17, b""), (17, b"")),
    PacketClass.ICMP: ((1, _ECHO), (58, _ECHO6)),
}

# How the kernel says that it lacks something.
_UNSUPPORTED = (
    "TC classifier not found",
    "Failed to load TC action module",
    "Specified qdisc kind is unknown",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to stand on a vif: packets per second from the guest by class, bits per second to it.

    Bits per second are a multiple of 8: the kernel counts bytes.
    """

    pps: Mapping[PacketClass, int]
    in_bps: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of ours as the kernel has it; `value` is packets per second, at egress bits per second."""

    pref: int
    protocol: int
    handle: int
    value: int


@dataclass(frozen=True, slots=True)
class VifFilters:
    """What stands on a vif: `qdisc` is "clsact", "ingress" or empty; `others` counts filters not ours."""

    device: str
    ifindex: int
    ours: tuple[Filter, ...] = ()
    qdisc: str = ""
    others: int = 0
    taken: tuple[int, ...] = ()  # preferences of ours that somebody else uses

    def limits(self) -> Wanted:
        """Return what the filters amount to; a class with one address family alone is not limited."""
        found = {}
        for packet_class in PacketClass:
            pps = [f.value for f in self.ours if f.pref in _prefs(packet_class)]
            if len(pps) == len(_PROTOCOLS) and len(set(pps)) == 1:
                found[packet_class] = pps[0]
        return Wanted(found, next((f.value for f in self.ours if f.pref == _IN_PREF), None))


@dataclass(frozen=True, slots=True)
class Change:
    """One message to the kernel; `words` tell a person what it does."""

    words: str
    number: int
    flags: int
    body: bytes


def burst(pps: int) -> int:
    """Return the packets that may pass at once at `pps`: a fifth of a second's, never fewer than two.

    A VM that was quiet gets that much above its rate, once; over any longer time the rate is exact.
    """
    return max(2, pps // 5)


def limited_domid(index: int) -> int | None:
    """Return whose packets the police action of this index limits, None where it is not one of ours."""
    ours = index & ~0xF_FFFF == _INDEX and index & 0xF < len(PacketClass)
    return index >> 4 & 0xFFFF if ours else None


# --- what stands ---


def read(device: str) -> VifFilters:
    """Return what stands on a device.

    Raises:
        LimitError: `no-target` where there is no such device, else `failed`.
    """
    try:
        ifindex = socket.if_nametoindex(device)
    except OSError as problem:
        raise LimitError(f"{device} went away: {problem}", LimitState.NO_TARGET) from None
    try:
        ingress, egress = (
            rtnetlink.dump(_GETTFILTER, _TCMSG.pack(0, ifindex, 0, parent, 0))
            for parent in (_INGRESS, _EGRESS)
        )
        # The kernel tells of all devices, whatever is asked.
        qdiscs = rtnetlink.dump(_GETQDISC, _TCMSG.pack(0, ifindex, 0, 0, 0))
        return parse(device, ifindex, ingress, egress, qdiscs)
    except OSError as problem:
        raise _refused(f"read the filters of {device}", problem) from problem
    except ValueError as problem:
        raise LimitError(
            f"what the kernel tells of {device} is not understood: {problem}", LimitState.FAILED
        ) from problem


def parse(
    device: str, ifindex: int, ingress: Iterable[bytes], egress: Iterable[bytes], qdiscs: Iterable[bytes]
) -> VifFilters:
    """Return what the bodies of the three dumps tell of a device.

    Raises:
        ValueError: they are none.
    """
    ours, taken, others = [], set(), 0
    places = (
        (ingress, _ALL_PREFS, b"flower\0", _FLOWER_ACT),
        (egress, {_IN_PREF}, b"matchall\0", _MATCHALL_ACT),
    )
    for bodies, prefs, kind, action in places:
        for body in bodies:
            _ifindex, handle, info, fields = _message(body)
            if _TCA_OPTIONS not in fields:  # the head of a preference, not a filter
                continue
            pref = info >> 16
            if fields.get(_TCA_KIND) == kind and pref in prefs and handle >> 16 == _HANDLE >> 16:
                value = _value(fields[_TCA_OPTIONS], action)
                ours.append(Filter(pref, socket.ntohs(info & 0xFFFF), handle, value))
                continue
            others += 1
            if pref in prefs:
                taken.add(pref)
    kinds = []
    for body in qdiscs:
        of, _handle, _info, fields = _message(body)
        kind = fields.get(_TCA_KIND, b"").rstrip(b"\0")
        if of == ifindex and kind in (b"clsact", b"ingress"):
            kinds.append(kind.decode("ascii"))
    return VifFilters(device, ifindex, tuple(ours), kinds[0] if kinds else "", others, tuple(sorted(taken)))


def _message(body: bytes) -> tuple[int, int, int, dict[int, bytes]]:
    """Return ifindex, handle, preference with protocol, and attributes."""
    if len(body) < _TCMSG.size:
        raise ValueError("cut short")
    _family, ifindex, handle, _parent, info = _TCMSG.unpack_from(body)
    return ifindex, handle, info, dict(attributes(body[_TCMSG.size :]))


def _value(options: bytes, action: int) -> int:
    """Return the rate of the filter's police action, 0 where it has none."""
    for _order, raw in attributes(dict(attributes(options)).get(action, b"")):
        fields = dict(attributes(raw))
        if fields.get(_TCA_KIND) != b"police\0":
            continue
        police = dict(attributes(fields.get(_TCA_OPTIONS, b"")))
        for number, unit in ((_POLICE_PKTRATE64, 1), (_POLICE_RATE64, 8)):
            if number in police:
                return int.from_bytes(police[number], "little") * unit
        if len(police.get(_POLICE_TBF, b"")) < _POLICE.size:
            raise ValueError("a police action without its parameters")
        return int(_POLICE.unpack_from(police[_POLICE_TBF])[10]) * 8
    return 0


# --- what to change ---


def plan(domid: int, there: VifFilters, wanted: Wanted) -> list[Change]:
    """Return what turns `there` into `wanted`; nothing where it is so already.

    Raises:
        LimitError: somebody else's filters stand at our preferences, or the vif's qdisc has no egress.
    """
    device = there.device
    targets = _targets(domid, wanted)
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
    changes = []
    made = any(f.handle & 0xFFFF == _MADE_QDISC for f in there.ours)
    if anything and not there.qdisc:
        changes.append(_clsact(there, "add", _NEWQDISC, CREATE | EXCLUSIVE))
        made = True
    handle = _HANDLE | (_MADE_QDISC if made else _FOUND_QDISC)
    present = {f.pref for f in there.ours}
    keep = set()
    for target in targets:
        for pref, (protocol, kind, options) in target.filters.items():
            keep.add(pref)
            if pref not in present:
                attrs = attribute(_TCA_KIND, kind) + attribute(_TCA_OPTIONS, options)
                words = f"add filter {pref} to {device}"
                body = _filter(there, pref, protocol, handle) + attrs
                changes.append(Change(words, _NEWTFILTER, CREATE | EXCLUSIVE, body))
        # A filter that names the index of an action that is there takes it as it is.
        body = b"\0\0\0\0" + attribute(1, attribute(1, target.action))
        changes.append(Change(f"set the rate on {device}", _NEWACTION, CREATE | REPLACE, body))
    for old in there.ours:
        if old.pref not in keep:
            kind = b"matchall\0" if old.pref == _IN_PREF else b"flower\0"
            body = _filter(there, old.pref, old.protocol, old.handle) + attribute(_TCA_KIND, kind)
            changes.append(Change(f"delete filter {old.pref} of {device}", _DELTFILTER, 0, body))
    if not anything and made and not there.others and there.qdisc == "clsact":
        changes.append(_clsact(there, "delete", _DELQDISC, 0))
    return changes


def _clsact(there: VifFilters, verb: str, number: int, flags: int) -> Change:
    body = _TCMSG.pack(0, there.ifindex, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_TCA_KIND, b"clsact\0")
    return Change(f"{verb} qdisc clsact of {there.device}", number, flags, body)


def _filter(there: VifFilters, pref: int, protocol: int, handle: int) -> bytes:
    parent = _EGRESS if pref == _IN_PREF else _INGRESS
    return _TCMSG.pack(0, there.ifindex, handle, parent, pref << 16 | socket.htons(protocol))


@dataclass(frozen=True, slots=True)
class _Target:
    """One police action and the filters that hand to it: preference to (protocol, kind, options)."""

    action: bytes
    filters: Mapping[int, tuple[int, bytes, bytes]]


def _targets(domid: int, wanted: Wanted) -> list[_Target]:
    targets = []
    for packet_class, pps in wanted.pps.items():
        action = _packet_police(domid, list(PacketClass).index(packet_class), pps)
        filters = {
            pref: (protocol, b"flower\0", _flower(protocol, number, match, action))
            for pref, protocol, (number, match) in zip(
                _prefs(packet_class), _PROTOCOLS, _MATCH[packet_class], strict=True
            )
        }
        targets.append(_Target(action, filters))
    if wanted.in_bps is not None:
        action = _byte_police(domid, max(1, wanted.in_bps // 8))
        options = attribute(_MATCHALL_ACT, attribute(1, action))
        targets.append(_Target(action, {_IN_PREF: (_ETH_P_ALL, b"matchall\0", options)}))
    return targets


def _flower(protocol: int, ip_proto: int, match: bytes, action: bytes) -> bytes:
    return (
        attribute(_FLOWER_IP_PROTO, bytes([ip_proto]))
        + match
        + attribute(_FLOWER_ACT, attribute(1, action))
        + attribute(_FLOWER_FLAGS, bytes(4))
        + attribute(_FLOWER_ETH_TYPE, protocol.to_bytes(2, "big"))
    )


def _packet_police(domid: int, number: int, pps: int) -> bytes:
    tbf = _POLICE.pack(_INDEX | domid << 4 | number, _ACT_SHOT, *(0,) * 12)
    ticks = burst(pps) * _TICKS_PER_S // pps
    return _police(
        attribute(_POLICE_TBF, tbf),
        attribute(_POLICE_PKTRATE64, pps.to_bytes(8, "little"))
        + attribute(_POLICE_PKTBURST64, ticks.to_bytes(8, "little")),
    )


def _byte_police(domid: int, rate: int) -> bytes:
    size = max(_IN_MIN_BURST, int(rate * _IN_BURST_S))
    shown = min(rate, 0xFFFF_FFFF)
    cell_log, ethernet, cell_align = 8, 1, -1  # a table of 256 sizes up to 64 KiB
    tbf = _POLICE.pack(
        *(_INDEX | domid << 4 | _IN_NUMBER, _ACT_SHOT, 0, _ticks(size, rate), _IN_MTU),
        *(cell_log, ethernet, 0, cell_align, 0, shown, 0, 0, 0),
    )
    # The kernel asks for the table and, since 3.8, computes by itself.
    table = b"".join(struct.pack("=I", _ticks((i + 1) << cell_log, rate)) for i in range(256))
    large = attribute(_POLICE_RATE64, rate.to_bytes(8, "little")) if rate > shown else b""
    return _police(attribute(_POLICE_TBF, tbf) + attribute(_POLICE_RATE, table), large)


def _police(before: bytes, after: bytes) -> bytes:
    result = attribute(_POLICE_RESULT, struct.pack("=i", _ACT_CONTINUE))
    nested = 0x8000
    return attribute(_TCA_KIND, b"police\0") + attribute(_TCA_OPTIONS | nested, before + result + after)


def _ticks(size: int, rate: int) -> int:
    """Return how long `size` takes at `rate`, in the kernel's unit of time, as far as it can count."""
    return min(size * _TICKS_PER_S // rate, 0xFFFF_FFFF)


def _prefs(packet_class: PacketClass) -> tuple[int, ...]:
    first = _FIRST_PREF + len(_PROTOCOLS) * list(PacketClass).index(packet_class)
    return tuple(range(first, first + len(_PROTOCOLS)))


_ALL_PREFS = frozenset(pref for packet_class in PacketClass for pref in _prefs(packet_class))


def apply(changes: Iterable[Change]) -> None:
    """Make the changes in order, stopping at the first that fails.

    Raises:
        LimitError: state `unsupported` where the kernel has no such thing, `no-target` where the vif is
            gone, else `failed`.
    """
    for change in changes:
        try:
            rtnetlink.change(change.number, change.flags, change.body)
        except (OSError, ValueError) as problem:
            raise _refused(change.words, problem) from problem


def _refused(words: str, problem: OSError | ValueError) -> LimitError:
    code = problem.errno if isinstance(problem, OSError) else None
    if code == errno.ENODEV:
        return LimitError(f"the vif went away: {problem}", LimitState.NO_TARGET)
    if code == errno.EOPNOTSUPP or any(said in str(problem) for said in _UNSUPPORTED):
        return LimitError(
            f"this kernel cannot limit packets: {problem}",
            LimitState.UNSUPPORTED,
            "it needs the modules sch_ingress, cls_flower, cls_matchall and act_police",
        )
    return LimitError(f"the kernel refused to {words}: {problem}", LimitState.FAILED)

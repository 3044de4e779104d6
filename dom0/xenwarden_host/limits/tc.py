# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits on a vif by the kernel's traffic control: what to change and what stands, both pure, and the calls.

What a guest sends arrives at *ingress* of its vif in dom0, what it is to receive leaves at *egress*. For
each packet class some flower filters at ingress, of one preference, hand to one police action, which drops
what is too much and lets the rest *continue*, so that filters of the admin's behind ours see it. A
limit on what arrives is one filter at egress that matches everything. All vifs of a domain share each
police action, by its index: the limit holds for the whole VM, however many vifs it spreads its traffic
over. The kernel frees the action with the last filter that uses it, also when the vif goes.

Ours are known by preference *and* handle; anything else on the vif is somebody's and stays.
`tc filter show dev vifX.Y ingress` shows it all.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.limits import flower, rtnetlink
from xenwarden_host.limits.rtnetlink import CREATE, EXCLUSIVE, REPLACE, attribute, attributes
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Before the preferences that people use (100) and that the kernel gives by itself (49152), since a
# filter that ends classification would hide the packet from later ones.
_PREFS = {
    PacketClass.SYN: 41,
    PacketClass.UDP: 42,
    PacketClass.ICMP: 43,
    PacketClass.TCP: 45,
    PacketClass.ARP: 46,
}

# The upper half marks a filter as ours, then comes its number within the preference. The last digit tells
# whether we made the vif's clsact qdisc, so that the last filter to go takes it along: kept in the kernel,
# it survives us and goes with the vif.
_HANDLE = 0x7877_0000
_FOUND_QDISC = 1
_MADE_QDISC = 2

# Police actions are numbered in one space for the whole of dom0.
_INDEX = 0x7800_0000

_IN_PREF = 44
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
_MATCHALL_ACT = 2
_POLICE_TBF, _POLICE_RATE, _POLICE_RESULT, _POLICE_RATE64 = 1, 2, 5, 8
_POLICE_PKTRATE64, _POLICE_PKTBURST64 = 10, 11
_ACT_SHOT, _ACT_CONTINUE = 2, -1
_ETH_P_ALL = 0x0003
_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, preference and protocol
_POLICE = struct.Struct("=IiIII BBHhHI 12x iiI")  # struct tc_police with its first tc_ratespec
_TICKS_PER_S = 10**9 // 64  # the kernel's PSCHED_SHIFT

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
    handle: int
    value: int

    @property
    def number(self) -> int:
        """Return its number within the preference."""
        return self.handle >> 4 & 0xFFF

    @property
    def made_qdisc(self) -> bool:
        """Tell whether the vif's qdisc is ours too."""
        return self.handle & 0xF == _MADE_QDISC


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
        """Return what the filters amount to; a class of whose filters one is missing is not limited."""
        found = {}
        for packet_class, matches in flower.MATCHES.items():
            filters = [f for f in self.ours if f.pref == _PREFS[packet_class]]
            values = {f.value for f in filters}
            if len(values) == 1 and {f.number for f in filters} == set(range(len(matches))):
                (found[packet_class],) = values
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

    A VM that was quiet gets that much above its rate, once; over any longer time the rate is exact. At 0
    none passes.
    """
    return max(2, pps // 5) if pps else 0


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
        (ingress, set(_PREFS.values()), b"flower\0", flower.ACT),
        (egress, {_IN_PREF}, b"matchall\0", _MATCHALL_ACT),
    )
    for bodies, prefs, kind, action in places:
        for body in bodies:
            _ifindex, handle, info, fields = _message(body)
            if _TCA_OPTIONS not in fields:  # the head of a preference, not a filter
                continue
            pref, whole = info >> 16, info & 0xFFFF == socket.htons(_ETH_P_ALL)
            marked = whole and handle >> 16 == _HANDLE >> 16
            if fields.get(_TCA_KIND) == kind and pref in prefs and marked:
                ours.append(Filter(pref, handle, _value(fields[_TCA_OPTIONS], action)))
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
            f"move them out of {min(_PREFS.values())}..{max(_PREFS.values())}",
        )
    if wanted.in_bps is not None and there.qdisc == "ingress":
        raise LimitError(
            f"{device} has an ingress qdisc of somebody else, beside which nothing can limit what arrives",
            LimitState.UNSUPPORTED,
            "replace it by clsact",
        )
    changes = []
    made = any(f.made_qdisc for f in there.ours)
    if anything and not there.qdisc:
        changes.append(_clsact(there, "add", _NEWQDISC, CREATE | EXCLUSIVE))
        made = True
    mark = _HANDLE | (_MADE_QDISC if made else _FOUND_QDISC)
    present = {(f.pref, f.number) for f in there.ours}
    keep = set()
    for target in targets:
        for number, options in enumerate(target.filters):
            keep.add((target.pref, number))
            if (target.pref, number) not in present:
                attrs = attribute(_TCA_KIND, target.kind) + attribute(_TCA_OPTIONS, options)
                body = _filter(there, target.pref, mark | number << 4) + attrs
                words = f"add filter {target.pref}.{number} to {device}"
                changes.append(Change(words, _NEWTFILTER, CREATE | EXCLUSIVE, body))
        # A filter that names the index of an action that is there takes it as it is.
        body = b"\0\0\0\0" + attribute(1, attribute(1, target.action))
        changes.append(Change(f"set the rate on {device}", _NEWACTION, CREATE | REPLACE, body))
    for old in there.ours:
        if (old.pref, old.number) not in keep:
            kind = b"matchall\0" if old.pref == _IN_PREF else b"flower\0"
            body = _filter(there, old.pref, old.handle) + attribute(_TCA_KIND, kind)
            words = f"delete filter {old.pref}.{old.number} of {device}"
            changes.append(Change(words, _DELTFILTER, 0, body))
    if not anything and made and not there.others and there.qdisc == "clsact":
        changes.append(_clsact(there, "delete", _DELQDISC, 0))
    return changes


def _clsact(there: VifFilters, verb: str, number: int, flags: int) -> Change:
    body = _TCMSG.pack(0, there.ifindex, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_TCA_KIND, b"clsact\0")
    return Change(f"{verb} qdisc clsact of {there.device}", number, flags, body)


def _filter(there: VifFilters, pref: int, handle: int) -> bytes:
    parent = _EGRESS if pref == _IN_PREF else _INGRESS
    return _TCMSG.pack(0, there.ifindex, handle, parent, pref << 16 | socket.htons(_ETH_P_ALL))


@dataclass(frozen=True, slots=True)
class _Target:
    """One police action, and the options of the filters that hand to it."""

    pref: int
    kind: bytes
    action: bytes
    filters: tuple[bytes, ...]


def _targets(domid: int, wanted: Wanted) -> list[_Target]:
    targets = []
    for packet_class, pps in wanted.pps.items():
        action = _packet_police(domid, list(PacketClass).index(packet_class), pps)
        filters = tuple(flower.options(match, action) for match in flower.MATCHES[packet_class])
        targets.append(_Target(_PREFS[packet_class], b"flower\0", action, filters))
    if wanted.in_bps is not None:
        action = _byte_police(domid, max(1, wanted.in_bps // 8))
        options = attribute(_MATCHALL_ACT, attribute(1, action))
        targets.append(_Target(_IN_PREF, b"matchall\0", action, (options,)))
    return targets


def _packet_police(domid: int, number: int, pps: int) -> bytes:
    tbf = _POLICE.pack(_INDEX | domid << 4 | number, _ACT_SHOT, *(0,) * 12)
    # The kernel takes a packet at rate 0 for one that lasts a nanosecond: no burst is too short for that.
    ticks = burst(pps) * _TICKS_PER_S // max(1, pps)
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

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's police actions have dropped, by one netlink dump (rtnetlink(7), RTM_GETACTION).

Asked at every tick while a packet limit stands: a `tc` process each time would cost more than the rest
of the tick.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from xenwarden_host.errors import LimitError
from xenwarden_host.records import LimitState

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/rtnetlink.h, linux/pkt_cls.h, linux/gen_stats.h
_NLMSG_ERROR, _NLMSG_DONE, _RTM_GETACTION = 2, 3, 50
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_TCA_ROOT_TAB, _TCA_ROOT_FLAGS, _LARGE_DUMP = 1, 2, 1
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_ACT_STATS = 1, 2, 4
_TCA_POLICE_TBF = 1  # struct tc_police, whose first member is the action's index
_TCA_STATS_QUEUE = 3  # struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_HEADER = struct.Struct("=IHHII")
_TCAMSG = b"\0\0\0\0"
_TIMEOUT_S = 2.0


def police_drops() -> dict[int, int]:
    """Return by index how many packets each police action of this network namespace dropped.

    Raises:
        LimitError: the kernel does not tell.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.sendto(_request(), (0, 0))
            found: dict[int, int] = {}
            while True:
                drops, done = parse(connection.recv(1 << 17))
                found.update(drops)
                if done:
                    return found
    except (OSError, ValueError) as problem:
        raise LimitError(
            f"the kernel does not tell what limits drop: {problem}", LimitState.FAILED
        ) from problem


def _request() -> bytes:
    kind = _attribute(1, _attribute(_TCA_ACT_KIND, b"police\0"))
    flags = struct.pack("=II", _LARGE_DUMP, _LARGE_DUMP)
    body = _TCAMSG + _attribute(_TCA_ROOT_TAB, kind) + _attribute(_TCA_ROOT_FLAGS, flags)
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETACTION, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body


def _attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def parse(data: bytes) -> tuple[dict[int, int], bool]:
    """Return the drops by index that one datagram tells, and whether it is the last.

    Raises:
        ValueError: no such datagram.
        OSError: the kernel's error.
    """
    found: dict[int, int] = {}
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, number, _flags, _seq, _pid = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise ValueError("cut short")
        body = data[offset + _HEADER.size : offset + length]
        if number == _NLMSG_DONE:
            return found, True
        if number == _NLMSG_ERROR:
            code = -int.from_bytes(body[:4], "little", signed=True)
            raise OSError(code, f"error {code}")
        if number == _RTM_GETACTION:
            for root, table in _attributes(body[len(_TCAMSG) :]):
                if root == _TCA_ROOT_TAB:
                    found.update(_action(action) for _order, action in _attributes(table))
        offset += (length + 3) & ~3
    return found, False


def _action(raw: bytes) -> tuple[int, int]:
    fields = dict(_attributes(raw))
    options = dict(_attributes(fields.get(_TCA_ACT_OPTIONS, b"")))
    statistics = dict(_attributes(fields.get(_TCA_ACT_STATS, b"")))
    try:
        (index,) = struct.unpack_from("=I", options[_TCA_POLICE_TBF])
        _qlen, _backlog, drops = struct.unpack_from("=III", statistics[_TCA_STATS_QUEUE])
    except (KeyError, struct.error):
        raise ValueError("an action without index or statistics") from None
    return index, drops


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            raise ValueError("an attribute cut short")
        yield number & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3

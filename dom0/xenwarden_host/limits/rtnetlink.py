# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's network settings over rtnetlink(7), as far as limits need them: dump, change, attributes.

A process of `tc` costs a fork and an exec each time, on a busy dom0 longer than all else that a limit
takes; pyroute2 0.7 knows no packet rate and brings 25 MB.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h, linux/rtnetlink.h
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_DUMP_INTERRUPTED, _ACK_TLVS = 0x10, 0x200
CREATE, EXCLUSIVE, REPLACE = 0x400, 0x200, 0x100
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_ERROR_MESSAGE = 1
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

HEADER = struct.Struct("=IHHII")
_TIMEOUT_S = 2.0
_TRIES = 5


def attribute(number: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and value of each attribute.

    Raises:
        ValueError: cut short.
    """
    offset = 0
    while offset + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            raise ValueError("an attribute cut short")
        yield number & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse(data: bytes) -> tuple[list[bytes], bool]:
    """Return the bodies of the messages in one datagram, and whether it ends the answer.

    Raises:
        ValueError: no such datagram.
        OSError: the kernel's error, in its own words where it has some.
    """
    bodies: list[bytes] = []
    offset = 0
    while offset + HEADER.size <= len(data):
        length, number, flags, _seq, _pid = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            raise ValueError("cut short")
        body = data[offset + HEADER.size : offset + length]
        if flags & _DUMP_INTERRUPTED:
            raise InterruptedError(errno.EINTR, "changed while it was read")
        if number == _DONE:
            return bodies, True
        if number == _ERROR:
            code = -int.from_bytes(body[:4], "little", signed=True)
            if code == 0:
                return bodies, True
            said = dict(attributes(body[4 + HEADER.size :])) if flags & _ACK_TLVS else {}
            message = said.get(_ERROR_MESSAGE, b"").rstrip(b"\0").decode("ascii", "replace")
            raise OSError(code, message or f"error {code}")
        bodies.append(body)
        offset += (length + 3) & ~3
    return bodies, False


def dump(number: int, body: bytes) -> list[bytes]:
    """Return the body of each message that answers a dump request.

    Raises:
        OSError, ValueError: the kernel does not tell.
    """
    for _ in range(_TRIES - 1):
        try:
            return _ask(number, _DUMP, body)
        except InterruptedError:  # by another's change: what was read may be half old
            continue
    return _ask(number, _DUMP, body)


def change(number: int, flags: int, body: bytes) -> None:
    """Have the kernel make one change; return when it is made.

    Raises:
        OSError, ValueError: it is not made.
    """
    _ask(number, _ACK | flags, body)


def _ask(number: int, flags: int, body: bytes) -> list[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        connection.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        header = HEADER.pack(HEADER.size + len(body), number, _REQUEST | flags, 1, 0)
        connection.sendto(header + body, (0, 0))
        found: list[bytes] = []
        while True:
            bodies, done = parse(connection.recv(1 << 17))
            found += bodies
            if done:
                return found

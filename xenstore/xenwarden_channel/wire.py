# SPDX-License-Identifier: LGPL-2.1-or-later
"""XenStore's wire format: build requests, and cut what arrives into packets, bounded.

One packet is a header of four 32-bit numbers (operation, request id, transaction id, length of
payload) in the machine's byte order, and the payload; see Xen's `xen/include/public/io/xs_wire.h`.
The guest agent imports this module: keep it light.
"""

from __future__ import annotations

from struct import Struct

from xenwarden_channel.errors import InvalidError

HEADER = Struct("=IIII")
HEADER_SIZE = 16
MAX_PAYLOAD = 4096  # XENSTORE_PAYLOAD_MAX; a daemon that gets more drops the connection

DIRECTORY = 1
READ = 2
GET_PERMS = 3
WATCH = 4
UNWATCH = 5
TRANSACTION_START = 6
TRANSACTION_END = 7
WRITE = 11
MKDIR = 12
RM = 13
SET_PERMS = 14
WATCH_EVENT = 15
ERROR = 16
DIRECTORY_PART = 22

_unpack_header = HEADER.unpack_from


class ProtocolError(Exception):
    """What arrives cannot be XenStore's wire format: the connection is of no more use."""


def pack(op: int, rq_id: int, tx_id: int, payload: bytes) -> bytes:
    """Return one request as it goes over the wire.

    Raises:
        ValueError: the payload is longer than XenStore takes.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError("payload too long")
    return HEADER.pack(op, rq_id, tx_id, len(payload)) + payload


def string(text: str) -> bytes:
    """Return a path, token or permission as it goes over the wire; whether it is one the daemon judges.

    Raises:
        InvalidError: it cannot go over the wire.
    """
    if "\0" in text or not text.isascii():
        raise InvalidError("not a path")
    return text.encode("ascii") + b"\0"


class PacketReader:
    """Cuts a byte stream into packets, whatever the pieces in which it arrives.

    Holds at most one unfinished packet: `max_payload` and a header.
    """

    __slots__ = ("_max_payload", "_rest")

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return the packets that `data` completes, as (operation, request id, payload), in order.

        Raises:
            ProtocolError: a header announces more than `max_payload`. Packets before it in the same
                data are lost with the connection.
        """
        if self._rest:
            data = self._rest + data
        packets: list[tuple[int, int, bytes]] = []
        append = packets.append
        start = 0
        available = len(data) - HEADER_SIZE
        while start <= available:
            op, rq_id, _tx_id, size = _unpack_header(data, start)
            if size > self._max_payload:
                raise ProtocolError(f"payload of {size} bytes announced")
            end = start + HEADER_SIZE + size
            if end > available + HEADER_SIZE:
                break
            append((op, rq_id, data[start + HEADER_SIZE : end]))
            start = end
        self._rest = data[start:] if start else data
        return packets


def split_event(payload: bytes) -> tuple[str, str] | None:
    """Return path and token of a WATCH_EVENT's payload, None where it is malformed.

    Paths are ASCII by protocol; a token is the watcher's own.
    """
    parts = payload.split(b"\0")
    if len(parts) < 3:  # path, token, and what follows the last NUL
        return None
    try:
        return parts[0].decode("ascii"), parts[1].decode("ascii")
    except UnicodeDecodeError:
        return None

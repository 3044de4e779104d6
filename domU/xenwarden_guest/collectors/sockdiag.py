# SPDX-License-Identifier: LGPL-2.1-or-later
"""TCP connections one by one, as the kernel's socket monitoring tells them: NETLINK_SOCK_DIAG.

What `ss -ti` asks for. Linux, include/uapi/linux/{netlink,sock_diag,inet_diag,tcp}.h.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, AF_NETLINK, SO_RCVTIMEO, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET
from _socket import socket as Socket  # noqa: N812  the class; the `socket` module around it costs 1 MB
from _struct import Struct
from sys import byteorder

from xenwarden_guest.collectors import Unparsable

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_REQUEST_DUMP = 0x0301
_TCP, _ESTABLISHED, _LISTEN = 6, 1, 10
_INFO = 2  # INET_DIAG_INFO, whose value is struct tcp_info
_HEADER = Struct("=IH10x")  # struct nlmsghdr: length, type
# The same, then struct inet_diag_req_v2: family, protocol, attributes and states wanted; of any address
_ASK = Struct("=IHHII BBBxI48x")
_SOCKET = Struct("=xB2xH2x16s16s16xII8x")  # struct inet_diag_msg: state, own port, addresses, queues
_ATTRIBUTE = Struct("=HH")
# struct tcp_info: ms since data was sent, and received; segments sent again; bytes acknowledged, and
# received; segments of data received, and sent.
_INFO_FIELDS = Struct("=44xI4xI44xI16xQQ16xII")
_CHUNK = 32768  # the most that the kernel puts into one answer
_PATIENCE = Struct("=qq").pack(1, 0)  # s: the kernel answers at once


class Connection:
    """A TCP socket, listening or connected: what went each way on it, and how long ago."""

    __slots__ = (
        "inside",
        "listening",
        "port",
        "received_bytes",
        "received_segments",
        "sent_bytes",
        "sent_segments",
        "since_received_ms",
        "since_sent_ms",
        "unread",
        "unsent",
    )

    def __init__(self, state: int, port: int, *, inside: bool, unread: int, unsent: int) -> None:
        self.listening = state == _LISTEN
        self.port = port  # the VM's own, as it goes over the wire: to be compared only
        self.inside = inside  # both ends are this VM's
        self.unread = unread  # bytes received that no program has read
        self.unsent = unsent  # bytes that a program sent, and that have not arrived
        self.since_sent_ms = self.since_received_ms = 0  # or since it was opened
        self.sent_bytes = self.received_bytes = 0
        self.sent_segments = self.received_segments = 0  # with data; what was sent again counts once


def read(most: int) -> tuple[list[Connection], bool]:
    """Return TCP sockets, listening or connected, and whether they are all: about `most` of each IP version.

    Raises:
        OSError: the kernel has no such thing, or refuses.
        Unparsable: it answers something else.
    """
    found: list[Connection] = []
    whole = True
    for family in (AF_INET, AF_INET6):
        # A socket for each: to close it ends an answer of which there is more.
        sock = Socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        try:
            sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _PATIENCE)
            states = 1 << _LISTEN | 1 << _ESTABLISHED
            ask = (_ASK.size, _BY_FAMILY, _REQUEST_DUMP, 1, 0, family, _TCP, 1 << _INFO - 1, states)
            sock.send(_ASK.pack(*ask))
            done, until = False, len(found) + most
            while not done and len(found) < until:
                done = parse(sock.recv(_CHUNK), found)
        finally:
            sock.close()
        whole = whole and done
    return found, whole


def parse(answer: bytes, into: list[Connection]) -> bool:
    """Add the sockets of one datagram to `into`; return whether it was the last.

    Raises:
        OSError: it is the kernel's refusal.
        Unparsable: it is no such answer.
    """
    at = 0
    while at < len(answer):
        if at + _HEADER.size > len(answer):
            raise Unparsable("cut")
        size, kind = _HEADER.unpack_from(answer, at)
        end = at + size
        at += _HEADER.size
        if kind == _DONE:
            return True
        if not at <= end <= len(answer):
            raise Unparsable("cut")
        if kind == _ERROR:
            raise OSError(-int.from_bytes(answer[at : at + 4], byteorder, signed=True), "refused")
        if kind != _BY_FAMILY:
            raise Unparsable("another message")
        into.append(_connection(answer, at, end))
        at = end + 3 & ~3
    return False


def _connection(answer: bytes, at: int, end: int) -> Connection:
    if at + _SOCKET.size > end:
        raise Unparsable("cut")
    state, port, source, dest, unread, unsent = _SOCKET.unpack_from(answer, at)
    found = Connection(state, port, inside=source == dest, unread=unread, unsent=unsent)
    if found.listening:
        return found
    at += _SOCKET.size
    while at + _ATTRIBUTE.size <= end:
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if not _ATTRIBUTE.size <= size <= end - at:
            break
        if kind == _INFO:
            if size < _ATTRIBUTE.size + _INFO_FIELDS.size:  # a kernel before 4.6
                break
            (
                found.since_sent_ms,
                found.since_received_ms,
                again,
                found.sent_bytes,
                found.received_bytes,
                found.received_segments,
                sent,
            ) = _INFO_FIELDS.unpack_from(answer, at + _ATTRIBUTE.size)
            found.sent_segments = max(0, sent - again)
            return found
        at += size + 3 & ~3
    raise Unparsable("no struct tcp_info")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's XenStore client: one file descriptor, one thread, little memory.

It speaks over Linux's `/dev/xen/xenbus`, or over a daemon's Unix socket where `path` is one. What
that device does (Linux 4.11 and later, `drivers/xen/xenbus/xenbus_dev_frontend.c`) shapes this file:

* A request must arrive whole, header and payload together at most 4,096 bytes; one `write` each.
* WATCH is answered inside `write`: the kernel watches for us, and its refusal is the errno of `write`.
* A watch event's request id is not set: an event is known by its operation only.
* Answers and events are queued in the kernel without bound: drain them.
* The kernel re-creates watches after suspend and migration; the file stays open across both.
"""

from __future__ import annotations

import errno
import os
from select import POLLIN, POLLOUT, poll
from stat import S_ISSOCK
from time import monotonic

from xenwarden_channel import errors, wire
from xenwarden_channel.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence
    from io import FileIO

    from xenwarden_channel.store import Answer

XENBUS = "/dev/xen/xenbus"
MAX_REQUEST = 4096  # header included: the size of the device's buffer
MAX_EVENTS = 64  # distinct (path, token) pairs kept; beyond, they become one event for each watch
READ_SIZE = 8192
MAX_IN_FLIGHT = 8  # requests, whose answers fit into any socket's buffer while we send

_NO_ANSWER = (wire.ERROR, 0, b"")

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)


class GuestStore(Store):
    """XenStore as one guest sees it; relative paths are below its own home.

    Every call raises `errors.StoreError` and its kinds, and ends within `deadline_s`. After a
    `DisconnectedError` every call raises one, until `reconnect` succeeds. Not safe for threads.
    """

    def __init__(self, path: str = XENBUS, deadline_s: float = 5.0) -> None:
        """Connect.

        Raises:
            DisconnectedError: the device or socket cannot be opened.
        """
        self._path = path
        self._deadline_s = deadline_s
        self._watches: dict[tuple[str, str], None] = {}
        self._events: dict[tuple[str, str], None] = {}
        self._rq_id = 0
        self._fd = -1
        self._file: FileIO | _socket.socket | None = None
        self._reader = wire.PacketReader()
        self._open()

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below; one event comes at once. `reconnect` makes it again."""
        self._ask(wire.WATCH, path, wire.string(path) + wire.string(token))
        self._watches[path, token] = None

    def unwatch(self, path: str, token: str) -> None:
        """Stop watching."""
        self._watches.pop((path, token), None)
        try:
            self._ask(wire.UNWATCH, path, wire.string(path) + wire.string(token))
        except errors.NotFoundError:
            return

    def events(self) -> list[tuple[str, str]]:
        """Return and clear the (path, token) events since the last call, each pair once. Never blocks."""
        self._drain()
        found = list(self._events)
        self._events.clear()
        return found

    @property
    def pending(self) -> bool:
        """Say whether `events` has some that came along with an answer: nothing is readable for these."""
        return bool(self._events)

    def fileno(self) -> int:
        """Return the descriptor to wait on: readable when `events` should be called."""
        return self._fd

    def reconnect(self) -> None:
        """Close, open again and watch again all that was watched. Events so far are dropped.

        Each watch fires at once, so the caller reads everything again.
        """
        self.close()
        self._open()
        for path, token in self._watches:
            try:
                self._ask(wire.WATCH, path, wire.string(path) + wire.string(token))
            except errors.ExistsError:
                continue

    def close(self) -> None:
        """Close the connection; the daemon forgets the watches."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._fd = -1
        self._events.clear()

    # --- requests ---------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            if S_ISSOCK(os.stat(self._path).st_mode):  # noqa: PTH116 - pathlib costs memory
                self._file = _connect(self._path, self._deadline_s)
            else:
                self._file = open(self._path, "r+b", buffering=0, opener=_open_nonblocking)  # noqa: SIM115
            self._fd = self._file.fileno()
        except OSError as error:
            self.close()
            raise errors.DisconnectedError(f"{self._path}: {error.strerror or error}") from None
        self._reader = wire.PacketReader()

    def _exchange(self, op: int, payloads: Sequence[bytes], tx_id: int = 0) -> list[Answer]:
        if self._fd < 0:
            raise errors.DisconnectedError("not connected")
        if max(map(len, payloads), default=0) > MAX_REQUEST - wire.HEADER_SIZE:
            raise errors.TooBigError("longer than a request may be")
        until = monotonic() + self._deadline_s
        waiting: dict[int, int] = {}  # request id: index
        answers: list[Answer] = [_NO_ANSWER] * len(payloads)
        for index, payload in enumerate(payloads):
            self._rq_id = self._rq_id % 0xFFFF_FFFF + 1
            refused = self._send(wire.pack(op, self._rq_id, tx_id, payload), until)
            if refused:
                answers[index] = wire.ERROR, self._rq_id, refused
            else:
                waiting[self._rq_id] = index
            if len(waiting) >= MAX_IN_FLIGHT:
                self._take_answers(op, waiting, answers, until)
        while waiting:
            self._take_answers(op, waiting, answers, until)
        return answers

    def _take_answers(self, op: int, waiting: dict[int, int], answers: list[Answer], until: float) -> None:
        """Wait for something to come, and take the answers in it."""
        self._wait(POLLIN, until)
        for packet in self._receive():
            got_op, rq_id, _payload = packet
            # An answer to an earlier request that ran out of time has another id: dropped.
            if got_op == wire.WATCH_EVENT or rq_id not in waiting:
                continue
            if got_op not in (op, wire.ERROR):
                self.close()
                raise errors.DisconnectedError("answer to another operation")
            answers[waiting.pop(rq_id)] = packet

    def _send(self, request: bytes, until: float) -> bytes:
        """Send one request; return the error's name where the device refused it: no answer will come."""
        sent = 0
        while sent < len(request):
            try:
                sent += os.write(self._fd, request[sent:])
            except BlockingIOError:
                try:
                    self._wait(POLLOUT, until)
                except errors.DeadlineError:
                    if sent:  # half a request went out: nothing can follow it
                        self.close()
                    raise
            except OSError as error:
                if error.errno in _GONE:
                    self.close()
                    raise errors.DisconnectedError(f"connection lost: {error.strerror}") from None
                return errno.errorcode.get(error.errno or 0, "EIO").encode()
        return b""

    def _wait(self, events: int, until: float) -> None:
        poller = poll()
        poller.register(self._fd, events)
        left_ms = (until - monotonic()) * 1000
        if left_ms <= 0 or not poller.poll(left_ms):
            raise errors.DeadlineError(f"no answer within {self._deadline_s:g} s")

    def _receive(self) -> list[Answer]:
        """Return what has arrived, events taken into the table, without waiting."""
        try:
            data = os.read(self._fd, READ_SIZE)
            packets = self._reader.feed(data)
        except BlockingIOError:
            return []
        except (OSError, wire.ProtocolError) as error:
            self.close()
            raise errors.DisconnectedError(str(error)) from None
        if not data:
            self.close()
            raise errors.DisconnectedError("connection closed")
        for op, _rq_id, payload in packets:
            if op == wire.WATCH_EVENT:
                event = wire.split_event(payload)
                if event is not None:
                    self._events[event] = None
        if len(self._events) > MAX_EVENTS:
            self._events = dict.fromkeys(self._watches)
        return packets

    def _drain(self) -> None:
        if self._fd < 0:
            raise errors.DisconnectedError("not connected")
        poller = poll()
        poller.register(self._fd, POLLIN)
        while poller.poll(0):
            self._receive()


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _connect(path: str, deadline_s: float) -> _socket.socket:
    # The C module only: `socket` itself costs 1.4 MB.
    from _socket import AF_UNIX, SOCK_STREAM, socket  # noqa: PLC0415

    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.settimeout(deadline_s)
        sock.connect(path)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock

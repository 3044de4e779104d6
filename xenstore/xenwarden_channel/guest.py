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

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from io import FileIO

XENBUS = "/dev/xen/xenbus"
MAX_REQUEST = 4096  # header included: the size of the device's buffer
MAX_EVENTS = 64  # distinct (path, token) pairs kept; beyond, they become one event for each watch
READ_SIZE = 8192

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)


class GuestStore:
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

    def read(self, path: str) -> bytes:
        """Return the node's value."""
        return self._ask(wire.READ, path, wire.string(path))

    def write(self, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""
        self._ask(wire.WRITE, path, wire.string(path) + value)

    def remove(self, path: str) -> None:
        """Remove the node and all below; nothing happens where there is none."""
        try:  # not contextlib: an import the agent does without
            self._ask(wire.RM, path, wire.string(path))
        except errors.NotFoundError:
            return

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below; one event comes at once. `reconnect` makes it again."""
        self._ask(wire.WATCH, path, wire.string(path) + wire.string(token))
        self._watches[path, token] = None

    def events(self) -> list[tuple[str, str]]:
        """Return and clear the (path, token) events since the last call, each pair once. Never blocks."""
        self._drain()
        found = list(self._events)
        self._events.clear()
        return found

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

    # --- one request at a time ------------------------------------------------------------------

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

    def _ask(self, op: int, what: str, payload: bytes) -> bytes:
        if self._fd < 0:
            raise errors.DisconnectedError("not connected")
        if len(payload) > MAX_REQUEST - wire.HEADER_SIZE:
            raise errors.TooBigError(f"{what}: longer than a request may be")
        self._rq_id = self._rq_id % 0xFFFF_FFFF + 1
        until = monotonic() + self._deadline_s
        self._send(wire.pack(op, self._rq_id, 0, payload), what, until)
        while True:
            for got_op, rq_id, got in self._receive():
                # An answer to an earlier request that ran out of time has another id: dropped.
                if rq_id != self._rq_id or got_op == wire.WATCH_EVENT:
                    continue
                if got_op == wire.ERROR:
                    raise errors.from_reply(got, what)
                if got_op != op:
                    self.close()
                    raise errors.DisconnectedError("answer to another operation")
                return got
            self._wait(POLLIN, until, what)

    def _send(self, request: bytes, what: str, until: float) -> None:
        sent = 0
        while sent < len(request):
            try:
                sent += os.write(self._fd, request[sent:])
            except BlockingIOError:
                try:
                    self._wait(POLLOUT, until, what)
                except errors.DeadlineError:
                    if sent:  # half a request went out: nothing can follow it
                        self.close()
                    raise
            except OSError as error:
                if error.errno in _GONE:
                    self.close()
                    raise errors.DisconnectedError(f"{what}: {error.strerror}") from None
                # xenbus: the request was refused before it was sent, no answer will come
                code = errno.errorcode.get(error.errno or 0, "EIO")
                raise errors.from_reply(code.encode(), what) from None

    def _wait(self, events: int, until: float, what: str) -> None:
        poller = poll()
        poller.register(self._fd, events)
        left_ms = (until - monotonic()) * 1000
        if left_ms <= 0 or not poller.poll(left_ms):
            raise errors.DeadlineError(f"{what}: no answer within {self._deadline_s:g} s")

    def _receive(self) -> list[tuple[int, int, bytes]]:
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

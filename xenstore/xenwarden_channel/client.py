# SPDX-License-Identifier: LGPL-2.1-or-later
"""dom0's XenStore client: pipelined requests, bounded events, and a connection that comes back.

It stands on pyxs for the connection, the operations and the connection's errors, and replaces pyxs's
Router, Client and Monitor: those wait for ever on a dead daemon, do not reconnect and queue events
without bound. pyxs's `Packet` and its `recv` are left out: they take one packet at a time with two system
calls, 11 to 14 us each where `wire.PacketReader`, which takes all that has arrived, needs 0.5 us.

One thread does nothing but drain the socket: on C xenstored an undrained connection with a watch
blocks the guests that write what it watches.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING

from pyxs._internal import Op
from pyxs.connection import UnixSocketConnection
from pyxs.exceptions import ConnectionError as PyxsConnectionError

from xenwarden_channel import errors, wire
from xenwarden_channel.eventtable import EventTable
from xenwarden_channel.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_channel.store import Answer

MAX_REPLY = 1 << 20  # oxenstored answers DIRECTORY beyond XenStore's 4,096 bytes, and knows no part
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
RECV_SIZE = 1 << 16
# With this many answers still to come the reader lets some gather: woken for each of them it costs
# itself and the daemon a switch of threads per answer, which halves what both can do. Longer naps
# lose again: Linux calls a Unix socket writable while a quarter of its buffer is in use, which is
# 16 answers of 800 bytes, and C xenstored waits until it is. With a thousand domains that daemon
# takes some 0.5 ms for an answer: the nap grows while it brings little, and shrinks again.
NAP_ABOVE = 4
NAP_S = 0.000001  # the kernel makes this some 55 us, its timer slack
NAP_MAX_S = 0.001
NAP_FEW, NAP_MANY = 4, 12
SEND_SIZE = 1 << 16


_NO_ANSWER = (-1, 0, b"")


class _Batch:
    """Requests of one call, with consecutive ids, and the answers as they come in."""

    __slots__ = ("answers", "base", "broken", "done", "missing")

    def __init__(self, base: int, count: int) -> None:
        self.base = base
        self.answers = [_NO_ANSWER] * count
        self.missing = count
        self.broken = False
        # A bare lock, taken: an Event would cost as much again as a request.
        self.done = threading.Lock()
        self.done.acquire()


class StoreClient(Store):
    """XenStore over a Unix socket; safe for any number of threads.

    Implements the host's `Store` Protocol. Every call raises `errors.StoreError` and its kinds and
    ends within `deadline_s`. After a loss the client reconnects by itself, watches again what was
    watched (each watch fires then) and raises its `generation`; calls made meanwhile raise
    `DisconnectedError` at once.
    """

    def __init__(self, path: str | None = None, deadline_s: float = 5.0) -> None:
        """Connect to `path`, by default where the environment or Xen's own default says.

        Raises:
            DisconnectedError: no daemon answers there within `deadline_s`.
        """
        self._path = path
        self._deadline_s = deadline_s
        self._lock = threading.Lock()  # guards everything below but the sending itself
        self._send_lock = threading.Lock()
        self._pending: dict[int, _Batch] = {}
        self._next_id = 1
        self._socket: socket.socket | None = None
        self._generation = 0
        self._events = EventTable()
        self._closing = threading.Event()
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._run, name="xenstore-reader", daemon=True)
        self._reader.start()
        if not self._up.wait(deadline_s):
            self.close()
            raise errors.DisconnectedError("xenstored cannot be reached")

    def usage(self, domid: int) -> dict[str, int]:
        """Return what a domain holds of its quotas, by the daemon's own names, such as `nodes`.

        C xenstored tells `nodes`, `watches`, `transactions`, `outstanding` and `memory`; oxenstored
        `nodes`. A domain with `transactions` open slows the writes of all guests on C xenstored.
        """
        text = self._ask(Op.DEBUG, f"quota of domain {domid}", b"quota\0%d\0" % domid)
        found = {}
        for line in text.decode("ascii", "replace").splitlines():
            name, _colon, value = line.rstrip("\0").partition(":")
            value = value.strip()
            if value.isdecimal():
                found[name.strip()] = int(value)
            elif name.endswith(" quota"):  # oxenstored: "dom5 quota: 1/1000"
                used = value.partition("/")[0]
                found["nodes"] = int(used) if used.isdecimal() else 0
        return found

    # --- watches -----------------------------------------------------------------------------------

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below. Events come from `events`; they are re-made after a reconnect.

        One event comes at once. Watching the same path with the same token again does nothing.
        """
        if not self._events.add_watch(path, token):
            return
        try:
            self._ask(Op.WATCH, path, wire.string(path) + wire.string(token))
        except errors.ExistsError:
            pass  # a reconnect in between has made it
        except errors.StoreError:
            self._events.remove_watch(path, token)
            raise

    def unwatch(self, path: str, token: str) -> None:
        """Stop watching."""
        self._events.remove_watch(path, token)
        with contextlib.suppress(errors.NotFoundError):
            self._ask(Op.UNWATCH, path, wire.string(path) + wire.string(token))

    def events(self) -> list[tuple[str, str]]:
        """Return and clear the (path, token) events since the last call, each pair once. Never blocks."""
        return self._events.take()

    def event_fd(self) -> int:
        """Return a descriptor that is readable while `events` has something to return."""
        return self._events.fileno()

    def generation(self) -> int:
        """Return a number that rises with each reconnect: the caller re-reads everything when it changed."""
        return self._generation

    def connected(self) -> bool:
        """Tell whether the connection stands now."""
        return self._socket is not None

    def close(self) -> None:
        """Close the connection and stop the reader."""
        self._closing.set()
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(self._deadline_s)
        self._events.close()

    # --- requests ---------------------------------------------------------------------------------

    def _exchange(self, op: int, payloads: Sequence[bytes], tx_id: int = 0) -> list[Answer]:
        """Send all requests at once and return their answers in order."""
        until = monotonic() + self._deadline_s
        count = len(payloads)
        if not count:
            return []
        if max(map(len, payloads)) > wire.MAX_PAYLOAD:
            raise errors.TooBigError("longer than a request may be")
        sock, batch = self._register(count)
        base = batch.base
        try:
            pack = wire.HEADER.pack
            self._send(
                sock,
                b"".join(
                    pack(op, rq_id, tx_id, len(payload)) + payload
                    for rq_id, payload in enumerate(payloads, base)
                ),
                until,
            )
            if not batch.done.acquire(timeout=max(0.0, until - monotonic())):
                raise errors.DeadlineError(f"xenstored did not answer within {self._deadline_s:g} s")
        finally:
            if batch.missing:
                with self._lock:
                    for rq_id in range(base, base + count):
                        self._pending.pop(rq_id, None)
        if batch.broken:
            raise errors.DisconnectedError("connection to xenstored lost before the answer")
        if not {answer[0] for answer in batch.answers} <= {op, Op.ERROR}:
            self._drop(sock)
            raise errors.DisconnectedError("xenstored answered to another operation")
        return batch.answers

    def _register(self, count: int) -> tuple[socket.socket, _Batch]:
        with self._lock:
            if self._socket is None:
                raise errors.DisconnectedError("no connection to xenstored")
            base = self._next_id
            if base + count > 0xFFFF_FFFF:
                base = 1
            self._next_id = base + count
            batch = _Batch(base, count)
            self._pending.update(dict.fromkeys(range(base, base + count), batch))
            return self._socket, batch

    def _send(self, sock: socket.socket, data: bytes, until: float) -> None:
        if not self._send_lock.acquire(timeout=max(0.0, until - monotonic())):
            raise errors.DeadlineError("xenstored takes no requests")
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[sock.send(view[:SEND_SIZE], socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    poller = select.poll()
                    poller.register(sock, select.POLLOUT)
                    left_ms = (until - monotonic()) * 1000
                    if left_ms <= 0 or not poller.poll(left_ms):
                        if len(view) != len(data):  # half of a request went out: nothing can follow it
                            self._drop(sock)
                        raise errors.DeadlineError("xenstored takes no requests") from None
        except OSError as error:
            self._drop(sock)
            raise errors.DisconnectedError(f"connection to xenstored lost: {error.strerror}") from None
        finally:
            self._send_lock.release()

    # --- the reader -------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._closing.is_set():
            connection = self._connect()
            if connection is not None and self._read_until_lost(connection):
                backoff_s = BACKOFF_FIRST_S
            else:  # a daemon that takes connections and drops them is no better than none
                self._closing.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _connect(self) -> UnixSocketConnection | None:
        connection = UnixSocketConnection(self._path)
        try:
            connection.connect()
        except PyxsConnectionError:
            return None
        sock = connection.transport.sock
        with self._lock:
            if self._closing.is_set():
                connection.close()
                return None
            # Ids of nobody: answers to these are not waited for.
            requests = b"".join(
                wire.pack(Op.WATCH, 0, 0, wire.string(path) + wire.string(token))
                for path, token in self._events.watches()
            )
            self._socket = sock
            self._generation += 1
        if requests:
            # Sent aside: the reader must drain while the daemon answers.
            threading.Thread(target=self._watch_again, args=(sock, requests), daemon=True).start()
        self._up.set()
        return connection

    def _watch_again(self, sock: socket.socket, requests: bytes) -> None:
        with contextlib.suppress(errors.StoreError):  # lost again: the next connection watches again
            self._send(sock, requests, monotonic() + self._deadline_s)

    def _read_until_lost(self, connection: UnixSocketConnection) -> bool:
        """Drain until the end; tell whether anything came at all."""
        sock = connection.transport.sock
        reader = wire.PacketReader(MAX_REPLY)
        answered = False
        nap_s = NAP_S
        try:
            while data := sock.recv(RECV_SIZE):
                answered = True
                packets = reader.feed(data)
                self._take(packets)
                if len(self._pending) > NAP_ABOVE:
                    if len(packets) < NAP_FEW:
                        nap_s = min(nap_s * 2, NAP_MAX_S)
                    elif len(packets) > NAP_MANY:
                        nap_s = max(nap_s / 2, NAP_S)
                    sleep(nap_s)
        except (OSError, wire.ProtocolError):
            pass
        self._drop(sock)
        with self._lock:
            broken = set(self._pending.values())
            self._pending.clear()
            for batch in broken:
                batch.broken = True
                batch.done.release()
        # Not while another thread sends: its descriptor's number could be another file's by then.
        with self._send_lock:
            connection.close()
        return answered

    def _take(self, packets: list[Answer]) -> None:
        events = []
        complete = []
        watch_event = wire.WATCH_EVENT
        with self._lock:
            pending_pop = self._pending.pop
            for packet in packets:
                op, rq_id, payload = packet
                if op == watch_event:
                    event = wire.split_event(payload)
                    if event is not None:
                        events.append(event)
                    continue
                batch = pending_pop(rq_id, None)
                if batch is None:  # nobody waits any more
                    continue
                batch.answers[rq_id - batch.base] = packet
                batch.missing -= 1
                if not batch.missing:
                    complete.append(batch)
        # In this order: who waits for an answer finds the events that came before it.
        if events:
            self._events.fire(events)
        for batch in complete:
            batch.done.release()

    def _drop(self, sock: socket.socket) -> None:
        """Make no more use of this connection; the reader sees its end."""
        with self._lock:
            if self._socket is sock:
                self._socket = None
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

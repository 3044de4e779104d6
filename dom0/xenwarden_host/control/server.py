# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket's server. No client can make it wait, grow or stop.

Bounded: connections in all and per user, size of a request, time to send one, requests in one turn, and
what waits to be sent. root has places that others cannot take.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Protocol

from xenwarden_host.audit import logfmt
from xenwarden_host.control.peers import Peer, Role, peer_of
from xenwarden_host.daemon.loop import READ, WRITE
from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xenwarden_host.control.peers import Roles
    from xenwarden_host.daemon.loop import Loop
    from xenwarden_host.protocols import Clock

log = logging.getLogger("xenwarden.control")

MAX_REQUEST_BYTES = 4096
MAX_OUTPUT_BYTES = 4 * 1024 * 1024  # `list` of a thousand VMs is far below
MAX_CONNECTIONS = 128
MAX_CONNECTIONS_OF_OTHERS = 96  # of users that are not root, together
MAX_CONNECTIONS_PER_USER = 24
IDLE_S = 10.0  # between connecting or an answer and the next whole request
_ACCEPTS_PER_TURN = 16
_BACKLOG = 4096  # a crowd that comes at once waits here to be refused, and keeps nobody out
_SWEEP_S = 1.0
_REFUSALS_LOGGED_PER_MINUTE = 30


class Handler(Protocol):
    """What answers requests."""

    def answer(self, request: dict[str, Any], peer: Peer, role: Role) -> tuple[Any, str | None]:
        """Return the result and which stream the client follows from now on, None for none.

        Raises:
            XenwardenError: a sentence for the user.
        """


class _Client:
    def __init__(self, connection: socket.socket, peer: Peer, role: Role, deadline_s: float) -> None:
        self.connection = connection
        self.fd = connection.fileno()
        self.peer = peer
        self.role = role
        self.deadline_s: float | None = deadline_s  # None: it follows a stream
        self.follows: str | None = None
        self.input = bytearray()
        self.output = bytearray()
        self.close_when_sent = False


class ControlServer:
    """Serve `handler` at `path`.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(
        self,
        loop: Loop,
        path: Path,
        handler: Handler,
        roles: Roles,
        clock: Clock,
        *,
        credentials: Callable[[socket.socket], Peer] = peer_of,
    ) -> None:
        self._loop = loop
        self._path = path
        self._handler = handler
        self._clock = clock
        self._credentials = credentials
        self._clients: dict[int, _Client] = {}
        self._refusals_left = _REFUSALS_LOGGED_PER_MINUTE
        self._refusals_reset_s = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        path.unlink(missing_ok=True)  # of a daemon that died; the lock says that none lives
        old_mask = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(old_mask)
        self._socket.listen(_BACKLOG)
        self.set_roles(roles)
        loop.watch(self._socket.fileno(), READ, self._accept)
        loop.at(clock.monotonic() + _SWEEP_S, self._sweep)

    def set_roles(self, roles: Roles) -> None:
        """Take these roles for those who connect from now on; without any only root can connect."""
        self._roles = roles
        with contextlib.suppress(FileNotFoundError):  # somebody removed it: nobody can connect anyhow
            self._path.chmod(0o600 if roles.root_only else 0o666)

    def publish(self, stream: str, item: Any) -> bool:
        """Send an item to all who follow the stream; return whether any does.

        One who does not read is dropped.
        """
        followers = [client for client in self._clients.values() if client.follows == stream]
        if followers:
            line = json.dumps({stream: item}).encode() + b"\n"
            for client in followers:
                self._send(client, line)
        return bool(followers)

    def close(self) -> None:
        """Close all connections and remove the socket."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)

    # --- connections -----------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                connection, _address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._log_refusal("control-accept-failed", None, str(error))
                return
            connection.setblocking(False)
            try:
                peer = self._credentials(connection)
            except OSError:
                connection.close()
                continue
            role = self._roles.role_of(peer)
            refusal = self._refusal(peer, role)
            if refusal is not None:
                message, hint = refusal
                self._log_refusal("control-refused", peer, message)
                _say_once(connection, message, hint)
                continue
            client = _Client(connection, peer, role, self._clock.monotonic() + IDLE_S)
            self._clients[client.fd] = client
            self._watch(client)

    def _refusal(self, peer: Peer, role: Role) -> tuple[str, str] | None:
        if role == Role.NONE:
            return (
                f"user {peer.user} has no role here",
                "be root, or be in a group that the policy gives a role",
            )
        others = [client for client in self._clients.values() if client.peer.uid != 0]
        mine = sum(1 for client in others if client.peer.uid == peer.uid)
        too_many = len(self._clients) >= MAX_CONNECTIONS or (
            peer.uid != 0 and (len(others) >= MAX_CONNECTIONS_OF_OTHERS or mine >= MAX_CONNECTIONS_PER_USER)
        )
        return ("too many connections", "try again in some seconds") if too_many else None

    def _watch(self, client: _Client) -> None:
        """Wait for what this client's next step needs; nothing more is read before the last is dealt with."""
        if client.output:
            self._loop.watch(client.fd, WRITE, lambda events: self._ready(client, events))
        elif b"\n" in client.input:
            self._loop.unwatch(client.fd)
            # One request in a turn: a client that sends many at once does not hold up the rest.
            self._loop.at(self._clock.monotonic(), lambda: self._again(client))
        else:
            self._loop.watch(client.fd, READ, lambda events: self._ready(client, events))

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.fd, None) is not None:
            self._loop.unwatch(client.fd)
            client.connection.close()

    def _sweep(self) -> None:
        """Drop those who have taken too long."""
        now_s = self._clock.monotonic()
        self._loop.at(now_s + _SWEEP_S, self._sweep)
        for client in list(self._clients.values()):
            if client.deadline_s is not None and now_s > client.deadline_s:
                self._drop(client)

    # --- requests --------------------------------------------------------------------------------

    def _ready(self, client: _Client, events: int) -> None:
        try:
            if events & WRITE:
                self._flush(client)
            elif events & READ:
                self._receive(client)
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        data = client.connection.recv(MAX_REQUEST_BYTES + 1)
        if not data:
            self._drop(client)
            return
        if client.deadline_s is None:
            return  # a follower has nothing more to say
        client.input += data
        self._take_request(client)

    def _take_request(self, client: _Client) -> None:
        """Answer the next whole request, one in a turn; the rest waits until the answer is taken."""
        end = client.input.find(b"\n")
        if end > MAX_REQUEST_BYTES or (end < 0 and len(client.input) > MAX_REQUEST_BYTES):
            self._log_refusal("control-refused", client.peer, "request too long")
            self._fail(client, f"a request has at most {MAX_REQUEST_BYTES} bytes", None)
            client.close_when_sent = True
            self._flush(client)
            return
        if end < 0:
            return
        line = bytes(client.input[:end])
        del client.input[: end + 1]
        self._answer(client, line)

    def _answer(self, client: _Client, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("do"), str):
            self._fail(client, "a request is a JSON object with a member `do`", None)
            self._flush(client)
            return
        try:
            result, follows = self._handler.answer(request, client.peer, client.role)
        except XenwardenError as error:
            self._fail(client, error.message, error.hint)
        except Exception:
            log.exception("event=bug where=control do=%s", logfmt({"do": request["do"][:32]}))
            self._fail(client, "xenwardend met a bug while answering", "see: journalctl -u xenwardend")
        else:
            client.output += json.dumps({"ok": True, "result": result}).encode() + b"\n"
            client.follows = follows
            client.deadline_s = None if follows else self._clock.monotonic() + IDLE_S
        self._flush(client)

    def _fail(self, client: _Client, message: str, hint: str | None) -> None:
        client.output += json.dumps({"ok": False, "error": message, "hint": hint}).encode() + b"\n"

    def _send(self, client: _Client, data: bytes) -> None:
        if len(client.output) + len(data) > MAX_OUTPUT_BYTES:
            self._log_refusal("control-dropped", client.peer, "does not read what it follows")
            self._drop(client)
            return
        client.output += data
        try:
            self._flush(client)
        except OSError:
            self._drop(client)

    def _flush(self, client: _Client) -> None:
        if client.output:
            try:
                sent = client.connection.send(client.output)
            except BlockingIOError:
                sent = 0
            del client.output[:sent]
        if client.fd not in self._clients:
            return
        if not client.output and client.close_when_sent:
            self._drop(client)
        else:
            self._watch(client)

    def _again(self, client: _Client) -> None:
        if self._clients.get(client.fd) is client and not client.output:
            try:
                self._take_request(client)
            except OSError:
                self._drop(client)

    def _log_refusal(self, event: str, peer: Peer | None, reason: str) -> None:
        """Log a refusal, but no more in a minute than an admin can read."""
        now_s = self._clock.monotonic()
        if now_s >= self._refusals_reset_s:
            self._refusals_reset_s = now_s + 60.0
            self._refusals_left = _REFUSALS_LOGGED_PER_MINUTE
        self._refusals_left -= 1
        if self._refusals_left > 0:
            who = {"user": peer.user, "uid": peer.uid, "pid": peer.pid} if peer else {}
            log.warning("%s", logfmt({"event": event, **who, "reason": reason}))
        elif self._refusals_left == 0:
            log.warning("event=%s more=true", event)


def _say_once(connection: socket.socket, message: str, hint: str) -> None:
    """Tell a client that is not served why, as far as its buffer takes it, and close."""
    with connection:
        try:
            connection.send(json.dumps({"ok": False, "error": message, "hint": hint}).encode() + b"\n")
        except OSError:
            return

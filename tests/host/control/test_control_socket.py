# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket against those who shout, dawdle, crowd or may not."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from xenwarden_host.control import server as control
from xenwarden_host.control.client import ControlClient
from xenwarden_host.control.peers import Peer, Role, Roles, peer_of
from xenwarden_host.daemon.clock import FakeClock
from xenwarden_host.daemon.loop import Loop
from xenwarden_host.errors import XenwardenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VIEWERS, OPERATORS = 7001, 7002


class FixedRoles(Roles):
    """Two groups that need not exist on this machine."""

    def __init__(self) -> None:
        super().__init__({})
        self._role_of_gid = {VIEWERS: Role.VIEWER, OPERATORS: Role.OPERATOR}


class Echo:
    """Answers with the request; `big` with much, `follow` with events, `fail` and `bug` not at all."""

    def answer(self, request: dict[str, Any], peer: Peer, role: Role) -> tuple[Any, str | None]:
        if request["do"] == "fail":
            raise XenwardenError("no such VM", hint="see list")
        if request["do"] == "bug":
            raise RuntimeError("secret")
        if request["do"] == "big":
            return "x" * 1_000_000, None
        follows = "event" if request["do"] == "follow" else None
        return {"do": request["do"], "uid": peer.uid, "role": role.name}, follows


class World:
    """A server whose peers' credentials the test decides."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.loop = Loop(self.clock)
        self.path = directory / "control.sock"
        self.next_peer = Peer(1, 0, frozenset({0}))
        self.server = control.ControlServer(
            self.loop, self.path, Echo(), FixedRoles(), self.clock, credentials=lambda _socket: self.next_peer
        )
        self.open: list[socket.socket] = []

    def turn(self, rounds: int = 6) -> None:
        for _ in range(rounds):
            self.loop.run_once(0)

    def client(self, peer: Peer | None = None) -> socket.socket:
        if peer is not None:
            self.next_peer = peer
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        connection.setblocking(False)
        self.open.append(connection)
        self.turn(2)
        return connection

    def ask(self, connection: socket.socket, data: bytes | dict[str, Any]) -> dict[str, Any]:
        connection.send(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")
        return self.answer(connection)

    def answer(self, connection: socket.socket) -> dict[str, Any]:
        raw = b""
        while not raw.endswith(b"\n"):
            self.turn()
            got = connection.recv(65536)
            if not got:
                raise EOFError(raw)
            raw += got
        answer: dict[str, Any] = json.loads(raw)
        return answer

    def closed(self, connection: socket.socket) -> bool:
        self.turn()
        try:
            return connection.recv(65536) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        for connection in self.open:
            connection.close()
        self.server.close()
        self.loop.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def user(uid: int, *gids: int) -> Peer:
    return Peer(1, uid, frozenset(gids))


def test_roles_come_from_groups_and_root_is_admin(world: World) -> None:
    for peer, role in (
        (user(0, 0), "ADMIN"),
        (user(1000, VIEWERS), "VIEWER"),
        (user(1000, VIEWERS, OPERATORS), "OPERATOR"),
    ):
        assert world.ask(world.client(peer), {"do": "who"})["result"]["role"] == role


def test_user_without_a_role_is_told_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    connection = world.client(user(1000, 1000))
    answer = world.answer(connection)
    assert answer["ok"] is False
    assert "role" in answer["error"]
    assert world.closed(connection)
    assert any("control-refused" in message and "uid=1000" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[]\n", b"null\n", b'{"do": 5}\n', b"\xff\xfe\n", b"[" * 2000 + b"\n", b'{"do": "a"\n'],
)
def test_garbage_is_answered_and_the_next_request_works(world: World, line: bytes) -> None:
    connection = world.client()
    assert world.ask(connection, line)["ok"] is False
    assert world.ask(connection, {"do": "list"})["ok"] is True


def test_huge_request_is_refused_before_it_is_whole(world: World) -> None:
    connection = world.client()
    assert world.ask(connection, b"x" * (control.MAX_REQUEST_BYTES + 1))["ok"] is False
    assert world.closed(connection)


def test_flood_of_requests_in_one_connection_is_bounded_and_served_in_turns(world: World) -> None:
    greedy, other = world.client(), world.client()
    line = b'{"do": "big"}\n'
    sent = 0
    for _ in range(200):
        try:
            sent += greedy.send(line * 500)
        except BlockingIOError:
            break
        world.turn(1)
    held = sum(len(c.input) + len(c.output) for c in world.server._clients.values())
    assert held < 2_000_000
    assert sent > held or sent < 200 * 500 * len(line)
    assert world.ask(other, {"do": "list"})["ok"] is True


def test_requests_that_come_together_are_all_answered(world: World) -> None:
    connection = world.client()
    connection.send(b'{"do": "one"}\n{"do": "two"}\n{"do": "three"}\n')
    raw = b""
    while raw.count(b"\n") < 3:
        world.turn()
        raw += connection.recv(65536)
    assert [json.loads(line)["result"]["do"] for line in raw.splitlines()] == ["one", "two", "three"]


def test_slow_client_is_dropped_and_stalls_nobody(world: World) -> None:
    slow = world.client()
    slow.send(b'{"do": ')
    assert world.ask(world.client(), {"do": "list"})["ok"] is True
    world.clock.advance(control.IDLE_S + 2)
    assert world.closed(slow)


def test_one_who_keeps_sending_garbage_is_dropped_too(world: World) -> None:
    connection = world.client()
    for _ in range(int(control.IDLE_S) + 3):
        try:
            connection.send(b"garbage\n")
        except BrokenPipeError:
            break
        world.clock.advance(1)
        world.turn()
    assert not world.server._clients


def test_follower_stays_and_hears_events(world: World) -> None:
    follower = world.client()
    assert world.ask(follower, {"do": "follow"})["ok"] is True
    world.clock.advance(3600)
    world.turn()
    world.server.publish("event", {"text": "it happened"})
    assert world.answer(follower) == {"event": {"text": "it happened"}}


def test_follower_that_does_not_read_is_dropped(world: World) -> None:
    deaf, alert = world.client(), world.client()
    world.ask(deaf, {"do": "follow"})
    world.ask(alert, {"do": "follow"})
    event = {"text": "x" * 100_000}
    for _ in range(60):
        world.server.publish("event", event)
        world.answer(alert)
    assert len(world.server._clients) == 1


def test_crowd_of_one_user_leaves_room_for_others_and_for_root(world: World) -> None:
    crowd = [world.client(user(1000, VIEWERS)) for _ in range(control.MAX_CONNECTIONS_PER_USER + 5)]
    assert world.answer(crowd[-1])["error"] == "too many connections"
    assert world.ask(world.client(user(1001, VIEWERS)), {"do": "list"})["ok"] is True
    for uid in range(2000, 2010):
        for _ in range(control.MAX_CONNECTIONS_PER_USER):
            world.client(user(uid, VIEWERS))
    assert len(world.server._clients) <= control.MAX_CONNECTIONS_OF_OTHERS
    assert world.ask(world.client(user(0, 0)), {"do": "list"})["ok"] is True


def test_crowd_that_comes_at_once_keeps_nobody_out(world: World) -> None:
    world.next_peer = user(1000, VIEWERS)
    for _ in range(300):  # while the daemon is busy with something else
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        connection.connect(str(world.path))
        world.open.append(connection)


def test_client_waits_in_line_where_the_socket_is_crowded(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))
        made: list[ControlClient] = []
        waiting = threading.Thread(target=lambda: made.append(ControlClient(str(path))))
        waiting.start()
        waiting.join(0.2)
        assert not made
        server.accept()[0].close()
        waiting.join(10)
        made[0].close()


def test_refusals_do_not_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        world.client(user(1000, 1000)).close()
    assert len([message for message in caplog.messages if "control-refused" in message]) <= 30


def test_sentence_and_hint_of_a_failure_reach_the_user_and_a_bug_does_not(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    connection = world.client()
    assert world.ask(connection, {"do": "fail"}) == {"ok": False, "error": "no such VM", "hint": "see list"}
    answer = world.ask(connection, {"do": "bug"})
    assert answer["ok"] is False
    assert "secret" not in json.dumps(answer)
    assert "event=bug" in caplog.text


def test_client_that_vanishes_leaves_nothing(world: World) -> None:
    for _ in range(50):
        connection = world.client()
        connection.send(b'{"do": "big"}\n')
        world.turn()
        connection.close()
    world.turn()
    assert not world.server._clients


def test_socket_is_roots_alone_until_a_group_has_a_role(world: World) -> None:
    assert world.path.stat().st_mode & 0o777 == 0o666
    world.server.set_roles(Roles({Role.VIEWER: ["no-such-group-anywhere"]}))
    assert world.path.stat().st_mode & 0o777 == 0o600


def test_kernel_tells_who_connected() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        peer = peer_of(left)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.gids == {os.getgid(), *os.getgroups()}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""`record` on the whole daemon, and that `replay` decides what the daemon decided."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import World

from xenwarden_host.cli import recording
from xenwarden_host.cli.main import main
from xenwarden_host.control.client import ControlClient, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOOD = {"tx_syn_pps": 4000.0, "tx_pps": 4100.0, "rx_pps": 5.0}


class Recording:
    """`xenwarden record` in a thread: it ends when the daemon ends."""

    def __init__(self, world: World, path: Path, *, anonymise: bool = False) -> None:
        self.refused: list[RefusedError] = []
        self.world = world
        self._client: ControlClient | None = None

        def run() -> None:
            self._client = ControlClient(str(world.run_dir / "control.sock"))
            try:
                recording.record(self._client, str(path), anonymise=anonymise)
            except RefusedError as error:
                self.refused.append(error)

        self.thread = threading.Thread(target=run)
        self.thread.start()
        while not path.exists() and self.thread.is_alive():
            world.service.step(0.01)

    def end(self) -> None:
        """Break the connection, and wait for what it has written."""
        control = self.world.service._control
        for client in list(control._clients.values()):
            control._drop(client)
        self.thread.join()


def replay(*words: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--json", "replay", *words]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def decided(world: World) -> list[tuple[float, str, str]]:
    """What the daemon's audit says that HSEM decided."""
    found = []
    for event in world.service.warden.database.audit(limit=1000):
        data = event["data"]
        if event["event"] in ("state", "verdict"):
            found.append((round(event["mono_s"], 6), event["uuid"], data["new"]))
        elif event["event"] == "order":
            found.append((round(event["mono_s"], 6), event["uuid"], str(data["ordered"])))
    return found


def replayed(events: list[dict[str, Any]]) -> list[tuple[float, str, str]]:
    return [
        (round(event["t"], 6), event["vm"], str(event.get("new", event.get("level"))))
        for event in events
        if event["event"] in ("state", "level")
    ]


def story(world: World, path: Path, *, anonymise: bool = False) -> None:
    world.start("quiet")
    mallory = world.start("mallory")
    world.run(20)
    record = Recording(world, path, anonymise=anonymise)
    world.run(10)
    mallory.signals.update(FLOOD)
    mallory.vif.update(rx_packets=4100.0, rx_bytes=4100.0 * 60, tx_packets=5.0, tx_bytes=500.0)
    world.run(40)
    mallory.signals.clear()
    mallory.vif.update(rx_packets=10.0, rx_bytes=1000.0)
    world.run(20)
    assert world.command("level", "quiet", "2")[0] == 0
    world.run(3)
    assert world.command("level", "quiet", "1")[0] == 0
    assert world.command("release", "mallory")[0] == 0
    world.run(5)
    record.end()
    assert "the recording ended" in record.refused[0].message


def test_replay_of_a_recording_decides_what_the_daemon_decided(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with World(tmp_path) as world:
        story(world, path)
        live = decided(world)
    assert {what for _t, _vm, what in live} >= {"2", "watched", "contained", "normal"}
    events = replay(str(path))
    assert replayed(events) == live
    assert [event["verdict"] for event in events if event["event"] == "verdict"] == ["attacker"]
    assert events[-1]["bad"] == 0


def test_recording_says_when_each_agent_was_heard_before_it_began(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with World(tmp_path) as world:
        guest = world.start("guest")
        world.run(22)
        inbox = world.service.warden.tracker.vms()[guest.uuid].inbox
        before_s = world.clock.monotonic() - (inbox.report_age_s(world.clock.monotonic()) or 0.0)
        record = Recording(world, path)
        world.run(10)
        record.end()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first = next(line for line in lines if "report" in line)
    heard_s = first["t"] - first["report"]["age_s"]
    assert first["report"]["passed_s"] == pytest.approx(heard_s - before_s, abs=1.0)


def test_recording_is_for_root_alone_and_never_over_another_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with World(tmp_path) as world:
        record = Recording(world, path)
        world.run(3)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = Recording(world, tmp_path / "other.jsonl")
        second.thread.join()
        assert "goes on already" in second.refused[0].message
        record.end()
        before = path.read_bytes()
    with World(tmp_path / "again") as world:
        third = Recording(world, path)
        while third.thread.is_alive():
            world.service.step(0.01)  # no time passes: slow threads are not idle
        assert "File exists" in third.refused[0].message
    assert path.read_bytes() == before


def test_anonymised_recording_names_nobody_and_decides_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with World(tmp_path) as world:
        story(world, path, anonymise=True)
        live = decided(world)
        text = path.read_text()
        for guest in world.guests.values():
            assert guest.name not in text
        assert "root" not in text
    found = replayed(replay(str(path)))
    assert [(t, what) for t, _vm, what in found] == [(t, what) for t, _vm, what in live]


def test_full_disk_ends_a_recording_with_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"
    real, room = os.write, [2000]

    def write(fd: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        written = real(fd, data[: room[0]])
        room[0] -= written
        return written

    with World(tmp_path) as world:
        world.start("a")
        monkeypatch.setattr(os, "write", write)
        record = Recording(world, path)
        world.run(30)
        record.thread.join()
        monkeypatch.undo()
        assert "No space left" in record.refused[0].message
        assert world.service.warden.errors == {}
    assert path.read_bytes().endswith(b"\n")
    assert replay(str(path))[-1]["bad"] == 0


class Endless:
    """A daemon that never stops sending."""

    def ask(self, _do: str) -> dict[str, Any]:
        return {"header": "{}", "max_bytes": 1000}

    def follow(self, _stream: str) -> Iterator[list[str]]:
        while True:
            yield ['{"t":1.0}', '{"t":1.0}']


def test_recording_ends_at_the_size_that_policy_allows(tmp_path: Path) -> None:
    answer = recording.record(Endless(), str(tmp_path / "run.jsonl"), anonymise=False)  # type: ignore[arg-type]
    assert answer["ended"] == "full"
    assert 900 < answer["bytes"] == (tmp_path / "run.jsonl").stat().st_size <= 1000

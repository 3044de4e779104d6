# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one host's daemon knows, taken to another host: the VM arrives there with our values baked in."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import World

from xenwarden_host.cli.main import main as xenwarden

if TYPE_CHECKING:
    from pathlib import Path

POLICY = "vms: [{name: 'web*', profile: web}]\n"


def places(world: World) -> list[str]:
    return ["--state-dir", str(world.state_dir), "--config", str(world.config)]


def exported(world: World, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert xenwarden(["export", *places(world)]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


@pytest.fixture
def host(tmp_path: Path) -> World:
    """A host whose daemon limited a VM and has seen it for a while."""
    (tmp_path / "one").mkdir()
    made = World(tmp_path / "one", policy=POLICY)
    made.begin()
    web = made.start("web", cap=80, rate="999999,50000")
    web.signals["tx_pps"] = 7
    made.run(seconds=70)
    made.xenwarden("limit", "web", "--cap", "25", "--weight", "64", "--vif-rate", "10Mb/s")
    return made


@pytest.fixture
def other(tmp_path: Path) -> World:
    (tmp_path / "two").mkdir()
    return World(tmp_path / "two")


def take(world: World, data: object, folder: Path, *words: str) -> int:
    file = folder / "state.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return xenwarden(["import", str(file), *places(world), *words])


def test_vm_that_migrates_has_its_limits_and_originals_on_the_other_host(
    host: World, other: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.service.warden.save()
    data = exported(host, capsys)  # while the daemon runs
    limits = host.xenwarden("limits")
    learnt = host.service.warden.history.dump(host.guests["web"].uuid, hours=False)
    assert learnt["signals"]
    host.end()
    assert take(other, data, tmp_path) == 0
    assert other.config.read_text() == POLICY
    # Cap and weight came along, the rate did not.
    other.hypervisor.destroy(other.hypervisor.add("6f2f7a0c-0000-4000-8000-000000000001"))
    with other:
        web = other.start("web", cap=25)
        other.hypervisor.set_sched_params(web.domid, weight=64)
        assert web.domid != host.guests["web"].domid
        other.run(seconds=2)
        there = other.xenwarden("limits")
        same = ("kind", "value", "set", "state", "owner", "why")
        assert [[row[name] for name in same] for row in there] == [
            [row[name] for name in same] for row in limits
        ]
        assert other.service.warden.history.dump(web.uuid, hours=False) == learnt
        other.xenwarden("release", "web")
        params = other.hypervisor.sched_params(web.domid)
        assert (params.cap, params.weight) == (80, 256)
    host.store.close()


def test_exporting_changes_nothing_and_gives_the_same_again_after_an_import(
    host: World, other: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.end()
    before = {file.name: file.read_bytes() for file in host.state_dir.iterdir() if file.suffix == ".db"}
    data = exported(host, capsys)
    assert {name: (host.state_dir / name).read_bytes() for name in before} == before
    assert take(other, data, tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["originals"] == 3
    assert exported(other, capsys)["sha256"] == data["sha256"]
    assert (other.state_dir / "state.db").stat().st_mode & 0o077 == 0
    host.store.close()


def test_dry_run_checks_and_writes_nothing(
    host: World, other: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.end()
    data = exported(host, capsys)
    assert take(other, data, tmp_path, "-N") == 0
    assert "2 VMs, 3 limits, 3 originals would be taken" in capsys.readouterr().out
    assert list(other.state_dir.iterdir()) == []
    assert not other.config.exists()
    host.store.close()


def test_target_that_is_not_empty_is_refused(
    host: World, other: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.end()
    data = exported(host, capsys)
    other.config.write_text("tick_s: 2\n")
    assert take(other, data, tmp_path) == 1
    assert "another policy" in capsys.readouterr().err
    other.config.unlink()
    (other.state_dir / "state.db.damaged-1").touch()
    assert take(other, data, tmp_path) == 1
    assert "is not empty" in capsys.readouterr().err
    assert [file.name for file in other.state_dir.iterdir()] == ["state.db.damaged-1"]
    host.store.close()


def test_damaged_input_is_a_sentence_and_changes_nothing(
    host: World, other: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host.end()
    data = exported(host, capsys)
    whole = json.dumps(data)
    damaged = [
        *("", "[]", "{}", whole[:-1], whole[: len(whole) // 2], whole.replace("999999", "999998", 1)),
        json.dumps({**data, "version": 2}),
        json.dumps({**data, "format": "other"}),
        json.dumps({**data, "state": 5}),
    ]
    for text in damaged:
        assert take(other, text, tmp_path) == 1
        assert capsys.readouterr().err.startswith("xenwarden: ")
    assert list(other.state_dir.iterdir()) == []
    host.store.close()


def test_state_that_is_missing_or_damaged_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert xenwarden(["export", "--state-dir", str(tmp_path)]) == 1
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "state.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert xenwarden(["export", "--state-dir", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("no export"))
    assert xenwarden(["import", "-", "--state-dir", str(tmp_path / "new")]) == 1

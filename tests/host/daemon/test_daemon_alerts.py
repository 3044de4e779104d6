# SPDX-License-Identifier: LGPL-2.1-or-later
"""The alert command: what it gets, and that nothing it does or fails to do reaches the daemon's loop."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon_world import World

from xenwarden_host.daemon import alerts
from xenwarden_host.policy.model import AlertPolicy

if TYPE_CHECKING:
    from xenstore_worlds import Wait


def event(number: int = 1, kind: str = "verdict", text: str = "it happened") -> dict[str, Any]:
    return {"id": number, "event": kind, "text": text}


class Hook:
    """Alerts with a shell script for a command, which runs in a directory of its own."""

    def __init__(self, directory: Path, script: str, *, timeout_s: float = 20, max_running: int = 4) -> None:
        self.directory = directory
        command = directory / "hook"
        command.write_text(f"#!/bin/sh\ncd {directory}\n{script}\n")
        command.chmod(0o755)
        self.policy = AlertPolicy((str(command), "word; touch no"), ("verdict",), timeout_s, max_running)
        self.failures = 0
        self.alerts = alerts.Alerts(lambda: self.policy, self._count)

    def _count(self) -> None:
        self.failures += 1

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.directory.glob(pattern))


def test_command_gets_the_event_on_stdin_and_its_words_without_a_shell(
    tmp_path: Path, eventually: Wait
) -> None:
    hook = Hook(tmp_path, 'cat > got.part; echo "$1" > words; mv got.part got')
    evil = "$(touch evil) `touch evil` ; touch evil\n\x1b[31m"
    hook.alerts.notice(event(text=evil))
    eventually(lambda: hook.files("got"))
    assert json.loads((tmp_path / "got").read_text()) == event(text=evil)
    assert (tmp_path / "words").read_text() == "word; touch no\n"
    assert not hook.files("evil")
    assert not hook.failures


def test_only_the_events_that_policy_names(tmp_path: Path, eventually: Wait) -> None:
    hook = Hook(tmp_path, "cat >> got; echo >> done")
    hook.alerts.notice(event(1, "level"))
    hook.alerts.notice(event(2))
    eventually(lambda: hook.files("done"))
    assert json.loads((tmp_path / "got").read_text())["id"] == 2
    hook.policy = AlertPolicy((), ("verdict",), 1, 1)
    hook.alerts.notice(event(3))
    assert hook.alerts._waiting.empty()


def test_command_that_hangs_is_killed_with_its_children_and_the_next_one_runs(
    tmp_path: Path, eventually: Wait
) -> None:
    script = "read line; case $line in *first*) sleep 600 & echo $! > child; wait;; esac; echo > ran"
    hook = Hook(tmp_path, script, timeout_s=0.5, max_running=1)
    hook.alerts.notice(event(text="first"))
    hook.alerts.notice(event(text="second"))
    eventually(lambda: hook.files("ran"))
    assert hook.failures == 1
    child = int((tmp_path / "child").read_text())
    eventually(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Tell whether the process runs; a zombie that waits for its reaper does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$", "exec 0<&-; exit 1"])
def test_command_that_fails_is_told_and_counted(
    tmp_path: Path, eventually: Wait, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    hook = Hook(tmp_path, script)
    hook.alerts.notice(event())
    eventually(lambda: hook.failures)
    assert "event=alert-command-failed" in caplog.text


def test_command_that_is_not_there_is_told_and_counted(tmp_path: Path, eventually: Wait) -> None:
    hook = Hook(tmp_path, "")
    (tmp_path / "hook").unlink()
    hook.alerts.notice(event(1))
    hook.alerts.notice(event(2))
    eventually(lambda: hook.failures == 2)


def test_storm_is_bounded_in_processes_and_in_what_waits(tmp_path: Path, eventually: Wait) -> None:
    hook = Hook(tmp_path, "echo > ran.$$; while ! [ -e go ]; do sleep 0.05; done", max_running=2)
    for number in range(alerts.MAX_WAITING * 3):
        hook.alerts.notice(event(number))
    eventually(lambda: len(hook.files("ran.*")) == 2)
    assert hook.failures >= alerts.MAX_WAITING * 2 - 2
    time.sleep(0.2)
    assert len(hook.files("ran.*")) == 2
    hook.alerts._waiting.queue.clear()
    (tmp_path / "go").touch()


def test_verdict_reaches_the_command_and_limits_do_not_wait_for_it(tmp_path: Path, eventually: Wait) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {tmp_path}/got\nsleep 5\n")
    hook.chmod(0o755)
    policy = f"alerts: {{command: [{hook}], events: [verdict, limit-set], timeout_s: 1, max_running: 1}}\n"
    (tmp_path / "world").mkdir()
    with World(tmp_path / "world", policy=policy) as world:
        mallory = world.start("mallory")
        mallory.signals.update(tx_pps=50.0, tx_syn_pps=2.0)
        world.run(seconds=20)
        mallory.signals.update(tx_pps=5000, tx_syn_pps=5000)
        mallory.vif.update(rx_packets=5000)
        world.run(seconds=30)
        shown = world.show(mallory)
        assert shown["verdict"] == "attacker"
        assert [limit["state"] for limit in shown["limits_now"]] == ["set"]
        eventually(lambda: world.xenwarden("list")["daemon"]["errors"].get("alerts"))
        first = json.loads((tmp_path / "got").read_text().splitlines()[0])
        assert (first["event"], first["name"]) == ("limit-set", "mallory")

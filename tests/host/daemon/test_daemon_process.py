# SPDX-License-Identifier: LGPL-2.1-or-later
"""xenwardend as a process on the real xenstored and oxenstored: signals, systemd, loss of the store."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xenwarden_channel import messages, paths
from xenwarden_channel.client import StoreClient
from xenwarden_channel.errors import StoreError
from xenwarden_host.cli.main import main as xenwarden

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenstore_worlds import Wait
    from xenstored_offline import Xenstored

    from xenwarden_channel.guest import GuestStore

pytestmark = pytest.mark.xenstored
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


class Daemon:
    """The process, its log, and what it tells systemd."""

    def __init__(self, directory: Path, store_socket: str, *domids: int) -> None:
        self.directory = directory
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(directory / "notify"))
        self.manager.settimeout(30)
        self.control = directory / "run/control.sock"
        self.policy = directory / "policy.yaml"
        if not self.policy.exists():
            self.policy.write_text("tick_s: 0.5\n")
        self.command = [
            sys.executable, str(HERE / "daemon_process.py"), store_socket, ",".join(map(str, domids)),
            "--config", str(self.policy), "--state-dir", str(directory / "state"),
            "--run-dir", str(directory / "run"),
        ]  # fmt: skip
        self.environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": "400000",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "dom0"), *sys.path]),
        }
        self.log = (directory / "log").open("w+b")
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(self.command, stderr=self.log, env=self.environment)
        try:
            self.hears("READY=1")
        except BaseException:
            self.end()
            raise
        return self.process

    def hears(self, state: str) -> None:
        """Wait until systemd would have been told `state`."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if self.manager.recv(200).decode() == state:
                return
        raise AssertionError(f"never told {state}: {self.text()}")

    def text(self) -> str:
        return (self.directory / "log").read_text()

    def ask(self, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
        capsys.readouterr()
        assert xenwarden(["--json", "--socket", str(self.control), *words]) == 0
        return json.loads(capsys.readouterr().out)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.manager.close()


@pytest.fixture
def daemon(xenstored: Xenstored, tmp_path: Path) -> Iterator[Daemon]:
    xenstored.create(3)
    daemon = Daemon(tmp_path, xenstored.socket, 3)
    yield daemon
    daemon.end()


def report(seq: int, level: int = 1, **signals: float) -> bytes:
    fields: dict[str, str | float] = {"boot": "0000abcd", "level": str(level), "interval": 1, **signals}
    return messages.encode("report", seq, fields)


def try_read(guest: GuestStore, path: str) -> bytes:
    with contextlib.suppress(StoreError):
        return guest.read(path)
    return b""


def test_guest_is_told_reports_and_is_heard(
    daemon: Daemon, xenstored: Xenstored, eventually: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = xenstored.guest(3)
    eventually(lambda: b"level=1" in try_read(guest, paths.DOWN_ORDER))
    eventually(lambda: b"tx_syn_pps=" in try_read(guest, paths.DOWN_HISTORY))
    with pytest.raises(StoreError):
        guest.write(paths.DOWN_ORDER, b"mine")
    guest.write(paths.UP_REPORT, report(1, tx_pps=7))
    eventually(lambda: daemon.ask(capsys, "show", "vm3")["agent"] is not None)
    shown = daemon.ask(capsys, "show", "vm3")
    assert shown["agent"]["state"] == "alive"
    assert shown["signals"]["tx_pps"]["value"] == 7
    for seq in range(2, 12):
        guest.write(paths.UP_REPORT, report(seq, 2, tx_pps=9000, tx_syn_pps=9000))
        time.sleep(0.3)
        if daemon.ask(capsys, "show", "vm3")["limits_now"]:
            break
    assert daemon.ask(capsys, "list")["vms"][1]["limits"] == ["vif-pps/syn"]
    eventually(lambda: b"state=watched" in try_read(guest, paths.DOWN_STATUS))


def test_signals_and_systemd(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.hears("WATCHDOG=1")
    daemon.policy.write_text("tick_s: 0.25\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hears("READY=1")
    assert daemon.ask(capsys, "policy", "show")["policy"]["tick_s"] == 0.25
    daemon.policy.write_text("tick_s: [\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hears("READY=1")
    assert daemon.ask(capsys, "policy", "show")["policy"]["tick_s"] == 0.25
    assert "event=policy-refused" in daemon.text()
    daemon.policy.write_text("tick_s: 0.5\n")
    daemon.control.unlink()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.hears("READY=1")
    assert daemon.text().count("event=policy-loaded") == 2
    assert "event=bug" not in daemon.text()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.hears("STOPPING=1")
    assert daemon.process.wait(10) == 0
    assert "event=daemon-stop" in daemon.text()
    assert not daemon.control.exists()


def test_log_has_priorities_for_the_journal_only(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()
    assert "<6>" not in daemon.text()
    told = os.fstat(daemon.log.fileno())
    daemon.environment["JOURNAL_STREAM"] = f"{told.st_dev}:{told.st_ino}"
    daemon.start()
    assert "<6>event=daemon-start" in daemon.text()


def test_only_one_runs(daemon: Daemon) -> None:
    second = subprocess.run(
        daemon.command, env=daemon.environment, check=False, capture_output=True, timeout=20
    )
    assert second.returncode != 0
    assert b"another xenwardend runs" in second.stderr
    assert daemon.process.poll() is None


def test_killed_daemon_starts_again_where_it_was(
    daemon: Daemon, xenstored: Xenstored, eventually: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = xenstored.guest(3)
    eventually(lambda: try_read(guest, paths.DOWN_ORDER))
    for seq in range(1, 40):
        guest.write(paths.UP_REPORT, report(seq, 2, tx_pps=9000, tx_syn_pps=9000))
        time.sleep(0.25)
        if daemon.ask(capsys, "show", "vm3")["verdict"]:
            break
    before = daemon.ask(capsys, "show", "vm3")
    assert (before["state"], before["verdict"]) == ("contained", "attacker")
    daemon.process.kill()
    daemon.process.wait()
    daemon.start()
    eventually(lambda: daemon.ask(capsys, "show", "vm3")["limits_now"])
    after = daemon.ask(capsys, "show", "vm3")
    assert (after["state"], after["verdict"]) == ("contained", "attacker")
    assert after["limits_now"][0]["value"] == before["limits_now"][0]["value"]
    assert after["verdict_t_mono_s"] == pytest.approx(before["verdict_t_mono_s"], abs=0.1)


def test_store_that_dies_and_returns(
    daemon: Daemon, xenstored: Xenstored, eventually: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = xenstored.guest(3)
    eventually(lambda: try_read(guest, paths.DOWN_ORDER))
    xenstored.kill()
    eventually(lambda: daemon.ask(capsys, "list")["daemon"]["store"] == "lost")
    xenstored.start()
    xenstored.create(3)
    eventually(lambda: daemon.ask(capsys, "list")["daemon"]["store"] == "connected")
    guest = xenstored.guest(3)
    eventually(lambda: b"level=1" in try_read(guest, paths.DOWN_ORDER))
    with StoreClientAt(xenstored.socket) as store:
        assert store.permissions("/local/domain/3/xenwarden") == ["n0", "r3"]
    guest.write(paths.UP_REPORT, report(1))
    eventually(lambda: daemon.ask(capsys, "show", "vm3")["agent"] is not None)
    assert daemon.process.poll() is None


class StoreClientAt(contextlib.AbstractContextManager[StoreClient]):
    """A client that is closed at the end."""

    def __init__(self, path: str) -> None:
        self._client = StoreClient(path)

    def __enter__(self) -> StoreClient:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent as it runs: a process beside the real xenstored and oxenstored, seen from dom0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xenwarden_channel import paths
from xenwarden_channel.client import StoreClient
from xenwarden_channel.errors import StoreError
from xenwarden_channel.messages import Message, encode, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenstored_offline import Xenstored

ROOT = Path(__file__).parents[2]
DOMID = 5
PATIENCE_S = 20.0
START = "import sys; from xenwarden_guest.main import main; sys.exit(main())"
# What an agent in a customer's VM has no use for, and what it would cost there in kB.
UNWANTED = {
    "argparse",
    "asyncio",
    "ctypes",
    "dataclasses",
    "enum",
    "json",
    "logging",
    "re",
    "socket",
    "threading",
    "typing",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory that says Xen and holds this machine's own /proc and /sys."""
    (tmp_path / "sys" / "hypervisor").mkdir(parents=True)
    (tmp_path / "sys" / "hypervisor" / "type").write_text("xen\n")
    (tmp_path / "sys" / "class").symlink_to("/sys/class")
    (tmp_path / "sys" / "block").symlink_to("/sys/block")
    (tmp_path / "proc").symlink_to("/proc")
    return tmp_path


def command(*arguments: str | Path, code: str = START) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": f"{ROOT}/domU:{ROOT}/xenstore", "PATH": os.environ["PATH"]}
    words = [sys.executable, "-S", "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class World:
    """dom0's view of one guest that runs an agent."""

    def __init__(self, daemon: Xenstored, root: Path) -> None:
        self.daemon = daemon
        self.root = root
        daemon.create(DOMID)
        self.dom0 = StoreClient(daemon.socket)
        guest = daemon.guest(DOMID)
        self.device = guest._path
        guest.close()
        self.agents: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        agent = command("-v", "--root", self.root, "--store", self.device)
        self.agents.append(agent)
        return agent

    def make_down(self) -> None:
        path = paths.absolute(DOMID, paths.DOWN_DIR)
        self.dom0.mkdir(path)
        self.dom0.set_permissions(path, ["n0", f"r{DOMID}"])

    def tell(self, kind: str, seq: int, **fields: str | float) -> None:
        self.dom0.write(paths.absolute(DOMID, f"xenwarden/{kind}"), encode(kind, seq, fields))

    def quick(self) -> None:
        """Order level 1 with short intervals."""
        self.tell("order", 1, level=1, level1_s=0.3, level2_s=0.3, level2_max_s=60)

    def read(self, kind: str) -> Message | None:
        try:
            return parse(self.dom0.read(paths.absolute(DOMID, f"data/xenwarden/{kind}")), kind)
        except StoreError:
            return None

    def wait(self, kind: str, wanted: Callable[[Message], bool]) -> Message:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            message = self.read(kind)
            if message is not None and wanted(message):
                return message
            time.sleep(0.02)
        raise AssertionError(f"no such {kind}; the last was {vars_of(self.read(kind))}")

    def close(self) -> None:
        for agent in self.agents:
            agent.kill()
            agent.communicate()
        self.dom0.close()


def vars_of(message: Message | None) -> object:
    return message and (message.seq, dict(message.fields))


@pytest.fixture
def world(xenstored: Xenstored, root: Path) -> Iterator[World]:
    made = World(xenstored, root)
    yield made
    made.close()


pytestmark = pytest.mark.xenstored
# What does not depend on the daemon runs with one: the other would only cost time.
one_daemon = pytest.mark.parametrize("xenstored", ["oxenstored"], indirect=True)


def test_it_reports_at_level_1_before_dom0_has_said_anything(world: World) -> None:
    world.start()
    report = world.wait("report", lambda _report: True)
    assert report.fields["level"] == "1"
    assert report.number("cpu_pct") is not None
    assert report.number("rss_kb")
    assert len(report.fields["boot"]) == 8


@one_daemon
def test_it_goes_to_level_2_by_itself_and_back_when_told(world: World) -> None:
    world.make_down()
    world.tell("order", 1, level=1, level1_s=0.3, level2_s=0.3, level2_max_s=300)
    world.tell("history", 1, learnt=0, mem_used_pct=0.001)
    world.start()
    report = world.wait("report", lambda found: found.fields["level"] == "2")
    assert report.fields["why"] == "mem_used_pct"
    assert "mem_used_pct" in report.fields["over"].split(",")
    world.wait("detail", lambda _detail: True)
    world.tell("history", 2, learnt=1, mem_used_pct=100)
    later = world.wait("report", lambda found: found.seq > report.seq + 4)
    assert later.fields["level"] == "2"  # calm, but nobody said so yet
    world.tell("order", 2, level=1, level1_s=0.3, level2_s=0.3, level2_max_s=300)
    world.wait("report", lambda found: found.fields["level"] == "1")
    assert world.read("detail") is None


def test_an_order_and_a_question_are_answered_at_once(world: World) -> None:
    world.make_down()
    world.tell("order", 1, level=1, level1_s=300, level2_s=300, level2_max_s=300)
    world.start()
    world.wait("report", lambda _report: True)
    world.tell("ask", 1, id="41", what="reliability")
    answer = world.wait("answer", lambda _answer: True)
    assert answer.fields["id"] == "41"
    assert answer.number("load_pct") is not None
    world.tell("order", 2, level=2, level1_s=300, level2_s=300, level2_max_s=300)
    assert world.wait("report", lambda found: found.fields["level"] == "2").fields["why"] == "ordered"
    world.tell("ask", 2, id="42", what="reliability")
    world.wait("answer", lambda found: found.fields["id"] == "42")


@one_daemon
def test_nonsense_from_above_is_passed_over(world: World) -> None:
    world.make_down()
    for kind in ("order", "history", "ask", "status"):
        world.dom0.write(paths.absolute(DOMID, f"xenwarden/{kind}"), b"\xff nonsense")
    world.start()
    first = world.wait("report", lambda _report: True)
    world.tell("order", 1, level=1, level1_s=0.000001, level2_s=1e12)
    world.tell("history", 1, tx_pps="many", cpu_pct="-1")
    world.tell("order", 2, level=1, level1_s=0.2, level2_s=0.2, level2_max_s=60)
    assert world.wait("report", lambda found: found.seq > first.seq + 2).fields["level"] == "1"


@one_daemon
def test_a_dom0_of_another_version_is_told_once_and_reports_go_on(world: World) -> None:
    world.make_down()
    world.dom0.write(paths.absolute(DOMID, paths.DOWN_ORDER), b"xw2 order seq=1 level=9")
    agent = world.start()
    assert agent.stdout is not None
    assert "message version 2, ours is 1" in agent.stdout.readline()
    assert world.wait("report", lambda _report: True).fields["level"] == "1"
    world.tell("order", 1, level=2, level1_s=0.2, level2_s=0.2, level2_max_s=60)
    assert "works again" in agent.stdout.readline()
    world.wait("report", lambda found: found.fields["level"] == "2")


@one_daemon
def test_a_quiet_vm_still_gives_a_sign_of_life(world: World) -> None:
    world.make_down()
    world.quick()
    world.start()
    first = world.wait("report", lambda _report: True)
    world.wait("report", lambda found: found.seq >= first.seq + 3)


@one_daemon
def test_it_keeps_measuring_while_xenstore_refuses_and_says_so(world: World) -> None:
    world.make_down()
    world.quick()
    home = paths.absolute(DOMID, "data")
    world.dom0.set_permissions(home, ["n0", f"r{DOMID}"])
    agent = world.start()
    assert agent.stdout is not None
    assert "EACCES" in agent.stdout.readline()
    world.dom0.set_permissions(home, [f"n{DOMID}"])
    report = world.wait("report", lambda _report: True)
    assert report.number("up_s")
    assert agent.poll() is None


def test_it_survives_a_lost_connection(world: World) -> None:
    world.make_down()
    world.quick()
    agent = world.start()
    world.wait("report", lambda _report: True)
    device = world.daemon._devices.pop(DOMID)
    device.close()
    assert agent.stdout is not None
    assert agent.stdout.readline().startswith("XenStore:")
    world.dom0.remove(paths.absolute(DOMID, paths.UP_DIR))
    world.daemon.guest(DOMID).close()
    world.wait("report", lambda _report: True)
    assert agent.poll() is None


def test_off_xen_it_says_why_and_stops(tmp_path: Path) -> None:
    agent = command("--root", tmp_path)
    _out, error = agent.communicate()
    assert agent.returncode == 2
    assert "not on Xen" in error


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--root"], ["--json"], ["--once", "--explain"], ["--once=1"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    agent = command(*arguments)
    _out, error = agent.communicate()
    assert agent.returncode == 2
    assert "usage:" in error


def test_once_shows_what_it_sees(root: Path) -> None:
    agent = command("--root", root, "--once", "--json")
    out, _error = agent.communicate()
    assert agent.returncode == 0
    shown = json.loads(out)
    assert shown["signals"]["mem_used_pct"] > 0
    assert "interrupts" in shown["missing"]  # this machine has no event channels
    plain = command("--root", root, "--once")
    text, _error = plain.communicate()
    assert "memory in use and not reclaimable" in text


@one_daemon
def test_explain_compares_with_dom0s_history(world: World) -> None:
    world.make_down()
    world.tell("history", 1, learnt=0, mem_used_pct=0.001)
    agent = command("--root", world.root, "--store", world.device, "--explain")
    out, _error = agent.communicate()
    assert agent.returncode == 0
    assert "policy's priors" in out
    assert "level 2, because of mem_used_pct" in out


@one_daemon
def test_in_dom0_it_writes_to_dom0s_home(world: World, root: Path) -> None:
    proc = root / "proc"
    proc.unlink()
    proc.mkdir()
    for entry in ("net", "stat", "meminfo", "diskstats", "pressure", "self"):
        (proc / entry).symlink_to(f"/proc/{entry}")
    (proc / "xen").mkdir()
    (proc / "xen" / "capabilities").write_text("control_d\n")
    agent = command("--root", root, "--store", world.daemon.socket)
    world.agents.append(agent)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            raw = world.dom0.read("/local/domain/0/data/xenwarden/report")
        except StoreError:
            time.sleep(0.02)
            continue
        assert parse(raw, "report").fields["level"] == "1"
        break
    else:
        raise AssertionError("no report of dom0")

    # Of an earlier agent; and a domain that has no vif here.
    world.dom0.write("/local/domain/0/data/xenwarden/headers/4", b"old")
    world.dom0.mkdir("/local/domain/0/xenwarden")
    order = encode("order", 1, {"level": "1", "level1_s": 0.3, "level2_s": 0.3, "level2_max_s": 60})
    world.dom0.write("/local/domain/0/xenwarden/order", order)
    world.dom0.write("/local/domain/0/xenwarden/look", encode("look", 2, {"domids": "32000", "for": 60}))
    while time.monotonic() < until:
        try:
            seen = parse(world.dom0.read("/local/domain/0/data/xenwarden/headers/32000"), "headers")
        except StoreError:
            time.sleep(0.02)
            continue
        break
    assert seen.fields["missing"] == "interfaces"
    assert "tx_syn_pps" not in seen.fields
    world.dom0.write("/local/domain/0/xenwarden/look", encode("look", 3, {"domids": "", "for": 60}))
    while time.monotonic() < until and world.dom0.directory("/local/domain/0/data/xenwarden/headers"):
        time.sleep(0.02)
    assert world.dom0.directory("/local/domain/0/data/xenwarden/headers") == []


def test_it_loads_nothing_that_it_does_not_need() -> None:
    code = "import sys\nfrom xenwarden_guest import agent, channel, main\nprint(*sys.modules)"
    out, _error = command(code=code).communicate()
    loaded = set(out.split())
    assert "xenwarden_guest.vsem.monitor" in loaded
    assert loaded & UNWANTED == set()


ASKS = {
    "level": 1,
    "level1_s": 0.3,
    "level2_s": 0.3,
    "level2_max_s": 60,
    "more_after_s": 1,
    "more_every_s": 1,
}


def starve(world: World) -> None:
    """Have the VM be short of memory."""
    proc = world.root / "proc"
    proc.unlink()
    proc.mkdir()
    for entry in ("net", "stat", "diskstats", "pressure", "self"):
        (proc / entry).symlink_to(f"/proc/{entry}")
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 10 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n")


def test_under_pressure_it_asks_for_what_dom0_lets_it_and_takes_the_answer(world: World) -> None:
    starve(world)
    world.make_down()
    world.tell("grant", 1, id=7, outcome="granted", what="weight", more=64, why="")
    world.tell("order", 1, **ASKS, more_memory=65536)
    agent = world.start()
    first = world.wait("request", lambda _request: True)
    assert dict(first.fields) == {"id": "8", "what": "memory", "more": "65536"}
    world.tell("grant", 2, id=8, outcome="granted", what="memory", more=32768, why="in-part")
    assert agent.stdout is not None
    assert (
        agent.stdout.readline()
        == "under pressure, asked for more memory: granted: 32768 kB more of the 65536 asked for\n"
    )
    assert world.wait("request", lambda request: request.seq > 8).fields["id"] == "9"


@one_daemon
def test_without_dom0s_leave_it_asks_for_nothing(world: World) -> None:
    starve(world)
    world.make_down()
    world.tell("order", 1, **ASKS)
    world.start()
    first = world.wait("report", lambda _report: True)
    world.wait("report", lambda report: report.seq > first.seq + 5)
    assert world.read("request") is None


@one_daemon
def test_a_request_of_somebody_in_the_vm_is_answered_first(world: World) -> None:
    starve(world)
    world.make_down()
    guest = world.daemon.guest(DOMID)
    guest.write(paths.UP_REQUEST, encode("request", 3, {"id": 3, "what": "vcpus", "more": 1}))
    guest.close()
    world.tell("order", 1, **ASKS, more_memory=65536)
    world.start()
    first = world.wait("report", lambda _report: True)
    world.wait("report", lambda report: report.seq > first.seq + 5)
    request = world.read("request")
    assert request is not None
    assert request.fields["what"] == "vcpus"
    world.tell("grant", 1, id=3, outcome="denied", what="vcpus", more=0, why="maximum")
    assert world.wait("request", lambda request: request.seq > 3).fields["what"] == "memory"

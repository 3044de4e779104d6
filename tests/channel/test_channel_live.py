# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real agent and the real xenwardend over a real XenStore: what they write is what the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xenstore_contract import violations

from xenwarden_channel import errors, messages, paths
from xenwarden_channel.client import StoreClient

if TYPE_CHECKING:
    from xenstore_worlds import Wait
    from xenstored_offline import Xenstored

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / "tests" / "host" / "daemon" / "daemon_process.py"
DOMID = 3
HISTORY: dict[str, str | float] = {
    "learnt": "1",
    "rx_pps": 1.0,
    "cpu_pct": 0.001,
    "run_queue": 0.001,
    "mem_used_pct": 0.001,
}


@pytest.mark.xenstored
def test_agent_and_daemon_write_what_the_page_says(
    xenstored: Xenstored, tmp_path: Path, eventually: Wait
) -> None:
    xenstored.create(DOMID)
    policy = tmp_path / "policy.yaml"
    policy.write_text("tick_s: 0.5\nlevels: {level1_s: 1, level2_s: 1}\n")
    root = tmp_path / "root"
    (root / "sys/hypervisor").mkdir(parents=True)
    (root / "sys/hypervisor/type").write_text("xen\n")
    (root / "proc").symlink_to("/proc")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "dom0"), *sys.path])}
    directories = ["--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path / "run")]
    daemon_command = [sys.executable, str(DAEMON), xenstored.socket, str(DOMID), "--config", str(policy)]
    agent_code = "import sys; from xenwarden_guest.main import main; sys.exit(main())"
    xenstored.guest(DOMID).close()  # has its device made
    device = str(xenstored.directory / f"xenbus-{DOMID}")
    agent_command = [sys.executable, "-c", agent_code, "--root", str(root), "--store", device]
    dom0 = StoreClient(xenstored.socket)

    def field(path: str, kind: str, name: str) -> str | None:
        try:
            return messages.parse(dom0.read(paths.absolute(DOMID, path)), kind).fields.get(name)
        except (errors.StoreError, messages.MessageError):
            return None

    with (tmp_path / "log").open("wb") as log:
        processes = [
            subprocess.Popen([*daemon_command, *directories], env=environment, stdout=log, stderr=log),
            subprocess.Popen(agent_command, env=environment, stdout=log, stderr=log),
        ]
    try:
        eventually(lambda: field(paths.UP_REPORT, "report", "level"))
        eventually(lambda: field(paths.DOWN_STATUS, "status", "state"))
        assert violations(listing(xenstored)) == []
        # What nobody can be within: the agent goes to level 2 by itself, and is asked for its reliability.
        history = messages.encode("history", 2**52, HISTORY)
        eventually(lambda: raise_level(dom0, history) and field(paths.UP_REPORT, "report", "level") == "2")
        dom0.write(paths.absolute(DOMID, paths.DOWN_ASK), b"xw1 ask seq=1 id=77 what=reliability")
        eventually(lambda: field(paths.UP_ANSWER, "answer", "id") == "77")
        assert violations(listing(xenstored)) == []
        processes[1].kill()  # its device serves one at a time here
        processes[1].wait()
        words = ["request", "--weight", "+10", *agent_command[3:]]
        asked = subprocess.run(
            [*agent_command[:3], *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (asked.returncode, asked.stdout.partition(":")[0]) == (3, "denied")
        assert violations(listing(xenstored)) == []
    finally:
        for process in processes:
            process.kill()
            process.wait()
        dom0.close()


def raise_level(dom0: StoreClient, history: bytes) -> bool:
    dom0.write(paths.absolute(DOMID, paths.DOWN_HISTORY), history)
    return True


def listing(xenstored: Xenstored) -> str:
    return subprocess.run(
        ["xenstore-ls", "-fp"],
        env={"PATH": "/usr/bin", "XENSTORED_PATH": xenstored.socket},
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    ).stdout

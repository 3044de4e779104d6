# SPDX-License-Identifier: LGPL-2.1-or-later
"""Policy by XenStore with the real daemons: live, closed to guests, read again when XenStore comes back."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from xenstore_contract import violations

from xenwarden_channel import errors, paths
from xenwarden_channel.client import StoreClient
from xenwarden_host.control.client import ControlClient, RefusedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenstore_worlds import Wait
    from xenstored_offline import Xenstored

ROOT = Path(__file__).parents[3]
DAEMON = Path(__file__).with_name("daemon_process.py")
DOMID = 3
MAX_S = f"{paths.POLICY_DIR}/watch/max_s"
EXEMPT = f"{paths.VM_DIR}/{UUID(int=DOMID)}/exempt"

pytestmark = pytest.mark.xenstored


class Running:
    """xenwardend as a process of its own on the store."""

    def __init__(self, store: Xenstored, directory: Path) -> None:
        self._control = directory / "run/control.sock"
        config = directory / "policy.yaml"
        config.write_text("tick_s: 0.5\n")
        words = ["--config", config, "--state-dir", directory / "state", "--run-dir", self._control.parent]
        self._command = [sys.executable, str(DAEMON), store.socket, str(DOMID), *map(str, words)]
        self._log = directory / "log"
        self.begin()

    def begin(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "dom0"), *sys.path])}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=environment, stderr=log)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def values(self) -> dict[str, tuple[Any, str]]:
        """Return value and source by key of what holds for the VM; nothing while no daemon answers."""
        try:
            with contextlib.closing(ControlClient(str(self._control))) as client:
                answer = client.ask("policy", vm=f"vm{DOMID}")
        except (UnreachableError, RefusedError):
            return {}
        refused = {item["node"]: (item["why"], "refused") for item in answer["refused"]}
        return {row["key"]: (row["value"], row["source"]) for row in answer["values"]} | refused

    def is_(self, key: str, value: Any, source: str) -> bool:
        return self.values().get(key) == (value, source)


@pytest.fixture
def dom0(xenstored: Xenstored) -> Iterator[StoreClient]:
    xenstored.create(DOMID)
    store = StoreClient(xenstored.socket)
    yield store
    store.close()


@pytest.fixture
def daemon(xenstored: Xenstored, dom0: StoreClient, tmp_path: Path, eventually: Wait) -> Iterator[Running]:
    dom0.write(MAX_S, b"44")  # before the daemon runs
    running = Running(xenstored, tmp_path)
    try:
        eventually(lambda: running.is_("watch.max_s", 44, MAX_S))
        yield running
    finally:
        running.end()


def listing(xenstored: Xenstored) -> str:
    environment = {"PATH": "/usr/bin", "XENSTORED_PATH": xenstored.socket}
    done = subprocess.run(
        ["xenstore-ls", "-fp"], env=environment, check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout


def test_nodes_count_while_they_stand_and_bad_ones_are_told(
    dom0: StoreClient, daemon: Running, eventually: Wait
) -> None:
    dom0.write(EXEMPT, b"true")
    eventually(lambda: daemon.is_("exempt", True, EXEMPT))
    dom0.write(MAX_S, b"\xff\x00garbage")
    dom0.write(EXEMPT, b"perhaps")
    eventually(lambda: {MAX_S, EXEMPT} <= daemon.values().keys())
    assert daemon.is_("watch.max_s", 44, MAX_S)
    assert daemon.is_("exempt", True, EXEMPT)
    daemon.end()
    daemon.begin()
    eventually(lambda: MAX_S in daemon.values())
    assert daemon.is_("watch.max_s", 20, "built-in")  # of a new daemon, it has no last good value
    dom0.write(MAX_S, b"45")
    dom0.remove(paths.VM_DIR)
    eventually(lambda: daemon.is_("watch.max_s", 45, MAX_S))
    assert daemon.is_("exempt", False, "built-in")
    dom0.remove(paths.POLICY_DIR)
    eventually(lambda: daemon.is_("watch.max_s", 20, "built-in"))


def test_guests_have_no_access_and_live_nodes_are_as_the_page_says(
    xenstored: Xenstored, dom0: StoreClient, daemon: Running, eventually: Wait
) -> None:
    dom0.write(EXEMPT, b"true")
    eventually(lambda: daemon.is_("exempt", True, EXEMPT))
    guest = xenstored.guest(DOMID)
    with contextlib.closing(guest):
        for path in (paths.TOOL_DIR, paths.POLICY_DIR, MAX_S, paths.VM_DIR, EXEMPT):
            for call in (guest.read, guest.directory, guest.remove, guest.permissions):
                with pytest.raises(errors.PermissionDeniedError):
                    call(path)
            with pytest.raises(errors.PermissionDeniedError):
                guest.set_permissions(path, [f"b{DOMID}"])
        for path in (EXEMPT, MAX_S, f"{paths.POLICY_DIR}/tick_s", f"{paths.TOOL_DIR}/new"):
            with pytest.raises(errors.PermissionDeniedError):
                guest.write(path, b"false")
        with contextlib.suppress(errors.StoreError):
            guest.watch(paths.TOOL_DIR, "t")
        guest.events()
        dom0.write(MAX_S, b"46")
        eventually(lambda: daemon.is_("watch.max_s", 46, MAX_S))
        assert all(not path.startswith("/tool") or path == paths.TOOL_DIR for path, _token in guest.events())
    assert violations(listing(xenstored)) == []


def test_xenstored_that_restarts_is_watched_again(
    xenstored: Xenstored, dom0: StoreClient, daemon: Running, eventually: Wait
) -> None:
    xenstored.kill()
    assert daemon.is_("watch.max_s", 44, MAX_S)
    xenstored.start()
    xenstored.create(DOMID)
    eventually(lambda: daemon.is_("watch.max_s", 20, "built-in"))  # this one forgot everything
    eventually(dom0.connected)
    dom0.write(MAX_S, b"47")
    eventually(lambda: daemon.is_("watch.max_s", 47, MAX_S))

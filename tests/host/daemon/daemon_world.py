# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon in one process: the real service on a fake Xen, a fake XenStore and a fake clock.

    with World(tmp_path) as world:
        mallory = world.start("mallory")
        mallory.signals["tx_syn_pps"] = 5000
        world.run(seconds=10)
        world.xenwarden("show", "mallory")["verdict"]

Each VM has a scripted agent that follows the channel's rules: it compares what it is told to measure
with the history that dom0 gave, goes to level 2 by itself or by order, reports, and answers questions.
dom0's own counters come from a directory in place of `/sys`.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from xenwarden_channel import messages, paths
from xenwarden_channel.errors import StoreError
from xenwarden_channel.fake import FakeStore
from xenwarden_host.cli.main import main as xenwarden
from xenwarden_host.control.peers import Peer
from xenwarden_host.daemon.clock import FakeClock
from xenwarden_host.daemon.service import Service
from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.fake import FakeVbds, FakeVifs

if TYPE_CHECKING:
    from pathlib import Path

    from xenwarden_channel.fake import FakeGuest

STEP_S = 0.5
ROOT = Peer(1, 0, frozenset({0}))


@dataclass
class Guest:
    """One VM: what its agent measures (`signals`), and what dom0 counts at its vif (`vif`, per second)."""

    name: str
    uuid: str
    domid: int
    connection: FakeGuest | None  # None: no agent runs
    signals: dict[str, float] = field(default_factory=dict)
    vif: dict[str, float] = field(default_factory=dict)
    boot: str = "00000001"
    seq: int = 0
    level: int = 1
    next_report_s: float = 0.0
    answered: str = ""
    counters: dict[str, float] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)

    def down(self, node: str) -> dict[str, str]:
        """Return the fields of a node that dom0 keeps for this guest; empty where it cannot be read."""
        assert self.connection is not None
        try:
            raw = self.connection.read(node)
        except StoreError:
            return {}
        return dict(messages.parse(raw, node.rpartition("/")[2]).fields)

    def stop_agent(self) -> FakeGuest:
        """End the agent and return its connection."""
        connection, self.connection = self.connection, None
        assert connection is not None
        return connection

    def step(self, now_s: float) -> None:
        """Do what the agent would do now."""
        if self.connection is None:
            return
        order = self.down(paths.DOWN_ORDER)
        usual = {name: float(value) for name, value in self.down(paths.DOWN_HISTORY).items()}
        over = [name for name, value in self.signals.items() if name in usual and value > usual[name]]
        strong = [name for name in over if self.signals[name] >= 2 * usual[name]]
        before = self.level
        why = ""
        if order.get("level") == "2":
            self.level, why = 2, "ordered"
        elif strong:
            self.level = 2
        elif not over:
            self.level = 1
        if strong:
            why = strong[0]
        if now_s >= self.next_report_s or (self.level == 2 and before == 1):
            interval = 1.0 if self.level == 2 else 5.0
            self.next_report_s = now_s + interval
            self.report(level=self.level, why=why, over=",".join(over), interval=interval)
        self._answer()

    def report(self, *, level: int, why: str, over: str, interval: float) -> None:
        """Write one report."""
        self.seq += 1
        fields: dict[str, str | float] = {
            "boot": self.boot, "level": str(level), "why": why, "over": over, "interval": interval,
            "missing": "", "agent": "0.1.0", "rss_kb": 9500, "cpu_ms": 10 * self.seq, "up_s": 5 * self.seq,
            "near_max": 0, "near_max_of": 10, **self.signals,
        }  # fmt: skip
        self.write(paths.UP_REPORT, messages.encode("report", self.seq, fields))

    def write(self, node: str, value: bytes) -> None:
        """Write as the guest would: a refused write is no crash."""
        assert self.connection is not None
        with contextlib.suppress(StoreError):
            self.connection.write(node, value)

    def _answer(self) -> None:
        ask = self.down(paths.DOWN_ASK)
        if ask and ask["id"] != self.answered:
            self.answered = ask["id"]
            fields: dict[str, str | float] = {
                "id": ask["id"],
                "load_pct": 20,
                "near_max": 0,
                "near_max_of": 10,
            }
            self.write(paths.UP_ANSWER, messages.encode("answer", int(ask["id"]) + 1, fields))


class World:
    """A host with dom0 and whatever `start` makes, and xenwardend on it."""

    def __init__(self, directory: Path, *, policy: str | None = None, dry_run: bool = False) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.hypervisor = FakeHypervisor()
        self.store = FakeStore()
        self.store.add_domain(0)
        self.vifs = FakeVifs()
        self.vbds: FakeVbds | None = None
        self.guests: dict[str, Guest] = {}
        self._made = 0
        self.peer = ROOT
        self.dry_run = dry_run
        self.sys_root = directory / "sys"
        (self.sys_root / "class/net").mkdir(parents=True)
        self.config = directory / "xenwarden.yaml"
        if policy is not None:
            self.config.write_text(policy)
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        self.run_dir.mkdir()
        self.state_dir.mkdir()
        self.service: Service

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.store.close()

    def begin(self) -> None:
        """Start the daemon."""
        self.service = Service(
            hypervisor=self.hypervisor,
            store=self.store,
            vifs=self.vifs,
            vbds=self.vbds,
            clock=self.clock,
            config=None,
            default_config=self.config,
            state_dir=self.state_dir,
            run_dir=self.run_dir,
            kill_file=self.directory / "etc-kill",
            sys_root=self.sys_root,
            dry_run=self.dry_run,
            credentials=lambda _socket: self.peer,
        )
        self.service.__enter__()

    def end(self) -> None:
        """Stop it in order."""
        self.service.__exit__(None, None, None)

    def crash(self) -> None:
        """End it as SIGKILL would: nothing is saved that was not."""
        self.service.abandon()

    # --- the host ----------------------------------------------------------------------------------

    def start(
        self, name: str, *, agent: bool = True, vcpus: int = 1, cap: int = 0, rate: str | None = None
    ) -> Guest:
        """Start a VM with one vif."""
        self._made += 1
        uuid = str(UUID(int=self._made))
        domid = self.hypervisor.add(uuid, name, vcpus=vcpus, cap=cap)
        self.store.add_domain(domid)
        self.vifs.add(domid, rate=rate)
        guest = Guest(name, uuid, domid, self.store.guest(domid) if agent else None)
        self.guests[name] = guest
        return guest

    def run(self, seconds: float) -> None:
        """Let time pass: agents, counters and the daemon do what they do."""
        for _ in range(round(seconds / STEP_S)):
            self.clock.advance(STEP_S)
            for guest in self.guests.values():
                guest.step(self.clock.monotonic())
                self._count(guest)
            self.turn()

    def turn(self, rounds: int = 5) -> None:
        """Let the daemon do what is due, without time passing."""
        for _ in range(rounds):
            self.service.step(0)

    def _count(self, guest: Guest) -> None:
        """Advance dom0's counters of the guest's vif; tx of the device is what the guest receives.

        All that the guest sends is of a class that packet limits act on.
        """
        limits = self.vifs.vifs[guest.domid][0].police
        if limits:
            over = max(0.0, guest.vif.get("rx_packets", 0.0) - sum(limits.values()))
            self.vifs.drops[guest.domid] = self.vifs.drops.get(guest.domid, 0) + int(over * STEP_S)
        else:
            self.vifs.drops.pop(guest.domid, None)
        statistics = self.sys_root / f"class/net/vif{guest.domid}.0/statistics"
        if not guest.counters:
            statistics.mkdir(parents=True, exist_ok=True)
        for name in ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped"):
            if name not in guest.counters or name in guest.vif:
                guest.counters[name] = guest.counters.get(name, 0.0) + guest.vif.get(name, 0.0) * STEP_S
                (statistics / name).write_text(f"{int(guest.counters[name])}\n")

    def nodes(self) -> int:
        """Return how many nodes XenStore holds."""
        waiting, count = [self.store.tree.root], 0
        while waiting:
            count += 1
            waiting.extend(waiting.pop().children.values())
        return count

    def migrate(self, guest: Guest) -> None:
        """Move the guest on this host: another domid, a new vif without rate, its agent goes on."""
        old = guest.domid
        guest.domid = self.hypervisor.renumber(old)
        self.vifs.renumber(old, guest.domid)
        self.store.remove_domain(old)
        guest.connection = self.store.guest(guest.domid)
        guest.counters.clear()

    # --- the operator ------------------------------------------------------------------------------

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run `xenwarden` on this daemon; return status, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        status: list[int] = []

        def run() -> None:
            status.append(xenwarden(["--socket", str(self.run_dir / "control.sock"), *words]))

        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            thread = threading.Thread(target=run)
            thread.start()
            while thread.is_alive():
                self.service.step(0.01)
            thread.join()
        return status[0], out.getvalue(), err.getvalue()

    def xenwarden(self, *words: str) -> Any:
        """Run a command with --json that must succeed, and return what it printed."""
        status, out, err = self.command("--json", *words)
        assert status == 0, err
        return json.loads(out)

    def show(self, guest: Guest) -> dict[str, Any]:
        """Return `xenwarden show` of a guest."""
        shown: dict[str, Any] = self.xenwarden("show", guest.name)
        return shown

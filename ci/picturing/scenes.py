# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with many VMs and one incident: the whole daemon, on a simulated Xen, so that pictures are alike."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "host" / "daemon"))
from daemon_world import World  # noqa: E402  the simulation lies with the tests

from picturing.terminal import Terminal  # noqa: E402
from xenwarden_host.daemon.clock import FakeClock  # noqa: E402

if TYPE_CHECKING:
    from daemon_world import Guest

    from xenwarden_host.records import DomainInfo

EVIL = "</svg></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;\x1b[31m\x00"
KINDS = ("web", "db", "mail", "ci", "cache", "app", "vpn", "build")
QUIET_S, FLOOD_S, AFTER_S = 60, 30, 20
CPUS, MANY_CPUS = 64, 256
MANY, SHORT_S = 100, (6, 12, 2)  # the same of so many VMs, which take the simulation long
PROGRAM = "import sys; from xenwarden_host.cli.main import main; sys.exit(main(sys.argv[1:]))"


class Scene:
    """A host on which mallory floods victim, among others that do their work; so many VMs in all."""

    def __init__(self, directory: Path, vms: int) -> None:
        directory.mkdir()
        self.world = World(directory)
        # It ends about now: commands reckon "the last two hours" from the machine's own clock.
        self.world.clock = FakeClock(unix_s=time.time() - QUIET_S - FLOOD_S - AFTER_S)
        self.world.hypervisor.pcpus = CPUS if vms < MANY else MANY_CPUS
        self.world.begin()
        self._loads: dict[str, tuple[random.Random, float]] = {}
        self.mallory = self._start("mallory", 0.1)
        self.victim = self._start("victim", 0.2) if vms > 1 else None
        self._flooded: set[str] = set()
        for number in range(vms - 2):
            kind = KINDS[number % len(KINDS)]
            self._start(f"{kind}-{1 + number // len(KINDS)}", 0.7 if kind in ("ci", "build") else 0.15)

    def close(self) -> None:
        """End the daemon."""
        self.world.end()
        self.world.store.close()

    def play(self) -> None:
        """Let mallory flood, be contained, and stop."""
        quiet_s, flood_s, after_s = SHORT_S if len(self._loads) >= MANY else (QUIET_S, FLOOD_S, AFTER_S)
        self.run(quiet_s)
        self._flood(pps=5000)
        self.run(flood_s)
        self._flooded = set()
        self.run(after_s)

    def run(self, seconds: int) -> None:
        """Let time pass, in which every VM does a little more or less than before."""
        for _ in range(seconds):
            infos = self.world.hypervisor.list_domains()
            for name, (chance, load) in self._loads.items():
                guest = self.world.guests[name]
                self._work(guest, infos[guest.domid], chance, load)
            self.world.run(seconds=1)

    def terminal(self, *words: str, columns: int, lines: int = 24) -> Terminal:
        """Run `xenwarden` on a terminal; the host goes on meanwhile."""
        return Terminal(
            [sys.executable, "-c", PROGRAM, "--socket", str(self.world.run_dir / "control.sock"), *words],
            columns=columns,
            lines=lines,
            idle=lambda: self.world.service.step(0.01),
            environment={"PYTHONPATH": str(ROOT / "dom0")},
        )

    def _start(self, name: str, load: float) -> Guest:
        chance = random.Random(name)  # noqa: S311  repeatable
        guest = self.world.start(name, vcpus=chance.choice((1, 1, 2, 4)))
        self._loads[name] = chance, load
        return guest

    def _work(self, guest: Guest, info: DomainInfo, chance: random.Random, load: float) -> None:
        share = min(1.0, load * chance.uniform(0.3, 1.7))
        self.world.hypervisor.change(guest.domid, cpu_time_s=info.cpu_time_s + share * info.vcpus_online)
        packets = 400 * share
        if guest.name not in self._flooded:
            syns = {"tx_syn_pps": packets / 40, "rx_syn_pps": packets / 50}
            guest.signals.update(tx_pps=packets, rx_pps=packets, **syns)
            guest.vif.update(rx_packets=packets, rx_bytes=packets * 700)
            guest.vif.update(tx_packets=packets, tx_bytes=packets * 500)
        guest.signals.update(
            cpu_pct=100 * share, mem_used_pct=30 + 30 * share, psi_cpu_pct=20 * share,
            tx_bps=packets * 5600, rx_bps=packets * 4000, steal_pct=share,
        )  # fmt: skip

    def _flood(self, pps: float) -> None:
        self._flooded = {"mallory", "victim"}
        self.mallory.signals.update(tx_pps=pps, tx_syn_pps=pps)
        self.mallory.vif.update(rx_packets=pps, rx_bytes=pps * 60)
        if self.victim is not None:
            self.victim.signals.update(rx_pps=pps, rx_syn_pps=pps)
            self.victim.vif.update(tx_packets=pps, tx_bytes=pps * 60)


def evil(value: Any) -> Any:
    """Return the data with every text that a guest or a name could fill in replaced."""
    if isinstance(value, list):
        return [evil(item) for item in value]
    if isinstance(value, dict):
        kept = ("event", "old", "new", "signal", "kind", "to", "uuid", "state", "data")
        return {
            key: item if key in kept and not isinstance(item, dict) else evil(item)
            for key, item in value.items()
        }
    return EVIL if isinstance(value, str) else value

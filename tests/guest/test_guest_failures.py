# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each file that the agent reads fails in turn: its signals are missing by name, all others stay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from kernel_files import FILES, INTERFACE, plant

from xenwarden_guest import report
from xenwarden_guest.agent import Sensor, own_rss_kb
from xenwarden_guest.collectors import Roots
from xenwarden_guest.level import State
from xenwarden_guest.vsem import monitor

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from xenwarden_guest.agent import Sample

NET = f"sys/class/net/{INTERFACE}"
COUNTERS = {"tx_pps", "rx_pps", "tx_bps", "rx_bps", "tx_drop_pps"}
TRIES = {"tcp_open_ps", "tcp_fail_ps", "tcp_retrans_ps", "udp_error_ps", "tcp_held", "tcp_taken"}
# By file: the names in `missing`, and the signals that go with it. "headers" is missing all the time: no
# socket can be opened, which is its turn.
GOES: dict[str, tuple[set[str], set[str]]] = {
    "proc/net/snmp": ({"snmp"}, TRIES),
    "proc/net/netstat": ({"netstat"}, {"tcp_drop_ps"}),
    "proc/net/dev": ({"netdev"}, COUNTERS),
    "proc/stat": ({"stat", "interrupts"}, {"cpu_pct", "steal_pct", "run_queue", "fork_ps", "hv_event_ps"}),
    "proc/meminfo": ({"meminfo"}, {"mem_used_pct", "swap_used_pct"}),
    "proc/diskstats": ({"diskstats"}, {"disk_bps", "hv_blk_rps"}),
    **{f"proc/pressure/{name}": ({"pressure"}, {"psi_cpu_pct", "psi_mem_pct", "psi_io_pct"})
       for name in ("cpu", "memory", "io")},
}  # fmt: skip


def remove(path: Path) -> None:
    path.unlink()


def make_unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()  # read(2) refuses it to root, too


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00 some total=x |\n\x80: 9 9 9\n" * 40)


def cut(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(text[: len(text) * 2 // 5])


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse packet sockets, as to an agent without CAP_NET_RAW: closing real ones takes the kernel long."""

    def refuse(_interface: object) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(monitor, "ClassCounter", refuse)


DAMAGES = {
    "gone": remove,
    "unreadable": make_unreadable,
    "empty": empty,
    "garbage": fill_with_garbage,
    "cut": cut,
}


class Vm:
    """One VM's sensor on planted files, five seconds from sample to sample."""

    def __init__(self, root: Path) -> None:
        plant(root)
        self.root = root
        self._now_s = 100.0
        self._sensor = Sensor(Roots(str(root)), management=False, now_s=self._now_s)
        self.sample()

    def sample(self) -> Sample:
        self._now_s += 5
        # Ticks of the clock, without which there is no CPU to share out.
        stat = self.root / "proc/stat"
        if stat.is_file() and stat.read_bytes().startswith(b"cpu  "):
            words = stat.read_bytes().split(b" ", 3)
            words[2] = b"%d" % (int(words[2]) + 500)
            stat.write_bytes(b" ".join(words))
        sample = self._sensor.finish(self._now_s)
        for name, value in sample.signals.items():
            assert math.isfinite(value), name
            assert 0 <= value < 1e6, name  # nothing happens in this VM
        load = self._sensor.load
        assert report.report(1, {}, state=State(), signals=sample.signals, load=load, missing=sample.missing)
        return sample

    def heal(self, name: str) -> None:
        path = self.root / name
        if path.is_dir():
            path.rmdir()
        path.write_bytes(FILES[name])


@pytest.mark.parametrize(
    ("name", "damage"),
    # An empty table of disks is a VM without a disk.
    [(name, damage) for name in GOES for damage in DAMAGES if (name, damage) != ("proc/diskstats", "empty")],
)
def test_a_file_that_fails_is_a_missing_signal_by_name(tmp_path: Path, name: str, damage: str) -> None:
    vm = Vm(tmp_path)
    before = vm.sample()
    collectors, signals = GOES[name]
    assert before.missing == ["headers"]
    assert signals <= before.signals.keys()
    DAMAGES[damage](tmp_path / name)
    damaged = vm.sample()
    assert set(damaged.missing) == {"headers", *collectors}
    assert damaged.signals.keys() == before.signals.keys() - signals
    vm.heal(name)
    vm.sample()  # the first since the gap
    assert vm.sample().signals.keys() == before.signals.keys()


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "unreadable"])
def test_ipv6_counters_that_cannot_be_read_are_not_taken_for_none(tmp_path: Path, damage: str) -> None:
    vm = Vm(tmp_path)
    before = vm.sample()
    DAMAGES[damage](tmp_path / "proc/net/snmp6")
    damaged = vm.sample()
    assert "snmp" in damaged.missing
    assert not TRIES & damaged.signals.keys()
    vm.heal("proc/net/snmp6")
    vm.sample()
    assert vm.sample().signals == pytest.approx(before.signals, abs=1.0)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["ifindex", "address", "type", "flags"])
def test_an_interface_that_cannot_be_read_is_no_crash(tmp_path: Path, file: str, damage: str) -> None:
    vm = Vm(tmp_path)
    DAMAGES[damage](tmp_path / NET / file)
    for _ in range(13):  # interfaces are looked at afresh in between
        assert "cpu_pct" in vm.sample().signals
    vm.heal(f"{NET}/{file}")
    for _ in range(13):
        last = vm.sample()
    assert last.signals.keys() >= COUNTERS


@pytest.mark.parametrize("damage", DAMAGES)
def test_names_of_interrupts_are_read_when_they_are_needed(tmp_path: Path, damage: str) -> None:
    vm = Vm(tmp_path)
    assert "hv_event_ps" in vm.sample().signals
    DAMAGES[damage](tmp_path / "proc/interrupts")
    assert "hv_event_ps" in vm.sample().signals
    stat = tmp_path / "proc/stat"
    stat.write_bytes(stat.read_bytes().replace(b" 5003 0", b" 5003 9"))  # a device came
    damaged = vm.sample()
    assert set(damaged.missing) == {"headers", "interrupts"}
    assert "hv_event_ps" not in damaged.signals
    vm.heal("proc/interrupts")
    vm.sample()  # the first since the gap
    assert "hv_event_ps" in vm.sample().signals


def test_no_directory_of_interfaces_is_named(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    (tmp_path / "sys/class/net").rename(tmp_path / "elsewhere")
    vm.sample()  # they are looked for after each
    assert "interfaces" in vm.sample().missing


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_agents_own_memory_is_left_out_where_it_cannot_be_read(tmp_path: Path, damage: str) -> None:
    plant(tmp_path)
    roots = Roots(str(tmp_path))
    assert own_rss_kb(roots) == 2385 * 4
    DAMAGES[damage](tmp_path / "proc/self/statm")
    assert own_rss_kb(roots) in (0, 2385 * 4)

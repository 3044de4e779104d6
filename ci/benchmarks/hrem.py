# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM and the daemon's tick: what a thousand domains cost, on a simulated host.

Hypervisor and XenStore are those in memory, dom0's counters a tree as sysfs has it, on a RAM disk; the
daemon is whole. What libxl, xenstored and real sysfs cost is measured in the lab.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import struct
import tempfile
import time
from pathlib import Path
from uuid import UUID

from benchmarks.figures import Figure, figure
from xenwarden_channel import messages, paths
from xenwarden_channel.fake import FakeGuest, FakeStore
from xenwarden_host.daemon.build import build_warden
from xenwarden_host.daemon.clock import FakeClock
from xenwarden_host.daemon.main import raise_descriptors
from xenwarden_host.hrem import backend, hypercalls, tracing, vbd, vif
from xenwarden_host.hrem.sysfs import Files
from xenwarden_host.libxl.fake import FakeHypervisor
from xenwarden_host.limits.fake import FakeVifs
from xenwarden_host.policy.load import defaults

MANY = 1000
FEW = 100
TICKS = 15  # each agent reports three times
WARM_TICKS = 6
REPORT_EVERY = 5
TICK_MS = 100.0
STREAM = 50  # requests between two ticks
TURNS = 300
READS = 3000
SIGNALS = {
    "tx_pps": 50.0, "rx_pps": 50.0, "tx_bps": 1e5, "rx_bps": 1e5, "tx_syn_pps": 2.0, "rx_syn_pps": 2.0,
    "tx_udp_pps": 1.0, "rx_udp_pps": 1.0, "tx_dests": 4.0, "tcp_open_ps": 1.0, "cpu_pct": 5.0,
    "steal_pct": 1.0, "mem_used_pct": 30.0, "fork_ps": 2.0, "run_queue": 0.1, "psi_cpu_pct": 0.5,
}  # fmt: skip


def run() -> list[Figure]:
    """Measure; about half a minute."""
    raise_descriptors()
    log = logging.getLogger("xenwarden")
    log.setLevel(logging.CRITICAL)
    hosts = {count: Host(count) for count in (FEW, MANY)}
    spent: dict[int, list[float]] = {count: [] for count in hosts}
    collected: dict[int, list[float]] = {count: [] for count in hosts}
    for turn in range(WARM_TICKS + TICKS):  # in turn, so that a disturbance meets both
        for count, host in hosts.items():
            tick_s, collect_s = host.tick(turn)
            if turn >= WARM_TICKS:
                spent[count].append(tick_s)
                collected[count].append(collect_s)
    one_us, stream_us = hosts[FEW].stream_us()
    for host in hosts.values():
        host.close()
    tick_ms = {count: statistics.fmean(values) * 1000 for count, values in spent.items()}
    hrem_ms = {count: statistics.fmean(values) * 1000 for count, values in collected.items()}
    kept_us, opened_us = _read_us()
    return [
        figure(
            "hrem.read_of_real_sysfs",
            kept_us,
            "us CPU",
            peer="open, read, close",
            peer_value=opened_us,
            at_most=0.5,
        ),
        figure(
            f"hrem.tick_{MANY}_domains", tick_ms[MANY], "ms CPU", peer="limit", peer_value=TICK_MS, at_most=1
        ),
        figure(
            f"hrem.collect_{MANY}_domains",
            hrem_ms[MANY],
            "ms CPU",
            peer="limit",
            peer_value=TICK_MS,
            at_most=1,
        ),
        figure(
            "hrem.tick_per_domain",
            tick_ms[MANY] / MANY * 1000,
            "us CPU",
            peer=f"the same with {FEW} domains",
            peer_value=tick_ms[FEW] / FEW * 1000,
            at_most=1.25,
        ),
        figure(
            f"hrem.stream_of_{STREAM}_requests",
            stream_us,
            "us CPU",
            peer="one request",
            peer_value=one_us,
            at_most=3,
        ),
        figure(
            "hrem.trace_burst_of_full_buffers",
            _burst_ms(),
            "ms CPU",
            peer="limit",
            peer_value=TICK_MS,
            at_most=1,
        ),
    ]


def _burst_ms() -> float:
    """Return the CPU of reading a burst that filled the buffers of as many CPUs as are read."""
    turn = struct.pack("<4I", 0xA1021201, 0, 0, 1 << 16) + 40 * struct.pack("<4I", 0xA020100D, 9, 0, 32)
    records = turn * (tracing.SIZE // len(turn))
    spent = []
    for _ in range(TICKS):
        start = time.process_time()
        hypercalls.count([records] * tracing.CPUS)
        spent.append(time.process_time() - start)
    return statistics.median(spent) * 1000


def _read_us() -> tuple[float, float]:
    """Return the CPU of reading this machine's own counters as HREM does, and opening them each time."""
    files = Files()
    directory = "/sys/class/net/lo/statistics"
    start = time.process_time()
    for _ in range(READS):
        files.numbers(directory, vif.COUNTERS)
    middle = time.process_time()
    for _ in range(READS):
        files.close()
        files.numbers(directory, vif.COUNTERS)
    end = time.process_time()
    files.close()
    return (middle - start) / READS * 1e6, (end - middle) / READS * 1e6


class Host:
    """A daemon with so many VMs, each with one vif, one disk and an agent."""

    def __init__(self, vms: int) -> None:
        self._directory = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self._clock = FakeClock()
        hypervisor, store, vifs = FakeHypervisor(memory_kb=1 << 40), FakeStore(), FakeVifs()
        store.add_domain(0)
        self._agents: list[FakeGuest] = []
        for number in range(vms):
            domid = hypervisor.add(str(UUID(int=number + 1)))
            store.add_domain(domid)
            vifs.add(domid)
            self._agents.append(store.guest(domid))
            self._make_devices(domid)
        self._warden = build_warden(
            hypervisor=hypervisor, store=store, vifs=vifs, vbds=None, clock=self._clock, policy=defaults(),
            state_dir=self._directory, run_dir=self._directory, kill_file=self._directory / "kill",
            sys_root=self._directory / "sys", dry_run=False,
        )  # fmt: skip

    def tick(self, turn: int) -> tuple[float, float]:
        """Let a second pass in which every fifth agent reports; return the tick's CPU seconds and HREM's."""
        self._clock.advance(1.0)
        fields: dict[str, str | float] = {
            "boot": "00000001", "level": "1", "interval": 5.0, "agent": "1", **SIGNALS
        }  # fmt: skip
        value = messages.encode("report", turn + 1, fields)
        for number, agent in enumerate(self._agents):
            if number % REPORT_EVERY == turn % REPORT_EVERY:
                agent.write(paths.UP_REPORT, value)
        took = [0.0]
        collect = self._warden.hrem.collect

        def timed(*args: object) -> object:
            start = time.process_time()
            found = collect(*args)  # type: ignore[arg-type]
            took[0] = time.process_time() - start
            return found

        self._warden.hrem.collect = timed  # type: ignore[method-assign,assignment]
        start = time.process_time()
        self._warden.tick()
        spent = time.process_time() - start
        self._warden.hrem.collect = collect  # type: ignore[method-assign]
        if self._warden.errors:
            raise SystemExit(f"ci/bench hrem: a part of the tick failed: {dict(self._warden.errors)}")
        return spent, took[0]

    def stream_us(self) -> tuple[float, float]:
        """Return the CPU of dom0 for one request between two ticks, and for `STREAM` of them."""
        spent = {1: 0.0, STREAM: 0.0}
        request_id = 0
        for _ in range(TURNS):
            for count in spent:
                self._clock.advance(1.0)
                for _ in range(count):
                    request_id += 1
                    fields: dict[str, str | float] = {"id": request_id, "what": "memory", "more": 1 << 20}
                    self._agents[0].write(paths.UP_REQUEST, messages.encode("request", request_id, fields))
                start = time.process_time()
                self._warden.tracker.drain()
                self._warden.tracker.read()
                self._warden.desk.tick(self._warden.tracker.vms(), (), killed=False)
                self._warden.tracker.write()
                spent[count] += time.process_time() - start
        return spent[1] / TURNS * 1e6, spent[STREAM] / TURNS * 1e6

    def close(self) -> None:
        """Remove all that was made."""
        self._warden.close()
        shutil.rmtree(self._directory)

    def _make_devices(self, domid: int) -> None:
        names = {
            f"{vif.DIRECTORY}/vif{domid}.0/statistics": vif.COUNTERS,
            f"{backend.DIRECTORY}/vif-{domid}-0/xenbus": backend.COUNTERS,
            f"{backend.DIRECTORY}/vbd-{domid}-51712/xenbus": backend.COUNTERS,
            f"{vbd.DIRECTORY}/vbd-{domid}-51712/statistics": vbd.COUNTERS,
        }
        for directory, counters in names.items():
            made = self._directory / "sys" / directory
            made.mkdir(parents=True)
            for counter in counters:
                (made / counter).write_text("5\n")

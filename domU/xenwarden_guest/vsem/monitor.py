# SPDX-License-Identifier: LGPL-2.1-or-later
"""VSEM's eyes on the network: per interface its counters, class counts and header samples."""

from __future__ import annotations

from xenwarden_guest.collectors import interfaces, netdev
from xenwarden_guest.delta import step
from xenwarden_guest.vsem.bpf import CLASSES
from xenwarden_guest.vsem.headers import Networks, parse
from xenwarden_guest.vsem.sockets import ClassCounter, HeaderSampler
from xenwarden_guest.vsem.talkers import Talkers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots
    from xenwarden_guest.collectors.interfaces import Interface

# Sampled packets per second that are worth their CPU time, both directions together.
BUDGET_PPS = {1: 100, 2: 300}
_MAX_SHIFT = 20
_COUNTERS = ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets", "tx_drops")
_SIGNALS = {
    "tx_pps": ("tx_packets", 1),
    "rx_pps": ("rx_packets", 1),
    "tx_bps": ("tx_bytes", 8),
    "rx_bps": ("rx_bytes", 8),
    "tx_drop_pps": ("tx_drops", 1),
}


class _Watched:
    """One interface: its sockets, and its counters at the last look."""

    __slots__ = ("classes", "counters", "interface", "rx", "tx")

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.counters: dict[str, int] = {}
        self.classes: ClassCounter | None = None
        self.tx: HeaderSampler | None = None
        self.rx: HeaderSampler | None = None

    def open(self) -> None:
        """Make the sockets that are not there; raises OSError where the kernel refuses."""
        if self.classes is None:
            self.classes = ClassCounter(self.interface)
        if self.tx is None:
            self.tx = HeaderSampler(self.interface, outgoing=True)
        if self.rx is None:
            self.rx = HeaderSampler(self.interface, outgoing=False)

    def close(self) -> None:
        for sock in (self.classes, self.tx, self.rx):
            if sock is not None:
                sock.close()
        self.classes = self.tx = self.rx = None


class Monitor:
    """Adds up what the network did since the last report; `look` often, `finish` once per report."""

    __slots__ = (
        "_management", "_roots", "_rx", "_sums", "_tx", "_watched", "failed", "level", "networks",
    )  # fmt: skip

    def __init__(self, roots: Roots, *, management: bool) -> None:
        self._roots = roots
        self._management = management
        self._watched: dict[int, _Watched] = {}
        self.level = 1
        self.networks = Networks()
        self.failed: set[str] = set()  # collectors that failed since the last report
        self._start()

    def _start(self) -> None:
        self._sums: dict[str, int] = {}
        self._tx = Talkers(self.networks, outgoing=True)
        self._rx = Talkers(self.networks, outgoing=False)
        self.failed = set()

    def find_interfaces(self) -> None:
        """Follow interfaces that came, went or changed."""
        try:
            found = interfaces.own(interfaces.read(self._roots), management=self._management)
        except OSError:
            self.failed.add("interfaces")
            return
        if len(found) > interfaces.MAX_INTERFACES:
            self.failed.add("interfaces")
            found = found[: interfaces.MAX_INTERFACES]
        wanted = {interface.index: interface for interface in found}
        for index, watched in list(self._watched.items()):
            if wanted.get(index) != watched.interface:
                watched.close()
                del self._watched[index]
        for index, interface in wanted.items():
            if index not in self._watched:
                self._watched[index] = _Watched(interface)

    def look(self, seconds: float) -> None:
        """Take in what happened in the `seconds` since the last look."""
        try:
            table = netdev.parse(netdev.read(self._roots))
        except (OSError, ValueError):
            self.failed.add("netdev")
            table = {}
        most = int(BUDGET_PPS[self.level] * max(seconds, 1.0))
        for watched in self._watched.values():
            packets = self._count(watched, table.get(watched.interface.name), seconds)
            try:
                watched.open()
                self._classes(watched)
                self._headers(watched, packets, seconds, most)
            except OSError:
                # The interface is down or gone, or the kernel refuses: what could not be read is missing.
                self.failed.add("headers")
                watched.close()

    def _count(self, watched: _Watched, counters: netdev.Counters | None, seconds: float) -> tuple[int, int]:
        """Add the interface's counters; return the packets (sent, received)."""
        before = watched.counters
        watched.counters = after = dict(zip(_COUNTERS, counters, strict=True)) if counters else {}
        if not before or not after:
            return 0, 0  # new here: its history is not this interval's
        for name in _COUNTERS:
            moved = step(before, after, name, seconds)
            if moved is not None:
                self._sums[name] = self._sums.get(name, 0) + moved
        return step(before, after, "tx_packets", seconds) or 0, step(
            before, after, "rx_packets", seconds
        ) or 0

    def _classes(self, watched: _Watched) -> None:
        if watched.classes is not None:
            for name, count in zip(CLASSES, watched.classes.read(), strict=True):
                self._sums[name] = self._sums.get(name, 0) + count

    def _headers(self, watched: _Watched, packets: tuple[int, int], seconds: float, most: int) -> None:
        for sampler, talkers, count in (
            (watched.tx, self._tx, packets[0]),
            (watched.rx, self._rx, packets[1]),
        ):
            if sampler is None:
                continue
            for frame in sampler.read(most):
                header = parse(frame)
                if header is not None:
                    talkers.add(header)
            sampler.take_one_in(shift_for(count / max(seconds, 0.1), BUDGET_PPS[self.level] / 2))

    def so_far(self, interval_s: float) -> dict[str, float]:
        """Return the rates that the interval will have at least, if nothing more happens in it."""
        return self._rates(interval_s)

    def _rates(self, seconds: float) -> dict[str, float]:
        found = {}
        for signal, (counter, scale) in _SIGNALS.items():
            if counter in self._sums:
                found[signal] = self._sums[counter] * scale / seconds
        for name in CLASSES[1:]:
            if name in self._sums:
                found[name + "_pps"] = self._sums[name] / seconds
        return found

    def finish(self, seconds: float) -> tuple[dict[str, float], list[str], list[str]]:
        """Return the signals of the `seconds` since the last report, top destinations and top sources.

        A collector that failed meanwhile takes its signals with it: part of a sum is no sum.
        """
        found = self._rates(seconds)
        if "netdev" in self.failed:
            for name in _SIGNALS:
                found.pop(name, None)
        if "headers" in self.failed:
            for name in CLASSES[1:]:
                found.pop(name + "_pps", None)
        elif self._watched:
            found["tx_dests"] = float(self._tx.distinct())
            found["rx_sources"] = float(self._rx.distinct())
            found["tx_top_share"] = self._tx.top_share()
            external = self._tx.external_share()
            if external is not None:
                found["tx_external_share"] = external
        dests = self._tx.top(found.get("tx_pps", 0.0), found.get("tx_syn_pps", 0.0))
        sources = self._rx.top(found.get("rx_pps", 0.0), found.get("rx_syn_pps", 0.0))
        self._start()
        return found, dests, sources

    def close(self) -> None:
        """Give all sockets back."""
        for watched in self._watched.values():
            watched.close()
        self._watched = {}


def shift_for(pps: float, budget_pps: float) -> int:
    """Return the sampling shift that brings `pps` down to the budget: 0 takes all, k one in 2^k."""
    shift = 0
    while pps > budget_pps and shift < _MAX_SHIFT:
        pps /= 2
        shift += 1
    return shift

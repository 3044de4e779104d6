# SPDX-License-Identifier: LGPL-2.1-or-later
"""VSEM's eyes on the network: per interface its counters, class counts and header samples."""

from __future__ import annotations

import os

from xenwarden_guest.collectors import interfaces, netdev
from xenwarden_guest.delta import step
from xenwarden_guest.vsem.bpf import CLASSES, Plan
from xenwarden_guest.vsem.headers import Networks, parse
from xenwarden_guest.vsem.plan import BUDGET_PPS, Seen, next_plan
from xenwarden_guest.vsem.sockets import ClassCounter, HeaderSampler
from xenwarden_guest.vsem.talkers import Talkers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots
    from xenwarden_guest.collectors.interfaces import Interface

_FIND_AFRESH = 12  # looks for interfaces; one may become a bridge port, or get another address, in place
_SHORTEST_S = 0.1  # a look may follow another at once; rates over less mean nothing
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

    __slots__ = ("classes", "counters", "interface", "sampler")

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.counters: dict[str, int] = {}
        self.classes: ClassCounter | None = None
        self.sampler: HeaderSampler | None = None

    def open(self) -> None:
        """Make the sockets.

        Raises:
            OSError: the kernel refuses.
        """
        self.classes = ClassCounter(self.interface)
        self.sampler = HeaderSampler(self.interface, Plan(_salt()), Plan(_salt()))

    def close(self) -> None:
        """Give the sockets back."""
        if self.classes is not None:
            self.classes.close()
        if self.sampler is not None:
            self.sampler.close()
        self.classes = self.sampler = None


class Monitor:
    """Adds up what the network did since the last report; `look` often, `finish` once per report."""

    __slots__ = (
        "_finds",
        "_management",
        "_names",
        "_roots",
        "_rx",
        "_sums",
        "_tx",
        "_watched",
        "failed",
        "level",
        "networks",
    )

    def __init__(self, roots: Roots, *, management: bool) -> None:
        self._roots = roots
        self._management = management
        self._watched: dict[int, _Watched] = {}
        self._names: list[str] = []
        self._finds = 0
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
        """Follow interfaces that came, went or changed; all of them are looked at afresh now and then."""
        try:
            names = interfaces.names(self._roots)
            self._finds += 1
            if names == self._names and self._finds % _FIND_AFRESH:
                return
            found = interfaces.own(interfaces.read(self._roots, names), management=self._management)
        except OSError:
            self.failed.add("interfaces")
            return
        self._names = names
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
        for watched in self._watched.values():
            packets = self._count(watched, table.get(watched.interface.name), seconds)
            try:
                if watched.sampler is None or watched.classes is None:
                    watched.open()
                else:
                    syns = self._classes(watched.classes)
                    self._headers(watched.sampler, packets, syns, seconds)
            except OSError:
                watched.close()
                self._names = []  # it may be another one by now
                if interfaces.is_up(self._roots, watched.interface.name):
                    self.failed.add("headers")  # refused, or counts were lost; one that is down sends nothing

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

    def _classes(self, counter: ClassCounter) -> tuple[int, int]:
        """Add the class counts; return the SYNs (sent, received)."""
        found = dict(zip(CLASSES, counter.read(), strict=True))
        for name, count in found.items():
            self._sums[name] = self._sums.get(name, 0) + count
        return found["tx_syn"], found["rx_syn"]

    def _headers(
        self, sampler: HeaderSampler, packets: tuple[int, int], syns: tuple[int, int], seconds: float
    ) -> None:
        """Take in the samples; plan the next by them and by the (sent, received) packets and SYNs counted."""
        samples = sampler.read()
        chosen, lost = sampler.counts()
        scale = chosen / (chosen - lost) if chosen > lost else 1.0
        in_slice = [0, 0]
        for sent, frame in samples:
            header = parse(frame)
            if header is None:
                continue
            if sent:
                in_slice[0] += self._tx.add(header, sampler.sent, scale)
            else:
                in_slice[1] += self._rx.add(header, sampler.received, scale)
        seconds = max(seconds, _SHORTEST_S)
        plans = []
        for way, plan in enumerate((sampler.sent, sampler.received)):
            seen = Seen(packets[way] / seconds, syns[way] / seconds, in_slice[way] * scale / seconds)
            plans.append(next_plan(plan, seen, BUDGET_PPS[self.level], _salt()))
        sampler.follow(*plans)

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


def _salt() -> int:
    """Return a number that no peer can guess: it could keep its address out of the slice."""
    return int.from_bytes(os.urandom(4), "big")

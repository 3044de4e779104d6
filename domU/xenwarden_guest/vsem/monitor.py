# SPDX-License-Identifier: LGPL-2.1-or-later
"""VSEM's eyes on the network: per interface its counters, class counts and header samples."""

from __future__ import annotations

import os

from xenwarden_guest.collectors import interfaces, netdev
from xenwarden_guest.delta import step
from xenwarden_guest.vsem.bpf import CLASSES
from xenwarden_guest.vsem.headers import Networks, grouped
from xenwarden_guest.vsem.plan import BUDGET_PPS, Plan, Seen, next_plan
from xenwarden_guest.vsem.sockets import FRAMES, ClassCounter, HeaderSampler
from xenwarden_guest.vsem.talkers import Talkers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenwarden_guest.collectors import Roots
    from xenwarden_guest.collectors.interfaces import Interface

_FIND_AFRESH = 12  # looks for interfaces; one may become a bridge port, or get another address, in place
# Places in the list of classes.
_SENT = [at for at, name in enumerate(CLASSES) if name.startswith("tx_")]
_RECEIVED = [at for at, name in enumerate(CLASSES) if name.startswith("rx_")]
_SYNS = (CLASSES.index("tx_syn"), CLASSES.index("rx_syn"))
_CLASS_SIGNALS = tuple([f"{name}_pps" for name in CLASSES[1:-2]])  # all but what is of no class
SO_FAR = (*_CLASS_SIGNALS, "tx_pps", "rx_pps")  # what `so_far` returns
_MOST_WAITING = FRAMES // 4  # samples that a glance leaves to a later one
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

    __slots__ = ("classes", "counters", "interface", "sampler", "samples")

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.counters: dict[str, int] = {}
        self.classes: ClassCounter | None = None
        self.sampler: HeaderSampler | None = None
        self.samples: list[tuple[bool, bytes]] = []  # since its counters were read

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
        self.samples = []


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
        "quiet",
    )

    def __init__(self, roots: Roots, *, management: bool) -> None:
        self._roots = roots
        self._management = management
        self._watched: dict[int, _Watched] = {}
        self._names: list[str] = []
        self._finds = 0
        self.level = 1
        self.quiet = False  # there was no packet in the last look
        self.networks = Networks()
        self._start()

    def _start(self) -> None:
        self._sums: list[int] = []  # by class; nothing where there was no look
        self._tx = Talkers(self.networks, outgoing=True)
        self._rx = Talkers(self.networks, outgoing=False)
        self.failed: set[str] = set()  # what failed since the last call of `finish`

    def find_interfaces(self) -> None:
        """Find the interfaces to look at."""
        if table := self._table():
            self._find(list(table))

    def _table(self) -> dict[str, netdev.Counters]:
        try:
            return netdev.collect(self._roots)
        except (OSError, ValueError):
            self.failed.add("netdev")
            return {}

    def _find(self, names: list[str]) -> None:
        self._finds += 1
        if names == self._names and self._finds % _FIND_AFRESH:
            return
        there = interfaces.read(self._roots, names)
        if not there:
            self.failed.add("interfaces")
        self._names = names if len(there) == len(names) else []  # one vanished meanwhile: again the next time
        found = interfaces.own(there, management=self._management)
        if len(found) > interfaces.MAX_INTERFACES:
            self.failed.add("interfaces")
            found = found[: interfaces.MAX_INTERFACES]
        self.follow(found)

    def follow(self, found: list[Interface]) -> None:
        """Look at these interfaces from now on."""
        wanted = {interface.index: interface for interface in found}
        for index, watched in list(self._watched.items()):
            if wanted.get(index) != watched.interface:
                watched.close()
                del self._watched[index]
        for index, interface in wanted.items():
            if index not in self._watched:
                self._watched[index] = _Watched(interface)

    def glance(self, seconds: float, packets: float) -> bool:
        """Look, but closely only where these packets passed since `start`; return whether that was so."""
        few = 1
        if self._watched and not any(self._sums):
            few = max(1, int(min(packets / len(self._watched), _MOST_WAITING)))
        return self.look(seconds, few)

    def look(self, seconds: float, few: int = 1) -> bool:
        """Take in what the sockets saw in the `seconds` since the last look; return whether there was any.

        Where fewer than `few` packets passed they wait for the next look, and the counters, which take a
        system call each, are not read: every packet of a class of `SO_FAR` is a sample where all are sampled.
        """
        looked = False
        self.quiet = True
        for watched in self._watched.values():
            try:
                if watched.sampler is None or watched.classes is None:
                    watched.open()
                    looked = True
                    continue
                self._sums = self._sums or [0] * len(CLASSES)
                if new := watched.sampler.read():
                    self.quiet = False
                    watched.samples += new
                if len(watched.samples) >= few or not watched.sampler.takes_all:
                    looked = True
                    samples, watched.samples = watched.samples, []
                    self._headers(watched.sampler, samples, self._classes(watched.classes), seconds)
            except OSError:
                looked = True
                watched.close()
                self._names = []  # it may be another one by now
                if interfaces.is_up(self._roots, watched.interface.name):
                    self.failed.add("headers")  # refused, or counts were lost; one that is down sends nothing
        return looked

    def _classes(self, counter: ClassCounter) -> list[int]:
        """Add the class counts, and return them."""
        found = counter.read()
        self._sums = [had + new for had, new in zip(self._sums, found, strict=True)]
        return found

    def _headers(
        self,
        sampler: HeaderSampler,
        samples: list[tuple[bool, bytes]],
        counted: list[int],
        seconds: float,
    ) -> None:
        """Take in the samples; plan the next ones by them and by what was counted."""
        packets = [sum([counted[at] for at in classes]) for classes in (_SENT, _RECEIVED)]
        syns = [counted[at] for at in _SYNS]
        chosen, lost = sampler.counts()
        scale = chosen / (chosen - lost) if chosen > lost else 1.0
        in_slice = [0, 0]
        for sent, header, count in grouped(samples):
            if sent:
                in_slice[0] += count * self._tx.add(header, sampler.sent, scale * count)
            else:
                in_slice[1] += count * self._rx.add(header, sampler.received, scale * count)
        seconds = max(seconds, _SHORTEST_S)
        plans = []
        for way, plan in enumerate((sampler.sent, sampler.received)):
            seen = Seen(packets[way] / seconds, syns[way] / seconds, in_slice[way] * scale / seconds)
            plans.append(next_plan(plan, seen, BUDGET_PPS[self.level], _salt()))
        sampler.follow(*plans)

    def idle_files(self) -> list[int]:
        """Return files of which one is readable with the next packet; none where not all would do that."""
        samplers = [watched.sampler for watched in self._watched.values()]
        files = [sampler.fileno() for sampler in samplers if sampler is not None and sampler.takes_all]
        return files if len(files) == len(samplers) else []

    def so_far(self, interval_s: float) -> dict[str, float]:
        """Return the rates that the interval will have at least, if nothing more happens in it."""
        found = self._class_rates(interval_s)
        if found:
            for signal, classes in (("tx_pps", _SENT), ("rx_pps", _RECEIVED)):
                found[signal] = sum([self._sums[at] for at in classes]) / interval_s
        return found

    def _class_rates(self, seconds: float) -> dict[str, float]:
        # What is of no class comes before and behind the others.
        return {name: count / seconds for name, count in zip(_CLASS_SIGNALS, self._sums[1:], strict=False)}

    def _interface_rates(self, table: dict[str, netdev.Counters], seconds: float) -> dict[str, float]:
        """Return what the interfaces' counters say; an interface that is new counts from the next time."""
        sums: dict[str, int] = {}
        for watched in self._watched.values():
            before, counters = watched.counters, table.get(watched.interface.name)
            if counters is None:
                self.failed.add("netdev")
            watched.counters = dict(zip(_COUNTERS, counters, strict=True)) if counters else {}
            for name in _COUNTERS:
                moved = step(before, watched.counters, name, seconds)
                if moved is not None:
                    sums[name] = sums.get(name, 0) + moved
        if "netdev" in self.failed:
            return {}
        return {
            signal: sums[counter] * scale / seconds
            for signal, (counter, scale) in _SIGNALS.items()
            if counter in sums
        }

    def finish(self, seconds: float) -> tuple[dict[str, float], Talkers, Talkers, list[str]]:
        """Return signals, destinations, sources and what failed, of the `seconds` until now.

        A collector that failed meanwhile takes its signals with it: part of a sum is no sum. Interfaces
        that came, went or changed are followed from here on.
        """
        table = self._table()
        found = self._interface_rates(table, seconds)
        found.update(self.packets(seconds))
        tx, rx = self._tx, self._rx
        failed = self.start()
        if table:
            self._find(list(table))
        return found, tx, rx, failed

    def packets(self, seconds: float) -> dict[str, float]:
        """Return the signals of packets by class and of their headers, of the `seconds` since `start`."""
        found: dict[str, float] = {}
        if "headers" not in self.failed and self._sums and seconds > 0:
            found.update(self._class_rates(seconds))
            found["tx_dests"] = float(self._tx.distinct())
            found["rx_sources"] = float(self._rx.distinct())
            found["tx_top_share"] = self._tx.top_share()
            external = self._tx.external_share()
            if external is not None:
                found["tx_external_share"] = external
        return found

    def start(self) -> list[str]:
        """Begin to add up anew, and return what failed until now."""
        failed = sorted(self.failed)
        self._start()
        return failed

    def close(self) -> None:
        """Give all sockets back."""
        for watched in self._watched.values():
            watched.close()
        self._watched = {}


def _salt() -> int:
    """Return a number that no peer can guess: it could keep its address out of the slice."""
    return int.from_bytes(os.urandom(4), "big")

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's loop: look at the VM, decide the level, report; one thread, one poll."""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic, process_time

from xenwarden_channel import paths
from xenwarden_channel.grants import RESOURCES
from xenwarden_channel.messages import parse_number
from xenwarden_guest import report
from xenwarden_guest.collectors import (
    diskstats,
    gather,
    interrupts,
    meminfo,
    netstat,
    pressure,
    snmp,
    sockdiag,
    stat,
)
from xenwarden_guest.level import STRONG_FACTOR, Order, State, decide, over_history
from xenwarden_guest.vrem import signals as vrem
from xenwarden_guest.vrem.pressure import Rules
from xenwarden_guest.vsem import connections
from xenwarden_guest.vsem import signals as vsem
from xenwarden_guest.vsem.headers import Networks
from xenwarden_guest.vsem.monitor import SO_FAR, Monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from xenwarden_channel.messages import Message
    from xenwarden_guest.asking import Asker
    from xenwarden_guest.channel import Channel
    from xenwarden_guest.collectors import Roots
    from xenwarden_guest.vsem.looks import Looks
    from xenwarden_guest.vsem.segments import Segments
    from xenwarden_guest.vsem.talkers import Talkers

COLLECTORS = (
    ("snmp", snmp.collect),
    ("netstat", netstat.collect),
    ("diskstats", diskstats.collect),
    ("stat", stat.collect),
    ("interrupts", interrupts.collect),  # of what `stat` read
    ("meminfo", meminfo.collect),
    ("pressure", pressure.collect),
)
_FIRST_S = 0.5  # the shortest time that a report covers; the first one, for which dom0 waits, does
PEEK_S = 1.0  # between looks at the network counters; a flood is noticed this soon at level 1
_STEADY = 2  # looks in turn that found packets: from here on they are waited for by the clock
_ANY_PPS = 1e9  # without history any rate is usual
_SILENCE_INTERVALS = 2  # dom0 counts three intervals without report as silence
_SHORTEST_S, _LONGEST_S = 0.2, 300.0  # what an order can make of the intervals


class Sample:
    """What one interval showed."""

    __slots__ = ("_rx", "_tx", "missing", "seconds", "signals")

    def __init__(
        self, seconds: float, signals: dict[str, float], missing: list[str], tx: Talkers, rx: Talkers
    ) -> None:
        self.seconds = seconds
        self.signals = signals
        self.missing = missing
        self._tx = tx
        self._rx = rx

    @property
    def dests(self) -> list[str]:
        """Return the top destinations, as `Talkers.top` does."""
        return self._tx.top(self.signals.get("tx_pps", 0.0), self.signals.get("tx_syn_pps", 0.0))

    @property
    def sources(self) -> list[str]:
        """Return the top sources."""
        return self._rx.top(self.signals.get("rx_pps", 0.0), self.signals.get("rx_syn_pps", 0.0))


class Sensor:
    """VSEM's and VREM's readings of this VM, from one report to the next."""

    __slots__ = ("_before", "_held", "_looked_s", "_roots", "_since_s", "load", "network")

    def __init__(self, roots: Roots, *, management: bool, now_s: float) -> None:
        self._roots = roots
        self.network = Monitor(roots, management=management)
        self.load = vrem.Load()
        self._held = connections.Held()
        self._before: dict[str, int] = {}
        self._since_s = self._looked_s = now_s
        self.network.find_interfaces()
        self.network.look(0.0)
        self.network.finish(0.0)
        gather(COLLECTORS, roots, self._before)
        if self._held.follow({}, self._before, 0.0):
            self._look(self._before["tcp_established"], [])

    def peek(self, now_s: float, packets: float) -> bool:
        """Look at the network only, where these packets or more passed; return whether there was a look."""
        looked = self.network.glance(now_s - self._looked_s, packets)
        if looked:
            self._looked_s = now_s
        return looked

    def finish(self, now_s: float) -> Sample:
        """Return what happened since the last sample."""
        self.network.look(now_s - self._looked_s)
        self._looked_s = now_s
        seconds = now_s - self._since_s
        after: dict[str, int] = {}
        missing = gather(COLLECTORS, self._roots, after)
        signals, tx, rx, failed = self.network.finish(seconds)
        missing += failed
        signals.update(vsem.signals(self._before, after, seconds))
        if self._held.follow(self._before, after, seconds):
            signals.update(self._connections(after["tcp_established"], missing))
        signals.update(vrem.signals(self._before, after, seconds))
        self.load.add(signals, seconds)
        self._before = after
        self._since_s = now_s
        return Sample(seconds, signals, missing, tx, rx)

    def _connections(self, established: int, missing: list[str]) -> dict[str, float]:
        """Return the signals of open connections; at level 2 they are looked at one by one."""
        found = {}
        if self.network.level == 2:
            found = self._look(established, missing)
        return {"tcp_held": self._held.opened, "tcp_taken": self._held.taken, **found}

    def _look(self, established: int, missing: list[str]) -> dict[str, float]:
        """Look at each connection; return the signals of those that one end holds up."""
        try:
            sockets, whole = sockdiag.read(connections.MOST) if established else ([], True)
        except (OSError, ValueError):
            missing.append("sockdiag")
            return {}
        looked = connections.Looked(sockets)
        self._held.split(looked.opened, looked.taken, established)
        seen = looked.opened + looked.taken
        return looked.signals(1.0 if whole or not seen else established / seen)


class Agent:
    """Reports one VM to dom0 until the process ends."""

    def __init__(self, roots: Roots, channel: Channel, *, management: bool, verbose: bool = False) -> None:
        self._roots = roots
        self._channel = channel
        self._management = management
        self._verbose = verbose
        self._started_s = now_s = monotonic()
        self._sensor = Sensor(roots, management=management, now_s=now_s)
        self._boot = os.urandom(4).hex()
        self._seq = 0
        self._order = Order()
        self._history: dict[str, float] = {}
        self._state = State()
        self._written: dict[str, float] = {}
        self._written_s = -_LONGEST_S
        self._reported_s = now_s
        self._report_s = now_s + _FIRST_S
        self._last_ask = ""
        self._asker: Asker | None = None
        self._looks: Looks | None = None  # in dom0, while there is anything to look at
        self._looked_s = 0.0
        self._segments: Segments | None = None  # in dom0
        self._heard_s = now_s
        if management:
            from xenwarden_guest.vsem.segments import Segments  # noqa: PLC0415  of no use in a guest

            self._segments = Segments(roots)
        self._signals: dict[str, float] = {}
        self._trouble = ""
        self._poller = poll()
        self._polled: set[int] = set()  # the files that it waits for

    def run(self) -> NoReturn:
        """Loop for ever."""
        look_s = monotonic()
        sleeping = False  # until a packet comes
        found = 0  # looks in turn that found packets
        heard = False
        while True:
            now_s = monotonic()
            if self._channel.ready(now_s) and (heard or self._channel.pending):
                self._take(self._channel.events(now_s), now_s)
            self._log_trouble()
            if now_s >= self._report_s:
                self._report(now_s)
                look_s = now_s + PEEK_S
            elif now_s >= look_s and not sleeping:
                self._peek(now_s)
                look_s = now_s + PEEK_S
                found = 0 if self._sensor.network.quiet else found + 1
                sleeping = found < _STEADY and self._channel.fileno() >= 0
            # An idle VM is not woken each second: what comes first does that, and the look follows in time.
            files = self._sensor.network.idle_files() if sleeping else []
            sleeping = bool(files)
            next_s = self._report_s if sleeping else min(look_s, self._report_s)
            if self._looks is not None:
                self._look_at_others(self._looks, monotonic())
                next_s = min(next_s, self._looked_s + self._order.level2_s)
            if self._segments is not None:
                next_s = min(next_s, self._hear_arp(self._segments, monotonic()))
            ready = self._wait(0.0 if self._channel.pending else next_s - monotonic(), files)
            heard = self._channel.fileno() in ready
            if sleeping and not ready.isdisjoint(files):
                now_s = monotonic()
                if now_s >= look_s:
                    found = 0  # it was quiet for long enough
                look_s, sleeping = now_s + PEEK_S, False

    def _wait(self, seconds: float, files: list[int]) -> set[int]:
        """Wait for XenStore or one of these files; return which have something to say."""
        wanted = {self._channel.fileno(), *files} - {-1}
        if wanted != self._polled:
            self._poller, self._polled = poll(), wanted
            for file in wanted:
                self._poller.register(file, POLLIN)
        return {file for file, _events in self._poller.poll(max(0.0, seconds) * 1000)}

    def _interval_s(self) -> float:
        return self._order.level1_s if self._state.level == 1 else self._order.level2_s

    def _take(self, changed: set[str], now_s: float) -> None:
        """Read what dom0 wrote."""
        if paths.DOWN_HISTORY in changed:
            message = self._channel.read(paths.DOWN_HISTORY, "history", now_s)
            if message is not None:
                self._history = message.numbers()
                self._history.pop("learnt", None)
        if paths.DOWN_ORDER in changed:
            message = self._channel.read(paths.DOWN_ORDER, "order", now_s)
            if message is not None and message.seq != self._order.seq:
                self._obey(message, now_s)
                self._let_ask(read_rules(message))
        if paths.DOWN_GRANT in changed and self._asker is not None:
            self._asker.take_answer(now_s)
        if paths.DOWN_LOOK in changed and self._management:
            message = self._channel.read(paths.DOWN_LOOK, "look", now_s)
            if message is not None:
                self._obey_look(message, now_s)
        if paths.DOWN_ASK in changed:
            message = self._channel.read(paths.DOWN_ASK, "ask", now_s)
            ask_id = message.fields.get("id", "") if message is not None else ""
            if ask_id and ask_id != self._last_ask:
                self._last_ask = ask_id
                self._seq += 1
                value = report.answer(self._seq, ask_id, self._sensor.load, self._signals)
                self._channel.write(paths.UP_ANSWER, value, now_s)

    def _obey(self, message: Message, now_s: float) -> None:
        order = read_order(message)
        if order.networks != self._order.networks:
            self._sensor.network.networks = Networks(order.networks)
        self._order = order
        # A level that is ordered is taken at once, a shorter interval holds for the one that runs; but over
        # less than _FIRST_S a single packet would be a flood.
        raised = order.level == 2 and self._state.level == 1
        due_s = self._reported_s + (_FIRST_S if raised else self._interval_s())
        self._report_s = min(self._report_s, max(now_s, due_s))

    def _let_ask(self, rules: Rules) -> None:
        if self._asker is not None:
            self._asker.rules = rules
        elif rules.more:
            from xenwarden_guest.asking import Asker  # noqa: PLC0415  most VMs have no use for it

            self._asker = Asker(self._channel, rules)

    def _obey_look(self, message: Message, now_s: float) -> None:
        looks = self._looks
        if looks is None:
            from xenwarden_guest.vsem.looks import Looks  # noqa: PLC0415  of no use in a guest

            self._channel.remove(paths.UP_HEADERS_DIR, now_s)  # of an agent before this one
            self._looks, self._looked_s = (looks := Looks(self._roots)), now_s
        for node in looks.obey(message, self._sensor.network.networks, now_s):
            self._channel.remove(node, now_s)

    def _look_at_others(self, looks: Looks, now_s: float) -> None:
        """Tell what was seen of other domains where it is time."""
        if now_s >= looks.until_s:
            for node in looks.close():
                self._channel.remove(node, now_s)
            self._looks = None
            return
        if now_s < self._looked_s + self._order.level2_s:
            return
        self._looked_s = now_s
        self._seq += 1
        for node, value in looks.finish(self._seq, now_s):
            self._channel.write(node, value, now_s)

    def _hear_arp(self, segments: Segments, now_s: float) -> float:
        """Tell what ARP shows of other domains where it is time; return when it is next."""
        due_s = self._heard_s + segments.wait_s(now_s, self._order.level1_s)
        if now_s < due_s:
            return due_s
        self._heard_s = now_s
        self._seq += 1
        value = segments.look(self._seq, now_s)
        if value is not None:
            self._channel.write(paths.UP_ARP, value, now_s)
        return now_s + segments.wait_s(now_s, self._order.level1_s)

    def _peek(self, now_s: float) -> None:
        """Look at the network; report where this interval is an anomaly whatever comes."""
        # Fewer packets, of whatever class, are no anomaly by any limit.
        least = min([limit for name, limit in self._history.items() if name in SO_FAR], default=_ANY_PPS)
        if not self._sensor.peek(now_s, STRONG_FACTOR * least * self._interval_s()):
            return
        so_far = self._sensor.network.so_far(self._interval_s())
        over = over_history(so_far, self._history)
        if any(factor >= STRONG_FACTOR for factor in over.values()):
            self._report(now_s)

    def _report(self, now_s: float) -> None:
        sample = self._sensor.finish(now_s)
        if self._segments is not None and self._segments.failed:
            sample.missing.append("arp")
        self._signals = sample.signals
        before = self._state
        self._state = state = decide(before, sample.signals, self._history, self._order, now_s)
        self._sensor.network.level = state.level
        self._reported_s = now_s
        self._report_s = now_s + self._interval_s()
        if self._asker is not None:
            self._asker.look(sample.signals, now_s)
        if state.level != before.level and self._verbose:
            print(f"level={state.level} why={state.why or 'calm'} over={','.join(state.over)}", flush=True)
        if before.level == 2 and state.level == 1:
            self._channel.remove(paths.UP_DETAIL, now_s)
        # The next chance to write comes one interval later; a scheduling delay must not make it silence.
        due = now_s - self._written_s >= (_SILENCE_INTERVALS - 0.5) * self._interval_s()
        calm = state.level == before.level == 1 and not state.over and not due
        if calm and not report.changed(self._written, sample.signals, self._history):
            return
        self._seq += 1
        message = report.report(
            self._seq,
            self._own(sample, now_s),
            state=state,
            signals=sample.signals,
            load=self._sensor.load,
            missing=sample.missing,
        )
        if self._channel.write(paths.UP_REPORT, message, now_s):
            self._written = sample.signals
            self._written_s = now_s
        if state.level == 2:
            self._channel.write(
                paths.UP_DETAIL, report.detail(self._seq, sample.dests, sample.sources), now_s
            )

    def _own(self, sample: Sample, now_s: float) -> dict[str, str | float]:
        """Return the fields about the agent itself."""
        own: dict[str, str | float] = {
            "boot": self._boot,
            "interval": sample.seconds,
            "cpu_ms": process_time() * 1000,
            "up_s": now_s - self._started_s,
        }
        rss_kb = own_rss_kb(self._roots)
        if rss_kb:
            own["rss_kb"] = float(rss_kb)
        return own

    def _log_trouble(self) -> None:
        """Say once when XenStore stops or starts working, or what stands there is of another version."""
        trouble = self._channel.trouble or self._channel.foreign
        if trouble != self._trouble:
            self._trouble = trouble
            print(f"XenStore: {self._trouble or 'works again'}", flush=True)


def read_order(message: Message) -> Order:
    """Return the order that a message holds; a field that is missing or out of range keeps its default."""
    order = Order()
    order.seq = message.seq
    order.level = 2 if message.fields.get("level") == "2" else 1
    for name in ("level1_s", "level2_s", "level2_max_s"):
        value = parse_number(message.fields.get(name, ""))
        if value is not None and (name == "level2_max_s" or _SHORTEST_S <= value <= _LONGEST_S):
            setattr(order, name, value)
    order.networks = message.fields.get("networks", "")
    return order


def read_rules(message: Message) -> Rules:
    """Return what an order lets the agent ask for by itself."""
    rules = Rules()
    for what in RESOURCES:
        more = message.number(f"more_{what}")
        if more and more.is_integer():
            rules.more[what] = int(more)
    for name in ("after_s", "every_s"):
        seconds = message.number(f"more_{name}")
        if seconds is not None and seconds >= 1:
            setattr(rules, name, seconds)
    return rules


def own_rss_kb(roots: Roots) -> int:
    """Return the agent's resident memory, 0 where it cannot be read."""
    try:
        pages = roots.lines("self/statm").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") // 1024
    except (OSError, ValueError, IndexError):
        return 0

# SPDX-License-Identifier: LGPL-2.1-or-later
"""From untrusted values of a guest to records: total, bounded, and never trusting.

`parse_*` are pure. `Inbox` keeps what one domain's agent said last and how dom0 stands with it. The
receive times are dom0's own; what a guest says of time is shown and never used.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from xenwarden_channel import messages, paths, signals
from xenwarden_channel.grants import RESOURCES
from xenwarden_channel.messages import MessageError, UnknownVersionError
from xenwarden_host.records import AgentState, Answer, LimitKind, Peer, Report, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

_GUEST_SIGNALS = frozenset(signals.names(signals.VSEM, signals.VREM))
_HEX = frozenset("0123456789abcdef")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_VERSION = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-~")
_PROTOCOLS = frozenset(("tcp", "udp", "icmp"))
_MAX_LISTED = 32  # names in `over` and `missing`
_MAX_PEERS = 8  # lines of each kind in a detail
_MAX_INTERVAL_S = 3600.0
_DETAIL_FRESH_S = 15.0
_ASKS_OVER_S = 30.0  # requests are counted over so long
_MAX_ASKS = 64  # and no more of them


def parse_report(untrusted: bytes) -> Report:
    """Parse a report.

    Raises:
        MessageError: no such message, or its boot, level or interval is missing or wrong.
    """
    message = messages.parse(untrusted, "report")
    fields = message.fields
    boot = fields.get("boot", "")
    if len(boot) != 8 or not _HEX.issuperset(boot):
        raise MessageError("report without a boot of 8 hex digits")
    if fields.get("level") not in ("1", "2"):
        raise MessageError("report without level 1 or 2")
    interval_s = message.number("interval")
    if interval_s is None or not 0 < interval_s <= _MAX_INTERVAL_S:
        raise MessageError("report without an interval up to one hour")
    return Report(
        seq=message.seq,
        boot=boot,
        level=int(fields["level"]),
        why=_name(fields.get("why", "")),
        over=tuple(name for name in _names(fields.get("over", "")) if name in _GUEST_SIGNALS),
        interval_s=interval_s,
        signals=_signals(message),
        missing=_names(fields.get("missing", "")),
        agent_version=_version(fields.get("agent", "")),
        agent_rss_kb=int(message.number("rss_kb") or 0),
        agent_cpu_s=(message.number("cpu_ms") or 0.0) / 1000,
        agent_up_s=message.number("up_s") or 0.0,
        near_max=int(message.number("near_max") or 0),
        near_max_of=int(message.number("near_max_of") or 0),
    )


def parse_detail(untrusted: bytes) -> tuple[int, tuple[Peer, ...], tuple[Peer, ...]]:
    """Parse a detail to its sequence number, top destinations and top sources; bad lines are left out.

    Raises:
        MessageError: no such message.
    """
    message = messages.parse(untrusted, "detail")
    return message.seq, _peers(message.fields, "d"), _peers(message.fields, "s")


def parse_answer(untrusted: bytes) -> Answer:
    """Parse an answer to a question of reliability.

    Raises:
        MessageError: no such message, or its id or load is missing.
    """
    message = messages.parse(untrusted, "answer")
    ask_id, load_pct = message.number("id"), message.number("load_pct")
    if ask_id is None or load_pct is None:
        raise MessageError("answer without id or load_pct")
    return Answer(
        ask_id=int(ask_id),
        load_pct=load_pct,
        near_max=int(message.number("near_max") or 0),
        near_max_of=int(message.number("near_max_of") or 0),
        signals=_signals(message),
    )


def parse_request(untrusted: bytes) -> Request:
    """Parse a request for more.

    Raises:
        MessageError: no such message, or what it asks for is no resource or no amount.
    """
    message = messages.parse(untrusted, "request")
    what, request_id, more = message.fields.get("what", ""), message.number("id"), message.number("more")
    if what not in RESOURCES:
        raise MessageError("request for no resource")
    if request_id is None or not more or not more.is_integer():
        raise MessageError("request without id or amount")
    return Request(int(request_id), LimitKind(what), int(more))


def _signals(message: messages.Message) -> dict[str, float]:
    found = {}
    for name, text in message.fields.items():
        if name in _GUEST_SIGNALS and (value := messages.parse_number(text)) is not None:
            found[name] = value
    return found


def _name(text: str) -> str:
    return text if len(text) <= messages.MAX_NAME and _NAME.issuperset(text) else ""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for word in text.split(",")[:_MAX_LISTED] if (name := _name(word)))


def _version(text: str) -> str:
    return text if len(text) <= 32 and _VERSION.issuperset(text) else ""


def _peers(fields: Mapping[str, str], letter: str) -> tuple[Peer, ...]:
    found = (_peer(fields.get(f"{letter}{index}", "")) for index in range(_MAX_PEERS))
    return tuple(peer for peer in found if peer is not None)


def _peer(text: str) -> Peer | None:
    words = text.split(",")
    if len(words) != 5:
        return None
    address, protocol, port_text, pps_text, syn_text = words
    port, pps, syn_pps = (messages.parse_number(word) for word in (port_text, pps_text, syn_text))
    if port is None or pps is None or syn_pps is None or not (port.is_integer() and port <= 65535):
        return None
    try:
        # Without a scope id, which is free text.
        address = str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return None
    return Peer(address, protocol if protocol in _PROTOCOLS else "other", int(port), pps, syn_pps)


class Inbox:
    """What one domain's agent said last. One per (UUID, domid): a reused domid starts anew."""

    def __init__(self) -> None:
        self.report: Report | None = None
        self.report_received_s = 0.0
        self.report_is_new = False
        self.answer: Answer | None = None
        self.request: Request | None = None  # that stands now
        self.asked_s: deque[float] = deque(maxlen=_MAX_ASKS)  # when the last requests were read
        self.bad_values = 0
        self._fault: AgentState | None = None  # GARBLED or VERSION until a good report comes
        self._last_raw: dict[str, bytes] = {}
        self._detail: tuple[tuple[Peer, ...], tuple[Peer, ...]] = ((), ())
        self._detail_received_s = float("-inf")
        self._heard_s = 0.0  # silence counts from here
        self._handed_s: float | None = None  # when a tick last took a report
        self.passed_s = 0.0  # by then, since the one before

    def take(self, node: str, untrusted: bytes | None, now_s: float) -> bool:
        """Take the value of `node` (one of `paths.UP`) as read now; None is a node that is not there.

        Returns:
            Whether this is a report that shows level 2 where the one before did not.

        Raises:
            MessageError: the value is refused; the agent's state says so from now on.
        """
        if untrusted is None:
            self._last_raw.pop(node, None)
            if node == paths.UP_REQUEST:
                self.request = None  # withdrawn
            return False
        if self._last_raw.get(node) == untrusted:
            return False  # a resync, or an event for a write of the same
        self._last_raw[node] = untrusted[: paths.MAX_MESSAGE_BYTES + 1]
        try:
            if node == paths.UP_REPORT:
                return self._take_report(parse_report(untrusted), now_s)
            if node == paths.UP_DETAIL:
                _seq, destinations, sources = parse_detail(untrusted)
                self._detail, self._detail_received_s = (destinations, sources), now_s
                self._attach_detail(now_s)
            elif node == paths.UP_REQUEST:
                self.request = parse_request(untrusted)
                self.asked_s.append(now_s)
            else:
                self.answer = parse_answer(untrusted)
        except MessageError as error:
            self.bad_values += 1
            self._fault = AgentState.VERSION if isinstance(error, UnknownVersionError) else AgentState.GARBLED
            raise
        return False

    def _take_report(self, report: Report, now_s: float) -> bool:
        before = self.report
        if before is not None and before.boot == report.boot and report.seq <= before.seq:
            raise MessageError("sequence number repeated or went back")
        self.report = report
        self.report_received_s = self._heard_s = now_s
        self.report_is_new = True
        self._fault = None
        self._attach_detail(now_s)
        return report.level == 2 and (before is None or before.level == 1)

    def _attach_detail(self, now_s: float) -> None:
        """Put the detail beside a report of level 2, as long as it is about as fresh."""
        report = self.report
        if report is None or report.level != 2:
            return
        fresh = now_s - self._detail_received_s <= _DETAIL_FRESH_S
        destinations, sources = self._detail if fresh else ((), ())
        self.report = replace(report, destinations=destinations, sources=sources)

    def hand_over(self, now_s: float, level1_s: float) -> bool:
        """Have this tick take the report, and return whether it is new.

        Here its interval, which the agent may claim, becomes no more than has passed since a tick took
        the one before; of the first, an interval of level 1.
        """
        if self.report is None or not self.report_is_new:
            return False
        self.passed_s = level1_s if self._handed_s is None else now_s - self._handed_s
        self._handed_s = now_s
        self.report = replace(self.report, interval_s=min(self.report.interval_s, self.passed_s))
        self.report_is_new = False
        return True

    def ask_ps(self, now_s: float) -> float:
        """Return how often the VM asks for more, over the last while."""
        return sum(now_s - at_s < _ASKS_OVER_S for at_s in self.asked_s) / _ASKS_OVER_S

    def excuse(self, now_s: float) -> None:
        """Let silence count from now: dom0 itself could not listen until now."""
        self._heard_s = now_s

    def report_age_s(self, now_s: float) -> float | None:
        """Return how old the last report is, in seconds; None without one."""
        # One that arrives after a tick began, while dom0 reads its own counters, is new and not from later.
        return None if self.report is None else max(0.0, now_s - self.report_received_s)

    def state(self, now_s: float, *, level1_s: float, level2_s: float) -> AgentState:
        """Return how dom0 stands with the agent. The intervals are dom0's orders, not the guest's word."""
        if self._fault is not None:
            return self._fault
        if self.report is None:
            return AgentState.ABSENT
        # An agent that falls back to level 1 speaks again after one interval of level 1.
        allowed_s = 3 * level1_s if self.report.level == 1 else level1_s + 2 * level2_s
        return AgentState.SILENT if now_s - self._heard_s > allowed_s else AgentState.ALIVE

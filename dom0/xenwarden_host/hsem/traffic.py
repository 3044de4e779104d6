# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who floods whom on this host, by dom0's vif counters alone: no address that anyone claims is needed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from xenwarden_channel.signals import BY_DOM0, HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenwarden_host.policy.model import Neighbours

_NOISE = 8  # times a middle quarter: so far apart are the least and the most of TICKS values by chance alone
TICKS = 32  # how far back is looked: detection takes a report or two, a verdict some more
SIGNALS = ("vif_tx_pps", "vif_tx_bps", "vif_rx_pps", "vif_rx_bps")
# VSEM's signals that dom0 knows itself, once its own agent looks at the VM: by its name for them.
BY_HEADERS = {f"{BY_DOM0}{name}": name for name in HEADERS} | {
    signal: signal.removeprefix(BY_DOM0) for signal in SIGNALS
}
_LOOKED_AT = f"{BY_DOM0}{HEADERS[0]}"  # there as long as it looks


class Tick(NamedTuple):
    """One VM's traffic at one tick."""

    at_s: float
    tx_pps: float
    tx_bps: float
    rx_pps: float
    rx_bps: float


def by_headers(hrem: Mapping[str, float]) -> dict[str, float]:
    """Return what dom0 saw of the VM in VSEM's words; empty where its own agent does not look at the VM."""
    if _LOOKED_AT not in hrem:
        return {}
    return {name: hrem[signal] for signal, name in BY_HEADERS.items() if signal in hrem}


class Step(NamedTuple):
    """A rise of packets: when it began, from what, by how many, their mean size; how they swung before."""

    at_s: float
    base_pps: float
    rise_pps: float
    size_bytes: float
    swing_pps: float = 0.0


class Traffic:
    """The last ticks of one VM's vifs."""

    __slots__ = ("_headers", "ticks")

    def __init__(self) -> None:
        self.ticks: deque[Tick] = deque(maxlen=TICKS)
        self._headers: deque[tuple[float, Mapping[str, float]]] | None = None  # few VMs have them

    def add(self, now_s: float, signals: Mapping[str, float]) -> None:
        """Note a tick; one in which a counter had a gap is left out."""
        if "vif_tx_pps" in signals and "vif_rx_pps" in signals:
            tx_bps, rx_bps = signals.get("vif_tx_bps", 0.0), signals.get("vif_rx_bps", 0.0)
            self.ticks.append(Tick(now_s, signals["vif_tx_pps"], tx_bps, signals["vif_rx_pps"], rx_bps))
        if _LOOKED_AT in signals:
            if self._headers is None:
                self._headers = deque(maxlen=TICKS)
            self._headers.append((now_s, signals))

    def mean(self, signal: str, since_s: float) -> float | None:
        """Return the mean of one of SIGNALS or BY_HEADERS since then; None where nothing was counted."""
        values: list[float] = []
        if signal in SIGNALS:
            index = 1 + SIGNALS.index(signal)
            for tick in reversed(self.ticks):
                if tick.at_s <= since_s:
                    break
                values.append(tick[index])
        else:
            values = [seen[signal] for at_s, seen in self._headers or () if at_s > since_s and signal in seen]
        return sum(values) / len(values) if values else None

    def latest_rx_pps(self) -> float:
        """Return the packets delivered in the last tick."""
        return self.ticks[-1].rx_pps if self.ticks else 0.0

    def sent(self) -> Step | None:
        """Return the rise of what the VM sends, from its quiet level to its highest; None without one."""
        if len(self.ticks) < 2:
            return None
        by_rate = sorted(self.ticks, key=_tx_pps)
        base, peak = by_rate[len(by_rate) // 4], by_rate[-1]
        often, least = base.tx_pps, 0.0
        if often * 2 > peak.tx_pps:  # most of the time seen it was as now: compare with the least
            base = by_rate[0]
        if base.tx_pps * 2 > peak.tx_pps:  # never quiet: a step has next to nothing between its two levels
            middle, most = by_rate[len(by_rate) // 2].tx_pps, by_rate[len(by_rate) * 3 // 4].tx_pps
            least = _NOISE * min(middle - often, most - middle)
        rise = peak.tx_pps - base.tx_pps
        if rise <= least:
            return None
        begun_s = next(tick.at_s for tick in self.ticks if tick.tx_pps > base.tx_pps + rise / 2)
        return Step(begun_s, base.tx_pps, rise, max(0.0, peak.tx_bps - base.tx_bps) / 8 / rise)

    def received(self) -> Step | None:
        """Return the rise of what the VM receives, from its quiet level to its highest; None without one."""
        if len(self.ticks) < 2:
            return None
        by_rate = sorted(self.ticks, key=_rx_pps)
        base, peak = by_rate[len(by_rate) // 4], by_rate[-1]
        if base.rx_pps * 2 > peak.rx_pps:
            base = by_rate[0]
        return _rise(base, peak)

    def still_sends(self, sent: Step, share: float) -> bool:
        """Tell whether more than this share of a rise is there still, before any limit on packets."""
        return bool(self.ticks) and self.ticks[-1].tx_pps > sent.base_pps + share * sent.rise_pps

    def received_about(self, at_s: float, within_s: float) -> Step | None:
        """Return the rise of what the VM receives about this time; None without one."""
        before = [tick for tick in self.ticks if tick.at_s < at_s - within_s]
        about = [tick for tick in self.ticks if abs(tick.at_s - at_s) <= within_s]
        if not about:
            return None
        # What it often received before: one that jumps up and down is not flooded by whoever sends as it
        # jumps. Without any, the least of what was seen since.
        least = min(before or about, key=_rx_pps)
        base = least if len(before) < 3 else _often(before)
        return _rise(base, max(about, key=_rx_pps), base.rx_pps - least.rx_pps)


def arrives(
    sent: Step, receiver: Traffic, policy: Neighbours, at_least_pps: float | None = None
) -> Step | None:
    """Return the receiver's rise where it is the other end of the sender's; None where it is not.

    The rise is at least what the policy says, and more than the receiver's ups and downs; or, where more than
    that speaks for it, `at_least_pps`.
    """
    got = receiver.received_about(sent.at_s, policy.within_s)
    if got is None:
        return None
    least = max(policy.at_least_pps, got.swing_pps) if at_least_pps is None else at_least_pps
    if got.rise_pps < max(least, policy.share * sent.rise_pps):
        return None
    larger, smaller = max(got.size_bytes, sent.size_bytes), min(got.size_bytes, sent.size_bytes)
    return got if larger <= smaller * policy.size_times else None


_tx_pps: Callable[[Tick], float] = lambda tick: tick.tx_pps  # noqa: E731
_rx_pps: Callable[[Tick], float] = lambda tick: tick.rx_pps  # noqa: E731


def _rise(base: Tick, peak: Tick, swing_pps: float = 0.0) -> Step | None:
    rise = peak.rx_pps - base.rx_pps
    if rise <= 0:
        return None
    return Step(peak.at_s, base.rx_pps, rise, max(0.0, peak.rx_bps - base.rx_bps) / 8 / rise, swing_pps)


def _often(ticks: list[Tick]) -> Tick:
    return sorted(ticks, key=_rx_pps)[len(ticks) * 3 // 4]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM's signals: all of dom0's own counters of all domains, one batched pass per tick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xenwarden_host.hrem import backend, vbd, vif
from xenwarden_host.hrem.rates import rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from xenwarden_host.hrem.rates import Counters
    from xenwarden_host.records import DomainInfo

_BITS = ("vif_tx_bps", "vif_rx_bps")  # counted in bytes


@dataclass(slots=True)
class _Before:
    """What a domain's counters were at the last tick."""

    domid: int
    at_s: float
    cpu_time_s: float
    police_drops: int | None
    devices: list[Counters] = field(default_factory=list)


class Hrem:
    """Collect what dom0 counts of its domains. `sys_root` is `/sys`, or a fixture."""

    def __init__(self, sys_root: Path) -> None:
        self._sys_root = sys_root
        self._before: dict[str, _Before] = {}

    def collect(
        self, domains: Sequence[DomainInfo], now_s: float, police_drops: Mapping[str, int] | None = None
    ) -> dict[str, dict[str, float]]:
        """Return the signals of each domain by UUID, over the time since the last call.

        `police_drops` counts, by UUID, the packets that limits of ours dropped since they were set. A
        domain's first call gives no signals, nor does a counter that has just restarted.
        """
        collected = [collector.collect(self._sys_root) for collector in (vif, vbd, backend)]
        out: dict[str, dict[str, float]] = {}
        seen: dict[str, _Before] = {}
        for info in domains:
            drops = police_drops.get(info.uuid) if police_drops is not None else None
            devices = [found.get(info.domid, {}) for found in collected]
            now = _Before(info.domid, now_s, info.cpu_time_s, drops, devices)
            seen[info.uuid] = now
            before = self._before.get(info.uuid)
            if before is None or before.domid != info.domid or now_s <= before.at_s:
                out[info.uuid] = {}  # a domain that is new here, by creation, reboot or migration
            else:
                out[info.uuid] = _signals(before, now, info.vcpus_online)
        self._before = seen
        return out


def _signals(before: _Before, now: _Before, vcpus: int) -> dict[str, float]:
    interval_s = now.at_s - before.at_s
    signals: dict[str, float] = {}
    used_s = now.cpu_time_s - before.cpu_time_s
    if used_s >= 0 and vcpus > 0:
        # Listing and clock are not read at one instant: a little over 100 is rounding, not time.
        signals["vcpu_pct"] = min(100.0, 100.0 * used_s / interval_s / vcpus)
    for old, new in zip(before.devices, now.devices, strict=True):
        signals.update(rates(old, new, interval_s))
    for name in _BITS:
        if name in signals:
            signals[name] *= 8
    if now.police_drops is not None:
        was = before.police_drops
        # The limit was set in between: it counts from 0. Set anew, it counts from 0 again: a gap.
        if was is None or now.police_drops >= was:
            signals["vif_police_drop_pps"] = (now.police_drops - (was or 0)) / interval_s
    return signals

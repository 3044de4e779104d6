# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM's signals: all of dom0's own counters of all domains, one batched pass per tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xenwarden_host.hrem import backend, sysfs, vbd, vif
from xenwarden_host.hrem.lifetimes import Lifetimes
from xenwarden_host.hrem.rates import rates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from xenwarden_host.hrem.rates import Counters, Counts
    from xenwarden_host.records import DomainInfo

_COLLECTORS = (vif, vbd, backend)
_BITS = ("vif_tx_bps", "vif_rx_bps")  # counted in bytes


class _Device(NamedTuple):
    """One device of one collector; a disk is a device of two."""

    key: str
    path: str
    read: Callable[[sysfs.Files, str], Counts]


class _Before(NamedTuple):
    """What a domain's counters were at a tick."""

    domid: int
    at_s: float
    cpu_time_s: float
    police_drops: int | None
    devices: Counters


class Hrem:
    """Collect what dom0 counts of its domains. `sys_root` is `/sys`, or a fixture."""

    def __init__(self, sys_root: Path) -> None:
        self._sys_root = str(sys_root)
        self._files = sysfs.Files()
        self._lifetimes = Lifetimes()
        self._listed: list[list[str]] = []
        self._devices: dict[int, list[_Device]] = {}
        self._before: dict[str, _Before] = {}
        self._earlier: dict[str, _Before] = {}  # before that

    def collect(
        self, domains: Sequence[DomainInfo], now_s: float, police_drops: Mapping[str, int] | None = None
    ) -> dict[str, dict[str, float]]:
        """Return the signals of each domain by UUID, over the time since the last call.

        `police_drops` counts, by UUID, the packets that limits of ours dropped since they were set. A
        domain's first call gives no rates, nor does a counter that has just restarted.
        """
        self._find_devices()
        out = self._lifetimes.collect(domains, now_s)
        seen: dict[str, _Before] = {}
        for info in domains:
            uuid = info.uuid
            drops = police_drops.get(uuid) if police_drops is not None else None
            now = seen[uuid] = _Before(info.domid, now_s, info.cpu_time_s, drops, self._read(info.domid))
            before = self._before.get(uuid)
            # Else a domain that is new here, by creation, reboot or migration.
            if before is not None and before.domid == info.domid and now_s > before.at_s:
                out[uuid].update(_signals(before, now, info.vcpus_online))
        self._earlier, self._before = self._before, seen
        return out

    def devices(self, uuid: str) -> dict[str, dict[str, float]]:
        """Return the rates of each device of the VM over the last tick, by its name in sysfs."""
        now, before = self._before.get(uuid), self._earlier.get(uuid)
        if now is None or before is None or before.domid != now.domid or now.at_s <= before.at_s:
            return {}
        out: dict[str, dict[str, float]] = {}
        for key in now.devices.keys() & before.devices.keys():
            found = _rates({key: before.devices[key]}, {key: now.devices[key]}, now.at_s - before.at_s)
            out.setdefault(key.partition("/")[2], {}).update(found)
        return dict(sorted(out.items()))

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def _find_devices(self) -> None:
        """Look which devices there are; what follows from their names is worked out when they change."""
        directories = {
            collector.DIRECTORY: f"{self._sys_root}/{collector.DIRECTORY}" for collector in _COLLECTORS
        }
        listed = [sysfs.listing(path) for path in directories.values()]
        if listed == self._listed:
            return
        self._listed = listed
        names_in = dict(zip(directories, listed, strict=True))
        self._devices = {}
        for collector in _COLLECTORS:
            root = directories[collector.DIRECTORY]
            prefix = collector.__name__.rpartition(".")[2]
            for domid, names in collector.parse_names(names_in[collector.DIRECTORY]).items():
                self._devices.setdefault(domid, []).extend(
                    _Device(f"{prefix}/{name}", f"{root}/{name}", collector.read) for name in names
                )
        self._files.keep_only({device.path for devices in self._devices.values() for device in devices})

    def _read(self, domid: int) -> Counters:
        found = {}
        for key, path, read in self._devices.get(domid, ()):
            counters = read(self._files, path)
            if counters:
                found[key] = counters
        return found


def _signals(before: _Before, now: _Before, vcpus: int) -> dict[str, float]:
    interval_s = now.at_s - before.at_s
    signals = _rates(before.devices, now.devices, interval_s)
    used_s = now.cpu_time_s - before.cpu_time_s
    if used_s >= 0 and vcpus > 0:
        # Listing and clock are not read at one instant: a little over 100 is rounding, not time.
        signals["vcpu_pct"] = min(100.0, 100.0 * used_s / interval_s / vcpus)
    if now.police_drops is not None:
        was = before.police_drops
        # The limit was set in between: it counts from 0. Set anew, it counts from 0 again: a gap.
        if was is None or now.police_drops >= was:
            signals["vif_police_drop_pps"] = (now.police_drops - (was or 0)) / interval_s
    return signals


def _rates(before: Counters, now: Counters, interval_s: float) -> dict[str, float]:
    out = rates(before, now, interval_s)
    for name in _BITS:
        if name in out:
            out[name] *= 8
    return out

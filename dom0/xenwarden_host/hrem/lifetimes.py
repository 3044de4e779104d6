# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collector: how old each domain is, and how often its VM was started anew, from the list of domains.

A VM that crashes and is restarted in a row shows here; so does one that was made a moment ago.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_host.records import DomainInfo

SPAN_S = 3600.0  # restarts are counted over so long
_MAX_RESTARTS = 64  # counted of one VM
_MAX_VMS = 4096


class _Vm:
    __slots__ = ("domid", "restarts", "seen_s", "since_s")

    def __init__(self, domid: int, now_s: float) -> None:
        self.domid = domid
        self.since_s = now_s
        self.seen_s = now_s
        self.restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)


class Lifetimes:
    """Remember VMs by UUID, those that are gone for `SPAN_S`."""

    def __init__(self) -> None:
        self._vms: dict[str, _Vm] = {}
        self._last_s = float("-inf")

    def collect(self, domains: Sequence[DomainInfo], now_s: float) -> dict[str, dict[str, float]]:
        """Return age and restarts by UUID. A VM that migrates on this host is not restarted."""
        out = {}
        for info in domains:
            vm = self._vms.get(info.uuid)
            if vm is None:
                vm = self._vms[info.uuid] = _Vm(info.domid, now_s)
            elif vm.domid != info.domid:
                if vm.seen_s < self._last_s:  # it was away at the last look: no migration
                    vm.restarts.append(now_s)
                vm.domid, vm.since_s = info.domid, now_s
            vm.seen_s = now_s
            while vm.restarts and now_s - vm.restarts[0] > SPAN_S:
                vm.restarts.popleft()
            out[info.uuid] = {"domain_age_s": now_s - vm.since_s, "domain_restarts": float(len(vm.restarts))}
        if len(self._vms) > len(domains):
            self._forget(now_s)
        self._last_s = now_s
        return out

    def _forget(self, now_s: float) -> None:
        gone = [uuid for uuid, vm in self._vms.items() if now_s - vm.seen_s > SPAN_S]
        away = [uuid for uuid, vm in self._vms.items() if vm.seen_s < now_s]
        for uuid in {*gone, *away[: max(0, len(self._vms) - _MAX_VMS)]}:
            del self._vms[uuid]

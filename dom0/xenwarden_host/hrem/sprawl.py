# SPDX-License-Identifier: LGPL-2.1-or-later
"""Since when a VM does nothing: the idle and forgotten ones, by dom0's own counters alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.policy.model import SprawlPolicy

_MAX_VMS = 4096


class Idle:
    """When each VM (by UUID) was last busy, in seconds since 1970: this outlives the daemon and reboots."""

    def __init__(self) -> None:
        self._busy_unix_s: dict[str, float] = {}

    def note(self, signals: Mapping[str, Mapping[str, float]], policy: SprawlPolicy, unix_s: float) -> None:
        """Take a tick's signals of all VMs. A new VM counts as busy; without counters nothing changes."""
        for uuid, found in signals.items():
            traffic = found.get("vif_tx_pps", 0.0) + found.get("vif_rx_pps", 0.0)
            busy = found.get("vcpu_pct", 0.0) >= policy.cpu_pct or traffic >= policy.pps
            if busy or uuid not in self._busy_unix_s:
                self._busy_unix_s.pop(uuid, None)  # to the end of the row
                self._busy_unix_s[uuid] = unix_s
        while len(self._busy_unix_s) > max(_MAX_VMS, len(signals)):
            del self._busy_unix_s[next(iter(self._busy_unix_s))]

    def idle_s(self, uuid: str, unix_s: float) -> float:
        """Return for how long the VM has done nothing; 0 for one that is not known."""
        return max(0.0, unix_s - self._busy_unix_s.get(uuid, unix_s))

    def dump(self) -> dict[str, float]:
        """Return all of it, for `restore` after a restart."""
        return dict(self._busy_unix_s)

    def restore(self, dumped: Mapping[str, float]) -> None:
        """Take over what an earlier daemon dumped."""
        self._busy_unix_s = {uuid: float(value) for uuid, value in dumped.items()}

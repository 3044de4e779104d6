# SPDX-License-Identifier: LGPL-2.1-or-later
"""HREM found that the VM takes all it can of something, which its history does not know.

Arguments: `of` (one of those that the policy's `overflow` tells).
Fires if HREM found that now. What counts as all, for how long, and when a history knows it, is told there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_host.hsem.sight import Hit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight

_WORDS = {
    "cpu": "takes, or waits for, all the CPU of its vCPUs",
    "memory": "takes all its memory",
    "forks": "creates processes without end",
    "events": "interrupts dom0 without end",
    "disk": "keeps its disks' rings full",
    "asks": "asks for more again and again",
}
# What it is measured by: of CPU dom0's count or, where the VM has to wait, the agent's.
_SIGNALS = {
    "cpu": ("vcpu_pct",),
    "memory": ("mem_used_pct",),
    "forks": ("fork_ps",),
    "events": ("event_ps",),
    "disk": ("vbd_full_ps",),
    "asks": ("ask_ps",),
}


class Overflows:
    """All that it can, unlike itself."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._of: str = arguments["of"]
        self.signals = _SIGNALS[self._of]
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        for found in sight.vm.overflows:
            if found.of == self._of:
                known = f"its history knows {found.known_s:.0f} s of that in sum"
                told = f"{measured(found.signal, found.value)} for {found.for_s:.0f} s; {known}"
                evidence = sight.evidence(
                    found.signal, found.value, found.full, f"{_WORDS[self._of]}: {told}"
                )
                return Hit(evidence)
        return None

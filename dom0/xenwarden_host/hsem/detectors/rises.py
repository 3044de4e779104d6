# SPDX-License-Identifier: LGPL-2.1-or-later
"""Most of what came on top of the VM's ordinary traffic is of one kind.

Arguments: `signal`, `of`, `at_least` (0 to 100).
Fires if `signal` at least doubled, and its rise is at least so many times the rise of `of`: over their
means of the last ordinary reports; not where `of` fell by more than that. So a flood shows in a busy VM,
where it is a small share of the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Rises:
    """More of one kind, and of little else."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self._of: str = arguments["of"]
        self._at_least: float = arguments["at_least"]
        self.signals = (self._signal, self._of)
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        signals, before = sight.signals, sight.before
        try:
            part = signals[self._signal] - before[self._signal]
            whole = signals[self._of] - before[self._of]
        except KeyError:  # not measured now, or not in ordinary times
            return None
        # Where the rest fell by more than this rose, something else ended: that tells nothing.
        if part < before[self._signal] or part < self._at_least * whole or whole < -part:
            return None
        text = (
            f"{SIGNALS[self._signal][2]}: {amount(part)}/s more than before, and {amount(max(0.0, whole))}/s "
            f"more {SIGNALS[self._of][2]}"
        )
        return Hit(sight.evidence(self._signal, part, self._at_least * max(0.0, whole), text))

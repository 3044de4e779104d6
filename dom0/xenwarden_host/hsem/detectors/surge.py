# SPDX-License-Identifier: LGPL-2.1-or-later
"""A signal is over what is usual for the VM.

Arguments: `signal`; `times` (1).
Fires if the signal is more than `times` its usual upper limit; strength is how many times it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Surge:
    """More of one thing than is usual."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self._times: float = arguments.get("times", 1)
        self.signals = (self._signal,)
        self.corruptible = self.signals
        # Nothing to ask where the signal is not over its usual upper limit at all.
        self.gate = self._signal if self._times >= 1 else None
        self._meaning = SIGNALS[self._signal][2]

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        value, upper = sight.signals.get(self._signal), sight.upper(self._signal)
        if value is None or upper is None or value <= upper * self._times:
            return None
        usual = measured(self._signal, upper)
        text = f"{self._meaning}: {measured(self._signal, value)}, usual is up to {usual}"
        return Hit(sight.evidence(self._signal, value, upper, text), value / upper)

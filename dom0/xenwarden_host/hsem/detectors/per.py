# SPDX-License-Identifier: LGPL-2.1-or-later
"""There is much of one signal for each of another: packets for each address, for one.

Arguments: `signal`, `each` (a signal), `at_least`.
Fires if `signal` is at least so many times `each`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, amount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Per:
    """Too much of it for so few."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self._each: str = arguments["each"]
        self._at_least: float = arguments["at_least"]
        self.signals = (self._signal, self._each)
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        value, each = sight.signals.get(self._signal), sight.signals.get(self._each)
        if not value or not each or value < self._at_least * each:
            return None
        text = f"{SIGNALS[self._signal][2]}: {amount(value / each)} for each of {SIGNALS[self._each][2]}"
        return Hit(sight.evidence(self._signal, value, self._at_least * each, text))

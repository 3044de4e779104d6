# SPDX-License-Identifier: LGPL-2.1-or-later
"""A signal is above a value that policy names, whatever is usual.

Arguments: `signal`, `value`.
Fires if the signal is more than `value`, as strongly as it is times that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Above:
    """More than policy takes for ordinary."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self._value: float = arguments["value"]
        self.signals = (self._signal,)
        self.corruptible = self.signals
        self._meaning = SIGNALS[self._signal][2]

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        value = sight.signals.get(self._signal)
        if value is None or value <= self._value:
            return None
        shown = measured(self._signal, self._value)
        text = f"{self._meaning}: {measured(self._signal, value)}, ordinary is up to {shown}"
        strength = value / self._value if self._value else None
        return Hit(sight.evidence(self._signal, value, self._value, text), strength)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""A signal is unlike what it has been in the days before, up or down.

Arguments: `signal`; `times`, `per_day`, `most`; `after_s`.
Fires if the signal is off its level of the last hour, or the hour off that of the last day, by more than
`times` what it reaches `per_day` times a day; or is `most` times that value (a `most`th, where it fell). Not
before it was known for `after_s` and seen as long and as often in that time as `history` calls learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.habit import HabitKey
from xenwarden_host.hsem.sight import Hit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Unlike:
    """Not itself."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self.key = HabitKey(self._signal, arguments["times"], arguments["per_day"], arguments["most"])
        self._after_s: float = arguments["after_s"]
        self.signals = (self._signal,)
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        habit = sight.habits.get(self.key)
        if habit is None or not habit.strange:
            return None
        value = sight.signals.get(self._signal)
        if value is None or not habit.knows(self._after_s, sight.enough):
            return None
        usual = measured(self._signal, habit.usual)
        now = f"{SIGNALS[self._signal][2]}: {measured(self._signal, value)}"
        text = f"{now}, unlike the days before, when it was about {usual}"
        return Hit(sight.evidence(self._signal, value, habit.usual, text))

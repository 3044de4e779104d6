# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the VM sends, or gets, stays without an answer.

Arguments: `asked`, `answers` (signals), `at_least` (0 to 1); `unknown` (false).
Fires if `asked` minus `answers` is at least this share of `asked`, or, if
`unknown`, where `answers` is not measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit, measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Unanswered:
    """Asked for in numbers, and not answered."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._asked: str = arguments["asked"]
        self._answers: str = arguments["answers"]
        self._at_least: float = arguments["at_least"]
        self._unknown: bool = arguments.get("unknown", False)
        self.signals = (self._asked, self._answers)
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        asked, answers = sight.signals.get(self._asked), sight.signals.get(self._answers)
        if not asked:
            return None
        if not self._unknown if answers is None else asked - answers < self._at_least * asked:
            return None
        sent = f"{SIGNALS[self._asked][2]}: {measured(self._asked, asked)}"
        if answers is None:
            return Hit(sight.evidence(self._asked, asked, 0.0, sent))
        text = f"{sent}; {SIGNALS[self._answers][2]}: only {measured(self._answers, answers)}"
        return Hit(sight.evidence(self._answers, answers, asked * (1 - self._at_least), text))

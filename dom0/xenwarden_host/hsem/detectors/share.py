# SPDX-License-Identifier: LGPL-2.1-or-later
"""One signal is a large part of another.

Arguments: `signal`, `of`, `at_least` (0 to 1).
Fires if `signal` is at least this share of `of`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.hsem.sight import Hit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.hsem.sight import Sight


class Share:
    """Most of it is of one kind."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._signal: str = arguments["signal"]
        self._of: str = arguments["of"]
        self._at_least: float = arguments["at_least"]
        self.signals = (self._signal, self._of)
        self.corruptible = self.signals

    def check(self, sight: Sight) -> Hit | None:
        """Return the hit where it fires on what is seen now."""
        part, whole = sight.signals.get(self._signal), sight.signals.get(self._of)
        if part is None or not whole or part < self._at_least * whole:
            return None
        # Both are estimates: a part may come out larger than its whole.
        percent = 100 * min(1.0, part / whole)
        kind = SIGNALS[self._signal][2].removesuffix(" sent").removesuffix(" received")
        shown = f"{percent:.0f} % of {SIGNALS[self._of][2]} are {kind}"
        return Hit(sight.evidence(self._signal, part, self._at_least * whole, shown))

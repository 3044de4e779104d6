# SPDX-License-Identifier: LGPL-2.1-or-later
"""Time, real and fake."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def unix(self) -> float:
        """Return seconds since 1970."""
        return time.time()


class FakeClock:
    """A clock that stands still until `advance`."""

    def __init__(self, monotonic_s: float = 1000.0, unix_s: float = 1_700_000_000.0) -> None:
        self._monotonic_s = monotonic_s
        self._unix_s = unix_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._monotonic_s += seconds
        self._unix_s += seconds

    def monotonic(self) -> float:
        """Return the fake monotonic time."""
        return self._monotonic_s

    def unix(self) -> float:
        """Return the fake time since 1970."""
        return self._unix_s

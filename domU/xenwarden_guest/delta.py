# SPDX-License-Identifier: LGPL-2.1-or-later
"""Differences of counters that may restart, jump or be missing; pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# More than any real VM does in a second: 2^40 bytes are 1 TB. A larger step is a counter that was
# replaced (migration, a driver reloaded), not something that happened.
_ABSURD_PER_S = float(1 << 40)


def step(before: Mapping[str, int], after: Mapping[str, int], name: str, seconds: float) -> int | None:
    """Return how far a counter went; None where it is missing, went back or jumped (a gap, not a zero)."""
    old = before.get(name)
    new = after.get(name)
    if old is None or new is None or seconds <= 0 or not 0 <= new - old <= _ABSURD_PER_S * seconds:
        return None
    return new - old


def rates(
    before: Mapping[str, int],
    after: Mapping[str, int],
    names: Mapping[str, str],
    seconds: float,
    scale: float = 1.0,
) -> dict[str, float]:
    """Return the steps per second, times `scale`, of `names` (signal to counter); gaps are left out."""
    found = {}
    for signal, counter in names.items():
        moved = step(before, after, counter, seconds)
        if moved is not None:
            found[signal] = moved * scale / seconds
    return found

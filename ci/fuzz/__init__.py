# SPDX-License-Identifier: LGPL-2.1-or-later
"""Coverage-guided fuzzing, one module per group; the corpus is replayed by the tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def require(condition: bool, what: str) -> None:
    """Raise where a promise is broken."""
    if not condition:
        raise AssertionError(what)

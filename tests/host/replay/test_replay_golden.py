# SPDX-License-Identifier: LGPL-2.1-or-later
"""The core decides on each golden recording as it did when its expectation was read and agreed to."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import pytest
from golden_runs import GOLDEN, transitions

if TYPE_CHECKING:
    from pathlib import Path

RECORDINGS = sorted(GOLDEN.glob("*.jsonl"))


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_core_decides_as_agreed(recording: Path) -> None:
    expected = recording.with_suffix(".expected").read_text()
    decided = transitions(recording)
    difference = "".join(
        difflib.unified_diff(
            expected.splitlines(keepends=True),
            decided.splitlines(keepends=True),
            "agreed",
            "decided now",
            n=2,
        )
    )
    assert not difference, f"\n{difference}\nif this is right: see golden_runs.py"


def test_there_are_golden_runs() -> None:
    assert RECORDINGS

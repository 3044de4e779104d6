# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plays a scenario for a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenlab import load, runner

if TYPE_CHECKING:
    from pathlib import Path

    from xenlab.moments import Outcome


PATIENCE = 4.0  # what comes late is a figure that is not met, not a run that failed


def play(scenario: Path) -> Outcome:
    """Return what was seen; ends the process where the scenario did not come true."""
    outcome, _ = runner.run(load.load(scenario), patience=PATIENCE)
    if outcome.failures:
        raise SystemExit(f"ci/bench: {scenario.stem} did not come true: " + "; ".join(outcome.failures))
    return outcome

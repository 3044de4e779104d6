# SPDX-License-Identifier: LGPL-2.1-or-later
"""What HREM's look at three guests costs on real Xen, beside xentop's in the same run."""

from __future__ import annotations

from pathlib import Path

from benchmarks._play import play
from benchmarks.figures import Figure, figure

SCENARIO = Path(__file__).with_suffix(".yaml")
TIMES = 3.0


def run() -> list[Figure]:
    """Measure; about two minutes where images and snapshot exist."""
    outcome = play(SCENARIO)
    return [
        figure(
            "xentop.look_at_three_guests",
            outcome.figure({"of": "hrem_ms", "take": "last"}),
            "ms CPU",
            peer="xentop -b -d 5",
            peer_value=outcome.figure({"of": "xentop_ms", "take": "last"}),
            at_most=TIMES,
        )
    ]

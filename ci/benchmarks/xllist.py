# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon does for a `xenwarden list` on real Xen, beside what `xl list` takes."""

from __future__ import annotations

from pathlib import Path

from benchmarks._play import play
from benchmarks.figures import Figure, figure

SCENARIO = Path(__file__).with_suffix(".yaml")


def run() -> list[Figure]:
    """Measure; about three minutes where images and snapshot exist."""
    outcome = play(SCENARIO)
    return [
        figure(
            "xllist.list_in_the_daemon",
            outcome.figure({"of": "daemon_ms", "take": "last"}),
            "ms CPU",
            peer="xl list",
            peer_value=outcome.figure({"of": "xl_ms", "take": "last"}),
            at_most=1.0,
        )
    ]

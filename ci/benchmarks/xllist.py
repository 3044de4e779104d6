# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `xenwarden list` costs on real Xen: in the daemon beside `xl list`, in itself beside a bare Python."""

from __future__ import annotations

from pathlib import Path

from benchmarks._play import play
from benchmarks.figures import Figure, figure

SCENARIO = Path(__file__).with_suffix(".yaml")


def run() -> list[Figure]:
    """Measure; about three minutes where images and snapshot exist."""
    outcome = play(SCENARIO)
    ms = {
        name: outcome.figure({"of": f"{name}_ms", "take": "last"})
        for name in ("daemon", "list", "xl", "bare")
    }
    return [
        figure(
            "xllist.in_the_daemon", ms["daemon"], "ms CPU", peer="xl list", peer_value=ms["xl"], at_most=1.0
        ),
        figure(
            "xllist.command",
            ms["list"],
            "ms CPU",
            peer="python3 -I -c pass",
            peer_value=ms["bare"],
            at_most=1.5,
        ),
    ]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The foundation's promises on real Xen: how soon a lab starts, how soon and how well an attack is met.

Runs the demo twice (the first run may have to build images and a snapshot, the second has both) and
the control run in which the attacker only spins its CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks._play import play
from benchmarks.figures import Figure, figure
from xenlab import cli

if TYPE_CHECKING:
    from xenlab.moments import Outcome

WINDOW = {"take": "median", "for": 15}
AGAIN_S, START_S, LIMITS_S, VERDICT_S = 240.0, 10.0, 10.0, 30.0


def run() -> list[Figure]:
    """Measure; about ten minutes, half of that where images and snapshot exist."""
    files = [cli.SCENARIOS / f"{name}.yaml" for name in ("demo", "demo", "control-cpu")]
    _first, demo, control = map(play, files)
    flood = _since(demo, "flood", 0)
    victim = {"of": "victim_packets", "take": "rate"}
    speed = {"of": "bystander_speed", **WINDOW}
    standing = [
        (vm, what) for vm, limits in demo.before.items() for what in set(limits) | set(demo.after.get(vm, {}))
    ]
    restored = sum(demo.before[vm].get(what) == demo.after.get(vm, {}).get(what) for vm, what in standing)
    return [
        _seconds("demo_again", demo.timings["total_s"], AGAIN_S),
        _seconds("start_from_snapshot", demo.timings["until_steps_s"], START_S),
        _seconds("limits_after", _since(demo, "mallory.limited", flood), LIMITS_S),
        _seconds("verdict_after", _since(demo, "mallory.verdict", flood), VERDICT_S),
        figure(
            "lab.victim_packets_contained",
            demo.figure({**victim, "from": "mallory.verdict", "delay": 2, "for": 15}),
            "packets/s",
            peer="before the first limit",
            peer_value=demo.figure({**victim, "from": "flood", "to": "mallory.limited"}),
            at_most=0.1,
        ),
        figure(
            "lab.bystander_speed",
            demo.figure({**speed, "from": "mallory.verdict"}) / 1000,
            "kB/s",
            peer="control run",
            peer_value=control.figure({**speed, "from": "spin"}) / 1000,
            at_least=0.8,
        ),
        figure(
            "lab.limits_restored",
            restored,
            "settings",
            peer="settings before",
            peer_value=len(standing),
            at_least=1,
        ),
    ]


def _since(outcome: Outcome, moment: str, start: float) -> float:
    at = outcome.moment(moment)
    if at is None:
        raise SystemExit(f"ci/bench lab: {moment} never came")
    return at - start


def _seconds(name: str, value: float, limit: float) -> Figure:
    return figure(f"lab.{name}", value, "s", peer="limit", peer_value=limit, at_most=1)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the golden recordings whose names begin with `simulated-`, from the stories of `tests/host/hsem`.

    .venv/bin/python -m golden_simulated        (in tests/host/replay, with tests/host/hsem on PYTHONPATH)

Real ones are made in the lab by `xenwarden record`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from golden_runs import GOLDEN
from simulate import Flood, Host, SimVm

from xenwarden_host.replay.recorder import Recorder

if TYPE_CHECKING:
    from xenwarden_host.records import Action, Snapshot


def crowd(t: float) -> dict[str, float]:
    """Many visitors at once."""
    rate = 900.0 if 20 < t <= 50 else 5.0
    return {"rx_syn_pps": rate, "tx_synack_pps": rate, "rx_pps": 8 * rate, "tx_pps": 9 * rate}


def from_outside(t: float) -> dict[str, float]:
    """What reaches a VM that no neighbour floods."""
    rate = 900.0 if 10 < t <= 40 else 1.0
    return {"rx_syn_pps": rate, "rx_pps": 10 + rate, "rx_bps": 40e3 + 480 * rate, "tx_synack_pps": rate,
            "tx_pps": 10 + rate, "tx_bps": 40e3 + 480 * rate}  # fmt: skip


STORIES = {
    "syn-flood": (
        Host(
            SimVm("m"), SimVm("v"), SimVm("b"), floods=(Flood("m", "v", "syn", 1000, 10, 45, answered=0.9),)
        ),
        100,
    ),
    "three-below-their-own-threshold": (
        Host(
            *(SimVm(name) for name in ("a", "b", "c", "v")),
            floods=tuple(Flood(name, "v", "syn", 90, 10, 60, answered=0.2) for name in ("a", "b", "c")),
        ),
        80,
    ),
    "flood-from-outside": (
        Host(
            SimVm("v", script=from_outside),
            *map(SimVm, ("a", "b", "c")),
            floods=tuple(Flood(name, "v", "syn", 30, 10, 60, answered=0.9) for name in ("a", "b", "c")),
        ),
        90,
    ),
    "flash-crowd": (Host(SimVm("web", script=crowd), SimVm("b")), 80),
    "agent-killed-during-flood": (
        Host(SimVm("m", silent_from_s=12), SimVm("v"), floods=(Flood("m", "v", "udp", 3000, 10, 50),)),
        100,
    ),
}


def record(host: Host, seconds: int) -> str:
    """Run the story and return its recording."""
    recorder = Recorder(host.now_s, 1.7e9 + host.now_s, {}, {}, {})
    lines = [recorder.header()]
    decide = host.hsem.decide

    def tapped(snapshot: Snapshot) -> list[Action]:
        lines.extend(recorder.tick(snapshot))
        return decide(snapshot)

    host.hsem.decide = tapped  # type: ignore[method-assign]
    host.run(seconds)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for story, (host, seconds) in STORIES.items():
        (GOLDEN / f"simulated-{story}.jsonl").write_text(record(host, seconds))

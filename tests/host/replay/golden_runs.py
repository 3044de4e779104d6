# SPDX-License-Identifier: LGPL-2.1-or-later
"""Golden runs: recordings in `golden/`, and beside each what the core is to decide on it.

    .venv/bin/python tests/host/replay/golden_runs.py NAME.jsonl...

writes `NAME.expected` anew for the recordings named; read the difference in git before you commit it.
A recording may have a policy of its own, `NAME.yaml`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from xenwarden_host.policy.load import load
from xenwarden_host.replay.replay import Replay

GOLDEN = Path(__file__).parent / "golden"


def transitions(recording: Path) -> str:
    """Return what the core decides on a recording, one line for each event, without its sentences."""
    policy = recording.with_suffix(".yaml")
    lines = []
    with recording.open("rb") as file:
        for event in Replay(load(policy if policy.exists() else None)).run(file, recording.name):
            match event["event"]:
                case "level":
                    what = str(event["level"])
                case "limit":
                    what = f"{event['kind']} {event['value']}{' provisional' if event['provisional'] else ''}"
                case "lift":
                    what = event["kind"]
                case "state":
                    what = f"{event['old']} -> {event['new']}"
                case "verdict":
                    what = event["verdict"] + (" and victim" if event["also_victim"] else "")
                case _:
                    what = ", ".join(event["rules"])
            lines.append(f"{event['t']:.1f} {event['name']} {event['event']}: {what}\n")
    return "".join(lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = GOLDEN / Path(name).name
        path.with_suffix(".expected").write_text(transitions(path))

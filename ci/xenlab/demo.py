# SPDX-License-Identifier: LGPL-2.1-or-later
"""`ci/demo`: run the main scenario and tell it in plain words, live, and in a table at the end."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenlab import cli, load, progress, results, runner
from xenlab.errors import LabError

PATIENCE = 3.0  # on a slow machine the demo tells the same story later; `./ci/bench lab` judges how soon

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenlab.moments import Outcome

EPILOG = """examples:
  ./ci/demo
  ./ci/demo --json demo.json
exit status: 0 everything came true, 1 something did not, 130 interrupted"""


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="ci/demo",
        description="Boot real Xen, have one guest attack another, and watch xenwarden deal with it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result, as `ci/lab run` does")
    cli.add_accel(parser)
    arguments = parser.parse_args(argv)
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"there is no directory {arguments.json.absolute().parent}")
    return cli.guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    scenario = load.load(cli.SCENARIOS / "demo.yaml")
    outcome, _lab = runner.run(scenario, accelerator=arguments.accel, patience=PATIENCE, on_event=_tell)
    if arguments.json:
        results.write_json(arguments.json, [outcome], as_list=False)
    print(summary(outcome))
    return 1 if outcome.failures else 0


def _tell(event: dict[str, Any]) -> None:
    progress.say(f"t={event['t_s']:.1f}    xenwarden: {event['text']}")


def summary(outcome: Outcome) -> str:
    """Return the table and the figures of one run of the main scenario."""
    rows = [("VM", "Verdict", "Level 2 at", "Limits set", "Verdict at", "Released at", "Why")]
    for name, guest in sorted(outcome.guests.items(), key=lambda item: item[0] == "dom0"):  # dom0 last
        # What came before the first step is the boot's, which the snapshot holds.
        level2 = next((x["t_s"] for x in guest["levels"] if x["level"] == 2 and x["t_s"] >= 0), None)
        kinds = dict.fromkeys(limit["kind"] for limit in guest["limits"])
        rows.append(
            (
                name,
                guest["verdict"] or "never raised" if level2 is None else guest["verdict"] or "none",
                _seconds(level2),
                ", ".join(kinds) or "none",
                _seconds(guest["verdict_t_s"]),
                _seconds(guest["released_t_s"]),
                guest["why"],
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = [*lines, ""] if outcome.guests else []  # nothing was seen if the lab did not start
    lines += [f"{text}." for text in _figures(outcome)]
    lines += [*(f"FAILED: {failure}" for failure in outcome.failures)]
    lines.append(
        "Not everything came true."
        if outcome.failures
        else "All came true: the attacker was limited, judged and released; nobody else was touched."
    )
    return "\n".join(lines)


def _figures(outcome: Outcome) -> Iterable[str]:
    """Tell how soon and how much, as far as it came to that."""
    moments = [outcome.moment(name) for name in ("flood", "mallory.limited", "mallory.verdict")]
    if None not in moments:
        flood, limited, verdict = (m for m in moments if m is not None)
        yield f"After the flood began: first limit {limited - flood:.1f} s, verdict {verdict - flood:.1f} s"
    before = {"of": "victim_packets", "take": "rate", "from": "flood", "to": "mallory.limited"}
    after = {"of": "victim_packets", "take": "rate", "from": "mallory.verdict", "delay": 2, "for": 15}
    with contextlib.suppress(LabError):  # a run that ended early has no such numbers
        flooded, contained = outcome.figure(before), outcome.figure(after)
        yield f"Packets to victim: {flooded:.0f}/s in the flood, {contained:.0f}/s once mallory was contained"


def _seconds(t_s: float | None) -> str:
    return "-" if t_s is None else f"{t_s:.1f} s"


if __name__ == "__main__":
    sys.exit(main())

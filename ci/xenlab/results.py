# SPDX-License-Identifier: LGPL-2.1-or-later
"""A run's result as JSON and as JUnit XML. The shape of the JSON is told in ci/README.md."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xenlab.moments import Outcome


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the result of one scenario, as `--json` writes it."""
    return {
        "scenario": outcome.scenario,
        "description": outcome.description,
        "passed": not outcome.failures,
        "failures": outcome.failures,
        "emulator_faults": outcome.emulator_faults,
        "host": outcome.host,
        "timings": {name: round(value, 2) for name, value in outcome.timings.items()},
        "guests": {name: guest for name, guest in outcome.guests.items() if name != "dom0"},
        "dom0": outcome.guests.get("dom0"),
        "daemon": outcome.daemon,
        "steps": outcome.steps,
        "saved": outcome.saved,
        "limits_before": outcome.before,
        "limits_after": outcome.after,
    }


def write_json(path: Path, outcomes: Sequence[Outcome], *, as_list: bool) -> None:
    """Write one result, or a list where several scenarios were asked for."""
    results = [as_dict(o) for o in outcomes]
    path.write_text(json.dumps(results if as_list else results[0], indent=1) + "\n")


def write_junit(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write JUnit XML: one test case for each scenario."""
    suite = ET.Element(
        "testsuite",
        name="xenwarden lab",
        tests=str(len(outcomes)),
        failures=str(sum(bool(o.failures) for o in outcomes)),
        time=f"{sum(o.timings.get('total_s', 0) for o in outcomes):.1f}",
    )
    for outcome in outcomes:
        case = ET.SubElement(
            suite,
            "testcase",
            classname="lab",
            name=outcome.scenario,
            time=f"{outcome.timings.get('total_s', 0):.1f}",
        )
        if outcome.failures:
            failure = ET.SubElement(case, "failure", message=outcome.failures[0])
            failure.text = "\n".join(outcome.failures)
    ET.indent(suite)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)

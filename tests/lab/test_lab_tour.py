# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README's tour is what the lab plays: the same commands, and output of the form that is expected."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "dom0# "


def tour() -> list[tuple[str, str]]:
    """Return the commands of the README's tour, each with what it prints."""
    text = (ROOT / "README.md").read_text()
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in block.split(PROMPT)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.rstrip("\n")))
    return found


def played() -> list[tuple[str, str]]:
    """Return what the scenario's admin types, each with what is expected to be printed."""
    scenario = yaml.safe_load((ROOT / "ci/scenarios/tour.yaml").read_text())
    return [(step["run"], step.get("expect_output", "")) for step in scenario["steps"] if "say" in step]


def test_the_tour_has_the_commands_that_the_lab_plays_and_shows_what_it_expects() -> None:
    assert [command for command, _output in tour()] == [command for command, _expected in played()]
    for (command, output), (_command, expected) in zip(tour(), played(), strict=True):
        assert re.search(expected, output, re.MULTILINE), command

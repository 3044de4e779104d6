# SPDX-License-Identifier: LGPL-2.1-or-later
"""A scenario file is read whole, and every mistake in one is told with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from xenlab import cli, load
from xenlab.errors import ScenarioError

if TYPE_CHECKING:
    from pathlib import Path

    from xenlab.scenario import Scenario

SMALLEST = "guests: [{name: a}]\nsteps: [{run: 'true'}]\n"


def read(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return load.load(path)


def complaint(tmp_path: Path, text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, text)
    return caught.value.message.replace(str(tmp_path) + "/", "")


def test_what_is_not_given_has_the_documented_default(tmp_path: Path) -> None:
    scenario = read(tmp_path, SMALLEST)
    host, (guest,) = scenario.machine.host, scenario.machine.guests
    assert scenario.name == "case"
    assert (host.scheduler, host.xenstored, host.init, host.xenwarden) == (
        "credit",
        "xenstored",
        "fast",
        True,
    )
    assert host.policy is None
    assert (guest.type, guest.vcpus, guest.agent, len(guest.vifs)) == ("pv", 1, True, 1)


def test_guests_get_addresses_in_their_order_and_a_uuid_of_their_name(tmp_path: Path) -> None:
    one = read(tmp_path, "guests: [{name: a}, {name: b, vifs: [{}, {rate: 10Mb/s}]}]\nsteps: [{pause: 0}]\n")
    two = read(tmp_path, "guests: [{name: b}, {name: a}]\nsteps: [{pause: 0}]\n")
    a, b = one.machine.guests
    assert (a.address(0), b.address(0), b.address(1)) == ("10.0.0.10", "10.0.0.11", "10.0.1.11")
    assert len({a.mac(0), b.mac(0), b.mac(1)}) == 3
    assert b.vifs[1].rate == "10Mb/s"
    assert {g.name: g.uuid for g in one.machine.guests} == {g.name: g.uuid for g in two.machine.guests}
    assert a.uuid != b.uuid


def test_host_options_and_policy_are_taken(tmp_path: Path) -> None:
    text = (
        "host: {scheduler: credit2, xenstored: oxenstored, init: systemd, memory: 700, policy: {x: {y: 1}}}\n"
    )
    host = read(tmp_path, text + SMALLEST).machine.host
    assert (host.scheduler, host.xenstored, host.init, host.memory_mb) == (
        "credit2",
        "oxenstored",
        "systemd",
        700,
    )
    assert host.policy == {"x": {"y": 1}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALLEST + "stesp: []\n", "case.yaml:3: unknown key 'stesp', did you mean 'steps'?"),
        ("guests: [{name: a}]\n", "case.yaml:1: expected key 'steps', which is missing"),
        ("guests: []\nsteps: [{pause: 1}]\n", "case.yaml:1: guests: expected"),
        (
            "guests:\n  - {name: a, type: hvm}\nsteps: [{pause: 1}]\n",
            "case.yaml:2: guests.0.type: expected one of pv, pvh",
        ),
        (
            "guests:\n  - {name: a}\n  - {name: a}\nsteps: [{pause: 1}]\n",
            "case.yaml:3: the name 'a' is given twice",
        ),
        (
            "guests: [{name: dom0}]\nsteps: [{pause: 1}]\n",
            "case.yaml:1: guests.0.name: expected a name of letters",
        ),
        ("guests: [{name: a}]\nsteps:\n  - in: a\n", "case.yaml:3: expected one of run, until"),
        ("guests: [{name: a}]\nsteps:\n  - {run: x, stop: y}\n", "case.yaml:3: expected one of run, until"),
        (
            "guests: [{name: mallory}]\nsteps:\n  - run: x\n    in: malory\n",
            "case.yaml:4: no guest is named 'malory', did you mean 'mallory'?",
        ),
        (
            "guests: [{name: a}]\nsteps:\n  - {name: flood, run: x}\n  - stop: flood\n",
            "case.yaml:4: no background step before this one is named 'flood'",
        ),
        (
            "guests: [{name: a}]\nsteps:\n  - {run: x, background: true}\n",
            "case.yaml:3: a background step needs a name",
        ),
        (
            "guests: [{name: a}]\nsteps:\n  - {pause: 1, in: a}\n",
            "case.yaml:3: 'in' does not go with 'pause'",
        ),
        (
            "guests: [{name: a}]\nsteps:\n  - {pause: 1, at: 1, after: 1}\n",
            "case.yaml:3: expected `at` or `after`",
        ),
        ("guests: [{name: a}]\nsteps:\n  - reboot: dom0\n", "case.yaml:3: reboot needs `init: systemd`"),
        (SMALLEST + "expect:\n  guests:\n    b: {verdict: attacker}\n", "case.yaml:5: no guest is named 'b'"),
        (
            SMALLEST + "expect:\n  guests:\n    a: {verdict: atacker}\n",
            "case.yaml:5: expect.guests.a.verdict: expected one of attacker",
        ),
        (SMALLEST + "expect:\n  since: nowhere\n", "case.yaml:4: no step is named 'nowhere'"),
        (
            SMALLEST + "expect:\n  figures:\n    - {left: {of: speed, take: median}, is: <, right: 1}\n",
            "case.yaml:5: no `save_as` of a step is named 'speed'",
        ),
        ("guests: [{name: a}\n", "case.yaml:2: is no valid YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert complaint(tmp_path, text).startswith(told)


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        load.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(cli.SCENARIOS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_scenarios_that_ship_are_well_formed(path: Path) -> None:
    scenario = load.load(path)
    assert scenario.name == path.stem
    assert scenario.description.endswith(".")


def test_list_names_each_scenario_with_its_guests(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    printed = capsys.readouterr().out
    for path in cli.SCENARIOS.glob("*.yaml"):
        assert f"{path.stem}: " in printed
    assert "mallory (pvh)" in printed
    assert "no agent" in printed


def test_a_bad_file_is_told_before_anything_is_booted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("guests: 3\n")
    assert cli.main(["run", str(cli.SCENARIOS / "demo.yaml"), str(bad)]) == 2
    assert f"{bad}:1: " in capsys.readouterr().err


def test_run_without_a_scenario_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run"]) == 2
    assert "--all" in capsys.readouterr().err

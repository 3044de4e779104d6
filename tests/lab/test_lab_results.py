# SPDX-License-Identifier: LGPL-2.1-or-later
"""What came of a run is judged by what the scenario expects, and written as documented."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

from xenlab import demo, expect, results
from xenlab.moments import Outcome

if TYPE_CHECKING:
    from pathlib import Path


def guest(**changed: Any) -> dict[str, Any]:
    return {
        "domid": 1,
        "uuid": "395ac010-373e-50a6-9f8b-76631337457f",
        "type": "pv",
        "state": "normal",
        "verdict": None,
        "also_victim": False,
        "why": "",
        "levels": [],
        "limits": [],
        "verdict_t_s": None,
        "released_t_s": None,
        "agent": None,
        **changed,
    }


ATTACKER = guest(
    verdict="attacker",
    levels=[{"t_s": 7.0, "level": 2}, {"t_s": 80.0, "level": 1}],
    limits=[
        {"t_s": 9.0, "kind": "vif-pps/syn", "value": 99, "original": None},
        {"t_s": 25.0, "kind": "vif-pps/syn", "value": 10, "original": None},
    ],
    verdict_t_s=24.0,
    released_t_s=81.0,
)


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(
        "case",
        "",
        timings={"setup_s": 1.0, "boot_s": 2.0, "total_s": 90.0},
        guests={"mallory": ATTACKER, "victim": guest(verdict="victim", verdict_t_s=30.0)},
        steps=[{"name": "flood", "in": "mallory", "t_s": 5.0}],
        saved={"packets": [(float(t), 100.0 * t if t < 24 else 2400.0 + t) for t in range(60)]},
        before={"mallory": {"scheduler": "256 0", "rate of vif 0": ""}},
        after={"mallory": {"scheduler": "256 0", "rate of vif 0": ""}},
    )


def failures(outcome: Outcome, **wanted: Any) -> list[str]:
    return expect.failures({"since": "flood", "guests": {"mallory": wanted}}, outcome)


@pytest.mark.parametrize(
    "wanted",
    [
        {"verdict": "attacker"},
        {"also_victim": False},
        {"verdict_within": 19},
        {"limits_within": 4},
        {"limited": True},
        {"limited_at_most": 72},
        {"raised_at_most": 73},
        {"limits": ["vif-pps"]},
        {"limits": ["vif-pps/syn"]},
        {"no_limits": ["cap", "vif-rate", "vif-pps/udp"]},
        {"level2": True},
        {"released": True},
        {"restored": True},
    ],
)
def test_what_came_true_is_no_failure(outcome: Outcome, wanted: dict[str, Any]) -> None:
    assert failures(outcome, **wanted) == []


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"verdict": "victim"}, "mallory: verdict is attacker, expected victim"),
        ({"verdict": "none"}, "mallory: verdict is attacker, expected none"),
        ({"verdict": "unconvicted"}, "mallory: verdict is attacker, expected unconvicted"),
        ({"also_victim": True}, "mallory: also_victim is False, expected True"),
        ({"verdict_within": 18}, "mallory: verdict came after 19.0 s, expected within 18 s"),
        ({"limits_within": 3}, "mallory: first limit came after 4.0 s, expected within 3 s"),
        ({"limited": False}, "mallory: limits set: vif-pps/syn, expected none"),
        ({"limits": ["cap"]}, "mallory: no limit of kind cap was set; limits set: vif-pps/syn"),
        ({"limits": ["vif"]}, "mallory: no limit of kind vif was set; limits set: vif-pps/syn"),
        ({"no_limits": ["vif-pps"]}, "mallory: a limit of kind vif-pps was set"),
        ({"limited_at_most": 71}, "mallory: was limited for 72.0 s, expected at most 71 s"),
        ({"raised_at_most": 72}, "mallory: was at level 2 for 73.0 s, expected at most 72 s"),
        ({"level2": False}, "mallory: level 2 was reached"),
        ({"released": False}, "mallory: was released by the end"),
    ],
)
def test_what_did_not_come_true_is_a_sentence(outcome: Outcome, wanted: dict[str, Any], told: str) -> None:
    (failure,) = failures(outcome, **wanted)
    assert failure.startswith(told)


def test_times_count_from_the_first_step_where_no_step_is_named(outcome: Outcome) -> None:
    wanted = {"guests": {"mallory": {"limits_within": 8}}}
    assert expect.failures(wanted, outcome) == ["mallory: first limit came after 9.0 s, expected within 8 s"]


def test_patience_stretches_deadlines_and_nothing_else(outcome: Outcome) -> None:
    wanted = {"guests": {"mallory": {"limits_within": 8, "verdict_within": 12, "verdict": "victim"}}}
    assert expect.failures(wanted, outcome, patience=2) == ["mallory: verdict is attacker, expected victim"]


def test_the_demos_end_tells_how_soon_and_how_much(outcome: Outcome) -> None:
    outcome.saved["victim_packets"] = outcome.saved["packets"]
    told = demo.summary(outcome)
    assert "After the flood began: first limit 4.0 s, verdict 19.0 s." in told
    assert "Packets to victim: 100/s in the flood, 1/s once mallory was contained." in told
    outcome.steps.clear()
    assert "After the flood began" not in demo.summary(outcome)


def test_a_verdict_that_never_came_is_not_within_any_time(outcome: Outcome) -> None:
    outcome.guests["mallory"] = guest()
    assert failures(outcome, verdict_within=99) == ["mallory: verdict never came, expected within 99 s"]
    assert failures(outcome, verdict="unconvicted") == []
    assert failures(outcome, verdict="none") == []


def test_what_lasts_to_the_end_is_not_over_in_any_time(outcome: Outcome) -> None:
    outcome.guests["mallory"] = guest()
    assert failures(outcome, limited_at_most=0, raised_at_most=0) == []
    outcome.guests["mallory"] = {**ATTACKER, "released_t_s": None, "levels": [{"t_s": 7.0, "level": 2}]}
    assert failures(outcome, limited_at_most=99, raised_at_most=99) == [
        "mallory: limits were never lifted, expected within 99 s",
        "mallory: is at level 2 since t=7.0, expected for at most 99 s",
    ]


def test_a_limit_that_is_not_as_it_was_is_named(outcome: Outcome) -> None:
    outcome.after["mallory"] = {"scheduler": "256 50", "ingress filters of vif 0": "police"}
    told = failures(outcome, restored=True)
    assert "mallory: scheduler is '256 50' at the end, was '256 0' at first" in told
    assert any("ingress filters of vif 0 is 'police' at the end" in text for text in told)
    assert any("rate of vif 0" in text for text in told)


def test_a_guest_that_is_gone_is_told(outcome: Outcome) -> None:
    assert expect.failures({"guests": {"eve": {"limited": False}}}, outcome) == [
        "eve was not there at the end"
    ]


def figure(outcome: Outcome, **changed: Any) -> list[str]:
    left = {"of": "packets", "take": "rate", "from": "mallory.verdict", "for": 15}
    right = {"of": "packets", "take": "rate", "from": "flood", "to": "mallory.limited", "times": 0.1}
    return expect.failures(
        {"figures": [{"name": "fall", "left": left, "is": "<=", "right": right, **changed}]}, outcome
    )


def test_figures_compare_numbers_between_moments(outcome: Outcome) -> None:
    assert figure(outcome) == []
    assert figure(outcome, right=0.5) == ["fall: 1 is not <= 0.5"]
    assert figure(outcome, left={"of": "packets", "take": "count", "from": 10, "to": 12}, right=3) == []


def test_a_figure_without_numbers_says_why(outcome: Outcome) -> None:
    (told,) = figure(outcome, left={"of": "packets", "take": "median", "from": "victim.limited"})
    assert told == "fall: victim.limited never came"
    (told,) = figure(outcome, left={"of": "packets", "take": "median", "from": 100})
    assert "no numbers" in told
    (told,) = figure(outcome, left={"of": "speed", "take": "median"})
    assert "nothing was saved as speed" in told


def test_json_has_what_is_documented(outcome: Outcome, tmp_path: Path) -> None:
    outcome.failures = ["mallory: verdict is none, expected attacker"]
    results.write_json(tmp_path / "one.json", [outcome], as_list=False)
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["scenario"] == "case"
    assert one["passed"] is False
    assert one["failures"] == outcome.failures
    assert one["timings"].keys() >= {"setup_s", "boot_s", "total_s"}
    seen = one["guests"]["mallory"].keys()
    assert seen >= {"domid", "uuid", "type", "verdict", "also_victim", "levels", "limits", "agent"}
    assert seen >= {"verdict_t_s", "released_t_s"}
    results.write_json(tmp_path / "two.json", [outcome, outcome], as_list=True)
    assert json.loads((tmp_path / "two.json").read_text()) == [one, one]


def test_junit_has_a_case_for_each_scenario(outcome: Outcome, tmp_path: Path) -> None:
    bad = Outcome("bad", "", timings={"total_s": 1.0}, failures=["a < b", "second"])
    results.write_junit(tmp_path / "r.xml", [outcome, bad])
    suite = ET.parse(tmp_path / "r.xml").getroot()  # noqa: S314  our own
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase[@name='bad']/failure")
    assert failure is not None
    assert failure.get("message") == "a < b"
    assert failure.text == "a < b\nsecond"
    assert suite.find("testcase[@name='case']/failure") is None

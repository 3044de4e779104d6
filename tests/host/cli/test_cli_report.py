# SPDX-License-Identifier: LGPL-2.1-or-later
"""`xenwarden report`: a page that stands alone, tells what happened, and cannot be made to do anything."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from daemon_world import World
from hypothesis import given
from hypothesis import strategies as st

from picturing.scenes import evil
from xenwarden_host.cli import reporting, timeline
from xenwarden_host.cli.page import page
from xenwarden_host.daemon.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAGS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "div", "p", "span", "ul", "li", "br",
    "b", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "rect", "line",
    "text", "path", "circle",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "style", "viewbox", "role",
    "aria-label", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "d", "width", "height",
    "text-anchor",
}  # fmt: skip


class Reader(HTMLParser):
    """Reads the page as a browser does: its tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)


@pytest.fixture(scope="module")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A VM that floods, is contained, stops and is released."""
    with World(tmp_path_factory.mktemp("report")) as world:
        mallory = world.start("mallory")
        quiet = {"tx_pps": 50.0, "tx_syn_pps": 2.0, "cpu_pct": 5.0}
        mallory.signals.update(quiet)
        world.run(seconds=60)
        mallory.signals.update(tx_pps=5000, tx_syn_pps=5000)
        mallory.vif.update(rx_packets=5000, rx_bytes=300_000)
        world.run(seconds=30)
        mallory.signals.update(quiet)
        mallory.vif.clear()
        world.run(seconds=20)
        yield world


@pytest.fixture(scope="module")
def data(incident: World) -> dict[str, Any]:
    told: dict[str, Any] = incident.xenwarden("report", "mallory", "--since", "2020-01-01")
    return told


def test_page_tells_what_happened_by_what_evidence(incident: World, tmp_path: Path) -> None:
    file = tmp_path / "m.html"
    assert incident.command("report", "mallory", "-o", str(file), "--since", "2020-01-01") == (0, "", "")
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    said = " ".join(Reader(text).said)
    for what in (
        "mallory", "contained", "attacker", "tx_syn_pps", "100 % of packets sent are TCP SYN",
        "TCP SYN packets sent by mallory limited to 10 per second", "vif-pps/syn", "xenwardend",
        "counted by dom0",
    ):  # fmt: skip
        assert what in said


def test_page_loads_nothing_and_runs_nothing(data: dict[str, Any]) -> None:
    text = page(data, whole=False)
    read = Reader(text)
    assert read.tags <= TAGS
    assert read.attributes <= ATTRIBUTES
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def test_no_text_of_a_guest_becomes_markup(data: dict[str, Any]) -> None:
    read = Reader(page(evil(data), whole=False))
    assert read.tags <= TAGS
    assert read.attributes <= ATTRIBUTES
    said = "".join(read.said)
    assert "<script>alert(1)</script>" in said
    assert "\x1b" not in said
    assert "\x00" not in said


def test_pictures_are_well_formed_and_stay_in_their_frames(data: dict[str, Any]) -> None:
    pictures = re.findall(r"<svg.*?</svg>", page(data, whole=False), re.DOTALL)
    assert len(pictures) >= 4
    for picture in pictures:
        root = ET.fromstring(picture)  # noqa: S314  our own
        _left, top, width, height = map(float, root.attrib["viewBox"].split())
        for item in root.iter():
            right = float(item.get("x", "0")) + float(item.get("width", "0"))
            assert 0 <= float(item.get("x", "0")) <= right <= width
            assert top <= float(item.get("y", "0")) + float(item.get("height", "0")) <= top + height
            for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", item.get("d", "")):
                assert 0 <= float(x) <= width
                assert top <= float(y) <= top + height


def test_lanes_are_what_the_events_say(data: dict[str, Any]) -> None:
    begin_s, end_s = timeline.window(data, whole=False)
    states = timeline.states(data, begin_s, end_s)
    assert [bar.text for bar in states] == ["normal", "watched", "contained"]
    assert [bar.text for bar in timeline.levels(data, begin_s, end_s)][:2] == ["1", "2"]
    limits = timeline.limits(data, begin_s, end_s)["vif-pps/syn"]
    assert [bar.text for bar in limits][-1] == "10"
    assert limits[-1].end_s == end_s
    assert [verdict for _unix_s, verdict in timeline.verdicts(data)] == ["attacker"]
    assert timeline.notable(data, 3)[0] == "tx_syn_pps"
    for bars in (states, limits):
        for before, after in pairwise(bars):
            assert before.end_s == after.begin_s


def test_page_without_signals_says_so_and_one_of_a_quiet_vm_is_a_page(data: dict[str, Any]) -> None:
    assert "No signals are kept" in page({**data, "samples": []}, whole=True)
    calm = {**data["vm"], "state": "normal", "verdict": None, "why": "", "evidence": [], "limits_now": []}
    text = page({**data, "events": [], "samples": data["samples"][:1], "vm": calm}, whole=False)
    assert "Nothing unusual was decided" in text
    Reader(text)


def test_report_needs_a_file_and_says_where_it_cannot_write(incident: World, tmp_path: Path) -> None:
    assert incident.command("report", "mallory")[0] == 2
    assert incident.command("--json", "report", "mallory", "-o", "x")[0] == 2
    status, _out, err = incident.command("report", "mallory", "-o", str(tmp_path / "no/such"))
    assert status == 1
    assert err.startswith(f"xenwarden: cannot write {tmp_path}/no/such")
    status, _out, err = incident.command("report", "mallory", "-o", str(tmp_path / "x"), "--since", "soon")
    assert status == 2
    assert "does not understand 'soon'" in err


@pytest.mark.parametrize(
    ("text", "unix_s"),
    [("90s", 999_910), ("2h", 992_800), ("7d", 395_200), ("1970-01-02 00:00+00:00", 86_400), (None, 992_800)],
)
def test_since(text: str | None, unix_s: int) -> None:
    assert reporting.since(text, 1_000_000.5) == unix_s


@pytest.mark.parametrize(
    "text", ["", "2", "h", "-2h", "2 h", "٢h", "9999999d", "0001-01-01", "tomorrow", "1970-02-01"]
)
def test_since_that_means_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="--since"):
        reporting.since(text, 1e6)


# --- what the daemon keeps --------------------------------------------------------------------------------


def test_samples_are_fine_first_then_coarse_and_never_more() -> None:
    samples = Samples()
    for second in range(0, 3 * 3600, 2):
        samples.note(1e9 + second, {"a": {"tx_pps": float(second % 60), "never": 0.0}})
    rows = samples.rows("a", 0)
    assert len(rows) < 540
    steps = {round(after[0] - before[0]) for before, after in pairwise(rows)}
    assert {2, 30} <= steps <= set(range(2, 60))  # where they meet any
    assert rows[-1][0] - rows[0][0] > 7100
    assert all(set(values) == {"tx_pps"} for _unix_s, values in rows)
    assert max(values["tx_pps"] for _unix_s, values in rows) == 58.0
    assert len(samples.rows("a", 1e9 + 3 * 3600 - 60)) <= 32


def test_samples_keep_the_highest_of_a_step_and_a_gap_is_a_gap() -> None:
    samples = Samples()
    for unix_s, value in ((1000.0, 5.0), (1000.5, 9.0), (1001.0, 1.0), (1060.0, 2.0)):
        samples.note(unix_s, {"a": {"x": value}})
    assert samples.rows("a", 0) == [(1000.0, {"x": 9.0}), (1060.0, {"x": 2.0})]


def test_samples_of_vms_that_are_gone_are_kept_for_two_hours_and_of_few() -> None:
    samples = Samples()
    samples.note(1000.0, {"a": {"x": 1.0}, "b": {"x": 1.0}})
    samples.note(1002.0, {"b": {"x": 1.0}})
    assert len(samples.rows("a", 0)) == 1
    samples.note(1004.0, {"a": {"x": 1.0}, "b": {"x": 1.0}})  # it rebooted
    assert len(samples.rows("a", 0)) == 2
    for number in range(100):
        samples.note(1006.0, {"b": {"x": 1.0}, f"short-lived-{number}": {"x": 1.0}})
    assert samples.rows("a", 0) == []
    assert sum(bool(samples.rows(f"short-lived-{number}", 0)) for number in range(100)) == 33
    samples.note(1006.0 + 7300, {"b": {"x": 1.0}})
    assert not any(samples.rows(f"short-lived-{number}", 0) for number in range(100))


def test_vm_that_was_destroyed_can_still_be_reported(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        mallory = world.start("mallory")
        mallory.signals.update(tx_pps=50.0, tx_syn_pps=2.0)
        world.run(seconds=20)
        mallory.signals.update(tx_pps=5000, tx_syn_pps=5000)
        mallory.vif.update(rx_packets=5000, rx_bytes=300_000)
        world.run(seconds=30)
        world.hypervisor.destroy(mallory.domid)
        world.store.remove_domain(mallory.domid)
        del world.guests["mallory"]
        world.run(seconds=5)
        file = tmp_path / "gone.html"
        words = ("report", mallory.uuid, "-o", str(file), "--since", "2020-01-01")
        assert world.command(*words) == (0, "", "")
        said = " ".join(Reader(file.read_text()).said)
        for what in (
            "mallory",
            "gone",
            "attacker",
            "tx_syn_pps",
            "% of packets sent are TCP SYN",
            "limited to 10",
        ):
            assert what in said


@given(st.lists(st.tuples(st.floats(0, 1e10), st.floats(0, 1e12)), max_size=30))
def test_clock_that_jumps_does_no_harm(notes: list[tuple[float, float]]) -> None:
    samples = Samples()
    for unix_s, value in notes:
        samples.note(unix_s, {"a": {"x": value}})
    times = [unix_s for unix_s, _values in samples.rows("a", 0)]
    assert times == sorted(times)
    json.dumps(samples.rows("a", 0), allow_nan=False)

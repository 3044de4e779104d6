# SPDX-License-Identifier: LGPL-2.1-or-later
"""The format: the page's own examples, lines that are none, and that nothing else changes what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_channel.signals import SIGNALS
from xenwarden_host.cli.main import main
from xenwarden_host.replay.reader import BadLineError, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = (Path(__file__).resolve().parents[3] / "dom0/recording-format.md").read_text()
HEADER = {"xenwarden_recording": 1, "interval_s": 5}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def write(path: Path, lines: Iterable[Any], header: Any = HEADER) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in (header, *lines)]
    path.write_text("\n".join(texts) + "\n")
    return str(path)


def replay(*words: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--json", "replay", *words]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def flood(begin_s: float, end_s: float, every_s: float, vms: int = 1) -> list[dict[str, Any]]:
    """SYNs without an answer between two times, from the last of the VMs."""
    lines = []
    for step in range(int(end_s / every_s) + 40):
        t = step * every_s
        for vm in range(vms):
            syn = 3000.0 if vm == vms - 1 and begin_s <= t < end_s else 2.0
            signals = {"tx_syn_pps": syn, "tx_pps": syn + 10, "rx_synack_pps": 2.0}
            lines.append({"t": t, "vm": f"vm{vm}", "signals": signals})
    return lines


def test_examples_of_the_page_are_recordings(tmp_path: Path) -> None:
    least = tmp_path / "least.jsonl"
    least.write_text(blocks("")[0])
    assert replay(str(least))[-1] == {
        "file": str(least), "event": "end", "records": 2, "ticks": 2, "bad": 0,
    }  # fmt: skip


def convert(number: int, rows: Iterable[str], path: Path, *words: str) -> str:
    """Have the page's own converter make a recording of these rows."""
    converted = subprocess.run(
        [sys.executable, "-c", blocks("python")[number], *words], input="\n".join(rows),
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    path.write_text(converted)
    return str(path)


def times(events: list[dict[str, Any]], event: str) -> list[float]:
    return [item["t"] for item in events if item["event"] == event]


def test_counter_with_dates_and_gaps_converted_by_the_page(tmp_path: Path) -> None:
    begin = datetime(2014, 2, 14, 14, 27, tzinfo=UTC)
    rows, odd_s = ["timestamp,value"], 0.0
    for step in range(6 * 288):
        when = begin + timedelta(seconds=300 * step)
        value = f"{40 + step % 3}"
        if 1401 <= step < 1413:  # it stops for an hour
            value, odd_s = "0", odd_s or when.timestamp()
        if step % 50 == 0:
            value = ""
        if not 700 <= step < 730:
            rows.append(f"{when:%Y-%m-%d %H:%M:%S},{value}")
    events = replay("--scores", convert(0, rows, tmp_path / "a.jsonl", "cpu_pct", "1"))
    assert times(events, "alarm") == [odd_s]
    above = [event["t"] for event in events if event["event"] == "score" and event["score"] > 1]
    assert odd_s in above
    assert all(odd_s <= t < odd_s + 2 * 3600 for t in above)
    assert events[-1]["records"] == len(times(events, "score"))


def test_flows_by_source_converted_by_the_page(tmp_path: Path) -> None:
    rows = ["time,source,flows,destinations,syn_share,pps"]
    for step in range(120):
        scans = 80 <= step < 100
        rows.append(f"{1.4e9 + 60 * step:.0f},10.0.0.1,{step % 9 + 20},12,0.05,{step % 7 + 30}")
        if step % 3 == 0 or scans:
            rows.append(
                f"{1.4e9 + 60 * step:.0f},10.0.0.2,9000,{8000 if scans else 3},{0.9 if scans else 0.1},150"
            )
    rows.append(f"{1.4e9 + 3 * 86400:.0f},10.0.0.1,20,12,0.05,30")
    path = convert(1, rows, tmp_path / "a.jsonl")
    events = replay(path)
    assert {event["vm"] for event in events if event["event"] == "alarm"} == {"10.0.0.2"}
    assert 1.4e9 + 60 * 80 in times(events, "alarm")
    assert '"gone": true' in Path(path).read_text()


def test_cpu_of_many_vms_converted_by_the_page(tmp_path: Path) -> None:
    rows = []
    for step in range(2 * 288):
        rows += [f"{300 * step},vm{vm},1.0,99.0,{5 + vm + step % 4}" for vm in range(5) if vm or step < 100]
        rows.append(rows[-1])
    path = convert(2, rows, tmp_path / "a.jsonl")
    events = replay(path)
    assert [event["event"] for event in events] == ["end"]
    assert events[-1]["records"] == 4 * 576 + 100
    assert Path(path).read_text().count('"gone": true') == 1


def test_page_tells_every_member(tmp_path: Path) -> None:
    members = re.findall(r"`(\w+)`", PAGE)
    for name in (
        "paused",
        "held",
        "gone",
        "vcpus",
        "agent",
        "release",
        "history",
        "state",
        "answer",
        "report",
    ):
        assert name in members
    for name in re.findall(r"`((?:tx|rx|tcp|cpu|disk|mem|vcpu)_\w+)`", PAGE):
        assert name in SIGNALS
    del tmp_path


@pytest.mark.parametrize("every_s", [1, 5, 60, 300, 600])
@pytest.mark.parametrize("vms", [1, 3])
def test_any_interval_and_number_of_vms_ends_in_a_verdict(tmp_path: Path, every_s: float, vms: int) -> None:
    lines = flood(40 * every_s, 60 * every_s, every_s, vms)
    path = write(tmp_path / "a.jsonl", lines, {**HEADER, "interval_s": every_s})
    events = replay(path)
    guilty = f"vm{vms - 1}"
    assert {event["vm"] for event in events if "vm" in event} == {guilty}
    verdicts = [event for event in events if event["event"] == "verdict"]
    assert [event["verdict"] for event in verdicts] == ["attacker"]
    assert [event["new"] for event in events if event["event"] == "state"] == [
        "watched", "contained", "normal",
    ]  # fmt: skip
    begun_s = 40 * every_s
    assert verdicts[0]["t"] - begun_s <= max(30, 2 * every_s)


def test_same_input_gives_the_same_output_to_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", flood(100, 200, 5, 3))
    outputs = {
        subprocess.run(
            [sys.executable, "-m", "xenwarden_host.cli.main", "--json", "replay", path, path],
            check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert outputs.pop().count(b'"event": "end"') == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "expected a JSON object"),
        ('{"vm": "a"}', "t: expected a number"),
        ('{"t": true, "vm": "a"}', "t: expected a number of seconds"),
        ('{"t": "2014-02-14 14:27:00", "vm": "a"}', "t: expected a number of seconds"),
        ('{"t": 1, "vm": "a", "signals": {"quux": 1}}', "recording-format.md has their names"),
        ('{"t": NaN, "vm": "a"}', "t: expected a number"),
        ('{"t": 1e999, "vm": "a"}', "t: expected a number"),
        ('{"t": 1, "vm": ""}', "vm: expected"),
        ('{"t": 1, "signals": {}}', "vm: expected"),
        ('{"t": 1, "vm": "a", "signals": {"cpu": 1}}', "unknown signal 'cpu': did you mean 'cpu_pct'?"),
        ('{"t": 1, "vm": "a", "signals": {"cpu_pct": -1}}', "cpu_pct: expected a number"),
        ('{"t": 1, "vm": "a", "signals": {"cpu_pct": "1"}}', "cpu_pct: expected a number"),
        ('{"t": 1, "vm": "a", "signals": [1]}', "signals: expected an object"),
        ('{"t": 1, "vm": "a", "interval_s": 0}', "interval_s: expected more than 0"),
        ('{"t": 1, "vm": "a", "colour": 1}', "unknown member 'colour'"),
        ('{"t": 1, "vm": "a", "held": ["everything"]}', "held: expected a list"),
        ('{"t": 1, "vm": "a", "type": "lxc"}', "type: expected one of pv"),
        ('{"t": 1, "vm": "a", "history": {}}', "version"),
        ('{"t": 1, "vm": "a", "state": {"version": 1}}', "no state of a VM"),
        ('{"t": 1, "vm": "a", "report": {"seq": 1}}', "which is missing"),
        ('{"t": 0, "vm": "a"}', "t: goes back, from 0.5 to 0: all VMs go by time"),
        ('{"t": 0.5, "vm": "a"}', "a second line of 'a'"),
        ("x" * 2_000_000, "longer than"),
    ],
)
def test_bad_line_is_told_with_file_line_and_reason_or_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    good = {"t": 0.5, "vm": "a", "signals": {"cpu_pct": 1.0}}
    path = write(tmp_path / "bad.jsonl", [good, line, {**good, "t": 2}])
    assert main(["replay", path]) == 1
    said = capsys.readouterr().err
    assert f"{path}:3: " in said
    assert reason in said
    assert replay("--skip-bad", path)[-1] == {
        "file": path, "event": "end", "records": 2, "ticks": 2, "bad": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "header", ['{"t": 1, "vm": "a"}', '{"xenwarden_recording": 2}', '{"xenwarden_recording": 1, "x": 1}', ""]
)
def test_header_must_be_good(tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str) -> None:
    path = write(tmp_path / "bad.jsonl", [], header)
    assert main(["replay", "--skip-bad", path]) == 1
    assert f"{path}:1: " in capsys.readouterr().err


MEMBERS = st.sampled_from(["t", "vm", "signals", "report", "state", "held", "cpu_pct", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
)


@given(st.binary(max_size=200) | VALUES.map(json.dumps))
def test_parser_is_total(text: str | bytes) -> None:
    try:
        line = parse_line(text)
    except BadLineError:
        return
    assert 0 <= line.t <= 1e15
    assert all(0 <= value <= 1e15 for value in (*line.guest.values(), *line.dom0.values()))


@pytest.mark.parametrize("signal", ["cpu_pct", "vcpu_pct", "rx_bps"])
@pytest.mark.parametrize("every_s", [300, 600])
def test_one_counter_alone_is_alarmed_where_it_is_unlike_itself(
    tmp_path: Path, signal: str, every_s: int
) -> None:
    lines = []
    day = 86400 // every_s
    for step in range(6 * day):
        # A course of the day, an hourly job, and in the fifth day two hours of more than ever.
        value = 20 + 8 * ((step % day) / day) + (25 if step % (3600 // every_s) == 0 else 0) + step % 3
        if 4.5 * day <= step < 4.5 * day + 7200 / every_s:
            value += 40
        lines.append({"t": step * every_s, "vm": "a", "signals": {signal: value}})
    events = replay(write(tmp_path / "a.jsonl", lines, {"xenwarden_recording": 1, "interval_s": every_s}))
    alarms = [event["t"] for event in events if event["event"] == "alarm"]
    begun_s = 4.5 * 86400
    assert alarms
    assert all(begun_s <= t <= begun_s + 4 * 3600 for t in alarms)
    assert {event["event"] for event in events} == {"alarm", "end"}


def test_destinations_of_a_level_2_detail_are_recorded_without_addresses_and_replayed(tmp_path: Path) -> None:
    def day(port: int) -> list[dict[str, Any]]:
        lines = []
        for step in range(400):
            failed = 0.0 if step < 300 else 50.0
            signals = {
                "tcp_open_ps": failed,
                "tcp_fail_ps": failed,
                "tx_syn_pps": failed,
                "tx_pps": 100 + failed,
            }
            lines.append(
                {"t": step * 60, "vm": "a", "signals": signals, "destinations": [["tcp", port, 50.0, 50.0]]}
            )
        path = write(tmp_path / f"{port}.jsonl", lines, {"xenwarden_recording": 1, "interval_s": 60})
        return [event for event in replay(path) if event["event"] == "verdict"]

    assert "attacker" in [event["verdict"] for event in day(0)]
    assert "attacker" not in [event["verdict"] for event in day(5432)]


@pytest.mark.parametrize(
    "wrong", ['{"tcp":1}', '[["tcp",80]]', '[["gre",80,1,1]]', '[["tcp",80.5,1,1]]', '[["tcp",80,1,-1]]']
)
def test_destinations_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(BadLineError, match="destinations"):
        parse_line(f'{{"t":1,"vm":"a","destinations":{wrong}}}')

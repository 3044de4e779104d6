# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of hostile and honest guests become records, or a named state of the agent, and nothing else."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_channel import messages, paths
from xenwarden_channel.messages import MessageError
from xenwarden_host.daemon.guests import Inbox, parse_answer, parse_detail, parse_report
from xenwarden_host.records import AgentState, Peer

BOOT = {"boot": "0a1b2c3d", "level": "1", "interval": "5"}
LEVELS = {"level1_s": 5.0, "level2_s": 1.0}


def report(seq: int = 1, **fields: str | float) -> bytes:
    return messages.encode("report", seq, {**BOOT, **fields})


def detail(seq: int = 1, **fields: str) -> bytes:
    return messages.encode("detail", seq, fields)


def test_report_has_what_the_guest_said() -> None:
    found = parse_report(
        report(
            7, level="2", why="tx_syn_pps", over="tx_syn_pps,tx_pps", tx_syn_pps=912.5, cpu_pct=3,
            missing="psi_cpu_pct", agent="0.1.0", rss_kb=9000, cpu_ms=1500, up_s=60,
            near_max=2, near_max_of=12,
        )
    )  # fmt: skip
    assert (found.seq, found.level, found.why) == (7, 2, "tx_syn_pps")
    assert found.over == ("tx_syn_pps", "tx_pps")
    assert found.signals == {"tx_syn_pps": 912.5, "cpu_pct": 3.0}
    assert found.missing == ("psi_cpu_pct",)
    assert (found.agent_version, found.agent_rss_kb, found.agent_cpu_s, found.agent_up_s) == (
        "0.1.0", 9000, 1.5, 60.0,
    )  # fmt: skip
    assert (found.near_max, found.near_max_of) == (2, 12)


def test_dom0_counters_and_unknown_names_are_not_taken_from_a_guest() -> None:
    assert parse_report(report(vif_tx_pps=1, vcpu_pct=1, invented=1)).signals == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"boot": "xyz"},
        {"boot": "0A1B2C3D"},
        {"boot": "0a1b2c3d4"},
        {"level": "3"},
        {"level": "02"},
        {"level": ""},
        {"interval": "0"},
        {"interval": "-1"},
        {"interval": "1e3"},
        {"interval": "nan"},
        {"interval": "9" * 16},
        {"interval": "3601"},
    ],
)
def test_report_without_its_bones_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(MessageError):
        parse_report(messages.encode("report", 1, {**BOOT, **fields}))


@given(st.binary(max_size=2100))
def test_any_bytes_are_a_record_or_refused(untrusted: bytes) -> None:
    for parse in (parse_report, parse_detail, parse_answer):
        with pytest.raises(MessageError):
            parse(untrusted)


WORDS = st.dictionaries(
    st.from_regex("[a-z][a-z0-9_]{0,10}", fullmatch=True), st.text(max_size=30), max_size=20
)


@given(WORDS)
def test_any_fields_are_a_record_or_refused(fields: dict[str, str]) -> None:
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    for kind, parse in (("report", parse_report), ("detail", parse_detail), ("answer", parse_answer)):
        with contextlib.suppress(MessageError):
            parse(f"xw1 {kind} seq=1 {words}".encode())


def test_detail_keeps_good_lines_only() -> None:
    _seq, destinations, sources = parse_detail(
        detail(
            d0="10.0.0.2,tcp,80,900,899",
            d1="fe80::1%eth0,udp,53,1,0",
            d2="no-address,tcp,80,1,1",
            d3="10.0.0.3,tcp,65536,1,1",
            d4="10.0.0.3,tcp,80.5,1,1",
            d5="10.0.0.3,sctp,80,1,1",
            d6="10.0.0.3,tcp,80,1",
            d8="10.0.0.9,tcp,80,1,1",
            s0="10.0.0.4,tcp,22,5,0",
        )
    )
    assert destinations == (
        Peer("10.0.0.2", "tcp", 80, 900.0, 899.0),
        Peer("fe80::1", "udp", 53, 1.0, 0.0),
        Peer("10.0.0.3", "other", 80, 1.0, 1.0),
    )
    assert sources == (Peer("10.0.0.4", "tcp", 22, 5.0, 0.0),)


def test_agent_lives_falls_silent_and_lives_again() -> None:
    inbox = Inbox()
    assert inbox.state(0.0, **LEVELS) is AgentState.ABSENT
    inbox.take(paths.UP_REPORT, report(1), 10.0)
    assert inbox.state(25.0, **LEVELS) is AgentState.ALIVE
    assert inbox.state(25.1, **LEVELS) is AgentState.SILENT
    inbox.take(paths.UP_REPORT, report(2), 30.0)
    assert inbox.state(30.0, **LEVELS) is AgentState.ALIVE


def test_a_claimed_interval_does_not_excuse_silence() -> None:
    inbox = Inbox()
    inbox.take(paths.UP_REPORT, report(1, interval=3600), 0.0)
    assert inbox.state(16.0, **LEVELS) is AgentState.SILENT


def test_no_agent_is_silent_for_the_time_in_which_dom0_did_not_listen() -> None:
    inbox = Inbox()
    inbox.take(paths.UP_REPORT, report(1), 0.0)
    inbox.excuse(100.0)
    assert inbox.state(101.0, **LEVELS) is AgentState.ALIVE


def test_newly_level_2_is_told_once() -> None:
    inbox = Inbox()
    assert not inbox.take(paths.UP_REPORT, report(1), 0.0)
    assert inbox.take(paths.UP_REPORT, report(2, level="2"), 1.0)
    assert not inbox.take(paths.UP_REPORT, report(3, level="2"), 2.0)


@pytest.mark.parametrize("second", [5, 4, 0])
def test_sequence_that_repeats_or_goes_back_is_refused(second: int) -> None:
    inbox = Inbox()
    inbox.take(paths.UP_REPORT, report(5, tx_pps=1), 0.0)
    with pytest.raises(MessageError):
        inbox.take(paths.UP_REPORT, report(second, tx_pps=2), 1.0)
    assert inbox.state(1.0, **LEVELS) is AgentState.GARBLED
    assert inbox.report is not None
    assert inbox.report.signals == {"tx_pps": 1.0}
    inbox.take(paths.UP_REPORT, report(6), 2.0)
    assert inbox.state(2.0, **LEVELS) is AgentState.ALIVE


def test_agent_that_restarts_begins_its_sequence_anew() -> None:
    inbox = Inbox()
    inbox.take(paths.UP_REPORT, report(900), 0.0)
    inbox.take(paths.UP_REPORT, report(1, boot="ffffffff"), 1.0)
    assert inbox.state(1.0, **LEVELS) is AgentState.ALIVE


def test_reading_the_same_value_again_is_no_news() -> None:
    inbox = Inbox()
    inbox.take(paths.UP_REPORT, report(1), 0.0)
    inbox.report_is_new = False
    inbox.take(paths.UP_REPORT, report(1), 9.0)
    assert not inbox.report_is_new
    assert inbox.report_received_s == 0.0


def test_report_that_arrives_during_a_tick_is_new_and_not_from_later() -> None:
    inbox = Inbox()
    assert inbox.report_age_s(1.0) is None
    inbox.take(paths.UP_REPORT, report(1), 1.25)
    assert inbox.report_age_s(1.0) == 0.0
    assert inbox.report_age_s(3.25) == 2.0


def test_other_major_version_is_a_state_of_its_own() -> None:
    inbox = Inbox()
    with pytest.raises(MessageError):
        inbox.take(paths.UP_REPORT, b"xw2 report seq=1", 0.0)
    assert inbox.state(0.0, **LEVELS) is AgentState.VERSION


def test_detail_goes_with_reports_of_level_2_only() -> None:
    inbox = Inbox()
    inbox.take(paths.UP_DETAIL, detail(d0="10.0.0.2,tcp,80,900,899"), 0.0)
    inbox.take(paths.UP_REPORT, report(1, level="2"), 0.5)
    assert inbox.report is not None
    assert [peer.address for peer in inbox.report.destinations] == ["10.0.0.2"]
    inbox.take(paths.UP_REPORT, report(2), 5.0)
    assert inbox.report.destinations == ()


def test_answer_repeats_the_question() -> None:
    fields: dict[str, str | float] = {"id": "17", "load_pct": 42.5, "near_max": 1, "near_max_of": 9}
    found = parse_answer(messages.encode("answer", 3, fields))
    assert (found.ask_id, found.load_pct, found.near_max, found.near_max_of) == (17, 42.5, 1, 9)

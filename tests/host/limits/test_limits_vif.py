# SPDX-License-Identifier: LGPL-2.1-or-later
"""The vifs of a domain as XenStore, the kernel's files and `tc` tell them. No kernel needed."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_channel.fake import FakeStore
from xenwarden_host.errors import LimitError
from xenwarden_host.limits import tc
from xenwarden_host.limits.vif import DomainVifs
from xenwarden_host.limits.vif_rate import queue_bps
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from pathlib import Path

BACKEND = "/local/domain/0/backend/vif/7"

# What iproute2 6.1 said on a 6.1 kernel; tc repeats the name control_action in one object.
POLICE = (
    '{"order":1,"kind":"police","index":2013266032,"pkts_rate":100,"pkts_burst":20,'
    '"control_action":{"type":"drop"},"control_action":{"type":"continue"},"overhead":0,"ref":2,"bind":2}'
)
KEYS = '"keys":{"eth_type":"ipv4","ip_proto":"tcp","tcp_flags":"0x2/12"}'
SYN4 = (
    '{"protocol":"ip","pref":41,"kind":"flower","chain":0},{"protocol":"ip","pref":41,"kind":"flower",'
    f'"chain":0,"options":{{"handle":2021064706,{KEYS},"not_in_hw":true,"actions":[{POLICE}]}}}}'
)
SYN6 = SYN4.replace('"protocol":"ip","pref":41', '"protocol":"ipv6","pref":42')
ADMINS = SYN4.replace('"pref":41', '"pref":50').replace("2021064706", "1")
NO_QDISC = '[{"kind":"noqueue","handle":"0:","root":true,"refcnt":2,"options":{}}]'
CLSACT = NO_QDISC[:-1] + ',{"kind":"clsact","handle":"ffff:","parent":"ffff:fff1","options":{}}]'


def answer(ingress: str = "", egress: str = "", qdiscs: str = NO_QDISC) -> tc.VifFilters:
    (found,) = tc.parse(f"[{ingress}]\n[{egress}]\n{qdiscs}\n")
    return found


@pytest.fixture
def store() -> FakeStore:
    made = FakeStore()
    for devid, state in ((0, b"4"), (2, b"2"), (3, b"6")):
        made.write(f"{BACKEND}/{devid}/state", state)
    return made


def test_vifs_that_are_being_closed_are_none_of_ours(store: FakeStore) -> None:
    assert DomainVifs(store).devids(7) == [0, 2]
    assert DomainVifs(store).devids(8) == []


def test_queues_are_the_kernels_and_a_renamed_vif_is_found(store: FakeStore, tmp_path: Path) -> None:
    for name, queues in (("vif7.0", 4), ("lan", 2)):
        for kind in ("rx", "tx"):
            for queue in range(queues):
                (tmp_path / name / "queues" / f"{kind}-{queue}").mkdir(parents=True)
    vifs = DomainVifs(store, sys_net=tmp_path)
    assert (vifs.queues(7, 0), vifs.queues(7, 2)) == (4, 1)
    store.write(f"{BACKEND}/0/vifname", b"lan")
    assert vifs.queues(7, 0) == 2


def test_the_rate_node_is_written_read_and_removed(store: FakeStore) -> None:
    vifs = DomainVifs(store)
    assert vifs.rate(7, 0) is None
    vifs.set_rate(7, 0, "62500,50000")
    assert (vifs.rate(7, 0), store.read(f"{BACKEND}/0/rate")) == ("62500,50000", b"62500,50000")
    vifs.set_rate(7, 0, None)
    assert vifs.rate(7, 0) is None
    assert store.read(f"{BACKEND}/0/state") == b"4"


def test_a_rate_written_to_a_vif_that_just_went_leaves_no_ghost(store: FakeStore) -> None:
    with pytest.raises(LimitError) as gone:
        DomainVifs(store).set_rate(7, 9, "1,1")
    assert gone.value.state == LimitState.NO_TARGET
    assert "9" not in store.directory(BACKEND)


def test_a_vif_without_its_device_keeps_no_other_from_its_limits(store: FakeStore, tmp_path: Path) -> None:
    (tmp_path / "vif7.0").mkdir()
    asked: list[str] = []

    def run_tc(lines: list[str], *, json_output: bool = False) -> str:
        asked.extend(lines)
        return f"[]\n[]\n{NO_QDISC}\n" if json_output else ""

    vifs = DomainVifs(store, sys_net=tmp_path, run_tc=run_tc)
    assert vifs.police(7) == {0: {}}
    vifs.set_police(7, {0: {PacketClass.SYN: 5}})
    assert not any("vif7.2" in line for line in asked)
    with pytest.raises(LimitError):
        vifs.set_police(7, {2: {PacketClass.SYN: 5}})


def test_ours_are_told_from_the_admins_by_preference_and_handle() -> None:
    found = answer(f"{SYN4},{SYN6},{ADMINS}", qdiscs=CLSACT)
    assert (found.limits().pps, found.qdisc, found.others) == ({PacketClass.SYN: 100}, "clsact", 1)
    assert answer(SYN4).limits().pps == {}, "one family alone is no limit"
    assert answer(SYN4.replace("2021064706", "1"), qdiscs=CLSACT).taken == (41,)


def test_nothing_is_done_where_it_is_so_already() -> None:
    assert (
        tc.plan("vif7.0", 7, answer(f"{SYN4},{SYN6}", qdiscs=CLSACT), tc.Wanted({PacketClass.SYN: 100})) == []
    )
    assert tc.plan("vif7.0", 7, answer(), tc.Wanted({})) == []


def test_the_last_filter_of_ours_takes_our_qdisc_along_and_an_admins_filter_keeps_it() -> None:
    ours = f"{SYN4},{SYN6}"
    assert "qdisc del dev vif7.0 clsact" in tc.plan("vif7.0", 7, answer(ours, qdiscs=CLSACT), tc.Wanted({}))
    with_admins = answer(ours, egress=ADMINS, qdiscs=CLSACT)
    assert not any("qdisc" in line for line in tc.plan("vif7.0", 7, with_admins, tc.Wanted({})))


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Error: TC classifier not found.\nWe have an error talking to the kernel", LimitState.UNSUPPORTED),
        ("Error: Failed to load TC action module.", LimitState.UNSUPPORTED),
        ('Cannot find device "vif7.0"', LimitState.NO_TARGET),
        ("RTNETLINK answers: Operation not permitted", LimitState.FAILED),
    ],
)
def test_what_tc_says_is_a_named_state(monkeypatch: pytest.MonkeyPatch, said: str, state: LimitState) -> None:
    answer = subprocess.CompletedProcess(["tc"], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: answer)
    with pytest.raises(LimitError) as refused:
        tc.run(["qdisc show"])
    assert refused.value.state == state


def test_without_tc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LimitError) as missing:
        tc.run(["qdisc show"])
    assert (missing.value.state, missing.value.hint) == (LimitState.UNSUPPORTED, "install iproute2")


WORDS = st.sampled_from(
    ["options", "pref", "kind", "flower", "handle", "actions", "police", "pkts_rate", "clsact"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**32) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
)


@given(
    st.text(max_size=200) | st.lists(JSON, max_size=6).map(lambda arrays: "\n".join(map(json.dumps, arrays)))
)
def test_any_answer_is_understood_or_a_value_error(text: str) -> None:
    try:
        found = tc.parse(text)
    except ValueError:
        return
    assert all(isinstance(f, tc.VifFilters) for f in found)


@given(pps=st.integers(1, 10**6))
def test_the_burst_is_a_fifth_of_a_second_at_most_but_for_tiny_limits(pps: int) -> None:
    assert 2 <= tc.burst(pps) <= max(2, pps // 5)


@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("62500,50000", 10_000_000),
        (None, None),
        ("", None),
        ("62500", None),
        ("62500,0", None),
        ("62500,50000 ", None),
        (" 1,1", None),
        ("-1,5", None),
        ("1,٣", None),
    ],
)
def test_a_rate_is_read_as_netback_reads_it(text: str | None, bps: float | None) -> None:
    assert queue_bps(text) == bps

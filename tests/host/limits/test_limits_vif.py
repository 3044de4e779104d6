# SPDX-License-Identifier: LGPL-2.1-or-later
"""The vifs of a domain as XenStore, the kernel's files and rtnetlink tell them."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_channel.fake import FakeStore
from xenwarden_host.errors import LimitError
from xenwarden_host.limits import rtnetlink, tc
from xenwarden_host.limits.rtnetlink import attribute, attributes
from xenwarden_host.limits.vif import DomainVifs
from xenwarden_host.limits.vif_rate import queue_bps
from xenwarden_host.records import LimitState, PacketClass

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKEND = "/local/domain/0/backend/vif/7"

HERE = Path(__file__).parent
SYN, UDP, ICMP = PacketClass.SYN, PacketClass.UDP, PacketClass.ICMP
HEAD = tc._TCMSG


def sent_by_tc() -> list[tuple[int, int, bytes]]:
    """Return what iproute2 6.1 sent for domain 7 and device 3: number, flags, body."""
    lines = (HERE / "tc_messages.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [(int(number), int(flags, 16), bytes.fromhex(body)) for number, flags, body in rows]


def qdisc(kind: str, ifindex: int = 3) -> bytes:
    return HEAD.pack(0, ifindex, 0, 0, 0) + attribute(1, kind.encode() + b"\0")


def answer(ingress: Sequence[bytes] = (), egress: Sequence[bytes] = (), *qdiscs: str) -> tc.VifFilters:
    """Read a device back; a kernel shows a filter as it was sent, after the head of its preference."""
    others = [qdisc("clsact", ifindex=4), qdisc("noqueue")]
    heads = [body[: HEAD.size] + attribute(1, b"flower\0") for body in ingress]
    return tc.parse("vif7.0", 3, [*heads, *ingress], egress, [*others, *map(qdisc, qdiscs)])


def filters(wanted: tc.Wanted) -> list[bytes]:
    return [c.body for c in tc.plan(7, answer(), wanted) if c.words.startswith("add filter")]


def words(changes: list[tc.Change]) -> list[str]:
    return [change.words for change in changes]


PACKETS = filters(tc.Wanted({SYN: 100}))
ADMINS = HEAD.pack(0, 3, 1, 0xFFFF_FFF2, 50 << 16 | 8) + attribute(1, b"u32\0") + attribute(2, b"")


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


def test_a_vif_without_its_device_keeps_no_other_from_its_limits(store: FakeStore) -> None:
    done: list[str] = []

    def read(device: str) -> tc.VifFilters:
        if device == "vif7.2":
            raise LimitError("the vif went away", LimitState.NO_TARGET)
        return tc.VifFilters(device, 3)

    vifs = DomainVifs(store, read=read, apply=lambda changes: done.extend(words(changes)))
    assert vifs.police(7) == {0: {}}
    vifs.set_police(7, {0: {SYN: 5}})
    assert "add filter 41.0 to vif7.0" in done
    with pytest.raises(LimitError):
        vifs.set_police(7, {2: {SYN: 5}})


def test_the_kernel_is_told_what_tc_would_tell_it() -> None:
    def said(number: int, flags: int, body: bytes) -> tuple[object, ...]:
        """Return a message so that it can be compared: flower's options may come in any order."""
        if b"flower" not in body:
            return number, flags, body
        fields = dict(attributes(body[HEAD.size :]))
        # What goes is found by its handle: the options that tc sends then are not looked at.
        options = frozenset(attributes(fields[2])) if number == 44 else None
        return number, flags, body[: HEAD.size], fields[1], options

    changes = tc.plan(7, answer(), tc.Wanted({SYN: 100, UDP: 100, ICMP: 100}, 8_192_000))
    ours = {said(c.number, c.flags, c.body) for c in changes}
    assert {said(*m) for m in sent_by_tc() if m[0] in (36, 44, 48)} <= ours
    lifted = tc.plan(7, answer(PACKETS, filters(tc.Wanted({}, 8)), "clsact"), tc.Wanted({}))
    ours = {said(c.number, c.flags, c.body) for c in lifted}
    assert {said(*m) for m in sent_by_tc() if m[0] in (37, 45)} <= ours


@given(
    pps=st.dictionaries(st.sampled_from(PacketClass), st.integers(0, 10**9)),
    in_bytes=st.none() | st.integers(1, 10**11),
)
def test_what_is_set_is_read_back(pps: dict[PacketClass, int], in_bytes: int | None) -> None:
    wanted = tc.Wanted(pps, None if in_bytes is None else in_bytes * 8)
    bodies = filters(wanted)
    inbound = [b for b in bodies if HEAD.unpack_from(b)[3] == 0xFFFF_FFF3]
    found = answer([b for b in bodies if b not in inbound], inbound, "clsact")
    assert (found.limits(), found.others) == (wanted, 0)
    assert tc.plan(7, found, wanted) == []


def test_ours_are_told_from_the_admins_by_preference_and_handle() -> None:
    found = answer([*PACKETS, ADMINS], (), "clsact")
    assert (found.limits().pps, found.qdisc, found.others) == ({SYN: 100}, "clsact", 1)
    for i in range(len(PACKETS)):
        assert answer(PACKETS[:i] + PACKETS[i + 1 :]).limits().pps == {}, "all but one is no limit"
    _family, _ifindex, handle, parent, info = HEAD.unpack_from(PACKETS[0])
    another = HEAD.pack(0, 3, 1, parent, info) + PACKETS[0][HEAD.size :]
    assert answer([another], (), "clsact").taken == (41,)
    for_ip = HEAD.pack(0, 3, handle, parent, 41 << 16 | 8) + PACKETS[0][HEAD.size :]
    assert answer([for_ip], (), "clsact").taken == (41,), "ours are of all protocols"


def test_nothing_is_done_where_it_is_so_already() -> None:
    assert tc.plan(7, answer(PACKETS, (), "clsact"), tc.Wanted({SYN: 100})) == []
    assert tc.plan(7, answer(), tc.Wanted({})) == []


def test_the_last_filter_of_ours_takes_our_qdisc_along_and_an_admins_filter_keeps_it() -> None:
    last = "delete qdisc clsact of vif7.0"
    assert words(tc.plan(7, answer(PACKETS, (), "clsact"), tc.Wanted({})))[-1] == last
    with_admins = answer(PACKETS, [ADMINS], "clsact")
    assert last not in words(tc.plan(7, with_admins, tc.Wanted({})))


@pytest.mark.parametrize(
    ("code", "said", "state"),
    [
        (errno.ENOENT, "TC classifier not found", LimitState.UNSUPPORTED),
        (errno.ENOENT, "Failed to load TC action module", LimitState.UNSUPPORTED),
        (errno.EOPNOTSUPP, "error 95", LimitState.UNSUPPORTED),
        (errno.ENODEV, "error 19", LimitState.NO_TARGET),
        (errno.EPERM, "error 1", LimitState.FAILED),
    ],
)
def test_what_the_kernel_refuses_is_a_named_state(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, state: LimitState
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, said)

    monkeypatch.setattr(rtnetlink, "change", refuse)
    with pytest.raises(LimitError) as refused:
        tc.apply(tc.plan(7, answer(), tc.Wanted({SYN: 5})))
    assert refused.value.state == state


def test_a_device_that_is_not_there_is_a_named_state() -> None:
    with pytest.raises(LimitError) as refused:
        tc.read("vif9999.9")
    assert refused.value.state == LimitState.NO_TARGET


def test_a_real_device_without_filters_is_read() -> None:
    found = tc.read("lo")
    assert (found.ifindex, found.ours, found.limits()) == (1, (), tc.Wanted({}))


def test_a_reading_that_another_change_disturbed_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [InterruptedError(errno.EINTR, "changed while it was read")] * 2

    def ask(*_: object) -> list[bytes]:
        if answers:
            raise answers.pop()
        return [b"whole"]

    monkeypatch.setattr(rtnetlink, "_ask", ask)
    assert rtnetlink.dump(46, b"") == [b"whole"]


@given(st.lists(st.binary(max_size=120), max_size=4), st.integers(0, 250), st.binary(max_size=30))
def test_any_answer_is_understood_or_a_value_error(noise: list[bytes], cut: int, more: bytes) -> None:
    for bodies in (noise, [PACKETS[0][:cut] + more + PACKETS[0][cut:]]):
        with contextlib.suppress(ValueError):
            assert isinstance(tc.parse("vif7.0", 3, bodies, bodies, bodies), tc.VifFilters)


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

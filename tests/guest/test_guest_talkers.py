# SPDX-License-Identifier: LGPL-2.1-or-later
"""Estimates out of samples: distinct peers, shares, top talkers; and the plan that keeps samples few."""

from __future__ import annotations

import random

import frames
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenwarden_guest.vsem.headers import Header, Networks, address_text, grouped, parse
from xenwarden_guest.vsem.plan import BUDGET_PPS, Plan, Seen, address_hash, next_plan
from xenwarden_guest.vsem.talkers import MAX_ADDRESSES, MAX_PEERS, Talkers

NOWHERE = Networks()


def header(dest: int, *, port: int = 80, syn: bool = False, protocol: int = 6) -> Header:
    made = Header(frames.A4, dest.to_bytes(4, "big"), protocol)
    made.dest_port, made.syn = port, syn
    return made


def sample(talkers: Talkers, made: Header, plan: Plan, source: random.Random) -> None:
    """Do what the kernel does."""
    if source.random() < 1 / plan.stands_for(address_hash(made.dest, plan.salt), syn=made.syn):
        talkers.add(made, plan, 1.0)


def test_without_sampling_peers_are_counted_exactly() -> None:
    talkers = Talkers(NOWHERE, outgoing=True)
    for dest in [1, 2, 3, 3, 3, 3]:
        talkers.add(header(dest), Plan(5), 1.0)
    assert talkers.distinct() == 3
    assert talkers.top_share() == pytest.approx(4 / 6)
    assert talkers.external_share() is None


def test_with_400_addresses_in_the_slice_the_estimate_is_within_10_percent_nearly_always() -> None:
    good = 0
    for seed in range(20):
        source = random.Random(seed)  # noqa: S311  repeatable
        plan = Plan(source.getrandbits(32), 10, 10, 4)
        talkers = Talkers(NOWHERE, outgoing=True)
        for dest in range(6400):
            sample(talkers, header(0x0A000000 + dest * 7919, syn=True), plan, source)
        good += abs(talkers.distinct() - 6400) < 640
    assert good >= 18


def test_a_flood_of_addresses_is_estimated_in_bounded_memory() -> None:
    talkers = Talkers(NOWHERE, outgoing=True)
    for dest in range(40_000):
        talkers.add(header(dest), Plan(99), 1.0)
    assert len(talkers._slice) <= MAX_ADDRESSES
    assert len(talkers._peers) <= MAX_PEERS
    assert 35_000 < talkers.distinct() < 45_000


def test_shares_are_right_when_syns_are_sampled_more_than_the_rest() -> None:
    source = random.Random(1)  # noqa: S311  repeatable
    plan = Plan(7, shift=6, syn_shift=1, slice_shift=20)
    talkers = Talkers(Networks("10.0.0.0/8"), outgoing=True)
    for _ in range(20_000):
        sample(talkers, header(0x0A000001), plan, source)
        if source.random() < 0.1:
            sample(talkers, header(0xC0000201, port=443, syn=True), plan, source)
    external = talkers.external_share()
    assert external is not None
    assert 0.06 < external < 0.12
    first, second = talkers.top(pps=22_000, syn_pps=2000)
    assert first.startswith("10.0.0.1,tcp,80,")
    assert second.startswith("192.0.2.1,tcp,443,")
    assert second.endswith(",2000.0")
    assert 1300 < float(second.split(",")[3]) < 2700


def test_the_port_is_named_where_one_stands_out() -> None:
    talkers = Talkers(NOWHERE, outgoing=True)
    for port in range(1000):
        talkers.add(header(1, port=port), Plan(5), 1.0)
        talkers.add(header(2, port=53 if port % 2 else 1000 + port), Plan(5), 1.0)
        talkers.add(header(2, port=53), Plan(5), 1.0)
    ports = {line.split(",")[0]: line.split(",")[2] for line in talkers.top(1, 1)}
    assert ports == {"0.0.0.1": "0", "0.0.0.2": "53"}


def test_who_is_only_tried_is_told_beside_those_who_are_talked_to() -> None:
    talkers = Talkers(NOWHERE, outgoing=True)
    for address in range(1, 21):
        for _ in range(100 + address):
            talkers.add(header(address), Plan(5), 1.0)
        talkers.add(header(address, syn=True), Plan(5), 1.0)
    for _ in range(60):  # a server that is down
        talkers.add(header(99, port=5432, syn=True), Plan(5), 1.0)
    told = talkers.top(1000, 80)
    assert len(told) == 8
    assert told[0].startswith("0.0.0.20,tcp,80,")
    assert told[-1].startswith("0.0.0.99,tcp,5432,")
    assert told[-1].endswith(",60.0")


def settle(pps: float, syn_pps: float, in_slice: float, level: int, looks: int = 20) -> list[Plan]:
    """Feed the planner steady traffic, `in_slice` of which is evenly spread over addresses."""
    plan = Plan(1)
    plans = []
    for salt in range(looks):
        seen = Seen(pps, syn_pps, in_slice / (1 << plan.slice_shift))
        plan = next_plan(plan, seen, BUDGET_PPS[level], salt)
        plans.append(plan)
    return plans


@given(st.floats(0, 1e7), st.floats(0, 1), st.sampled_from([1, 2]))
def test_steady_traffic_settles_within_the_budget_and_stays(pps: float, syn_share: float, level: int) -> None:
    plans = settle(pps, pps * syn_share, pps, level)
    last = plans[-1]
    assert last == plans[-2]
    if last.takes_all:
        assert pps <= BUDGET_PPS[level]
        return
    syn = pps * syn_share
    samples = syn / (1 << last.syn_shift) + (pps - syn) / (1 << last.shift) + pps / (1 << last.slice_shift)
    assert samples <= 1.5 * BUDGET_PPS[level]


def test_little_traffic_is_taken_whole_and_again_after_a_flood() -> None:
    assert settle(40, 10, 40, 1)[-1].takes_all
    flooded = settle(10_000, 9000, 10_000, 1)[-1]
    assert not flooded.takes_all
    assert next_plan(flooded, Seen(10, 1, 0), BUDGET_PPS[1], 3).takes_all


def said(found: Header) -> tuple[object, ...]:
    return tuple(getattr(found, name) for name in Header.__slots__)


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(sorted(frames.FRAMES)), st.integers(0, 80)), max_size=30
    )
)
def test_samples_that_say_the_same_are_put_together_and_no_others(kinds: list[tuple[bool, str, int]]) -> None:
    samples = [(sent, frames.FRAMES[name][0][:length]) for sent, name, length in kinds]
    alone = [(sent, said(header)) for sent, frame in samples if (header := parse(frame)) is not None]
    together = [(sent, said(header)) for sent, header, count in grouped(samples) for _ in range(count)]
    assert sorted(alone) == sorted(together)


def test_a_loud_peer_in_the_slice_moves_the_slice_elsewhere() -> None:
    plan = settle(10_000, 0, 10_000, 1)[-1]
    moved = next_plan(plan, Seen(10_000, 0, 9000), BUDGET_PPS[1], 4711)
    assert moved.salt == 4711


def test_one_loud_peer_does_not_keep_the_plan_changing() -> None:
    source = random.Random(3)  # noqa: S311  repeatable
    plan, plans = Plan(1), set()
    for _look in range(300):
        in_slice = address_hash(frames.A4, plan.salt) <= 0xFFFFFFFF >> plan.slice_shift
        plan = next_plan(plan, Seen(5000, 0, 5000 * in_slice), BUDGET_PPS[1], source.getrandbits(32))
        plans.add(plan)
    assert len(plans) < 30


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_none(frame: bytes) -> None:
    found = parse(frame)
    if found is not None:
        assert len(found.source) == len(found.dest) in (4, 16)


def test_headers_are_read() -> None:
    found = parse(frames.FRAMES["tcp4 vlan"][0])
    assert found is not None
    assert (found.source, found.dest, found.protocol) == (frames.A4, frames.B4, 6)
    assert (found.source_port, found.dest_port, found.syn) == (40000, 443, True)
    assert address_text(found.dest) == "198.51.100.7"
    six = parse(frames.FRAMES["udp6"][0])
    assert six is not None
    assert address_text(six.dest) == "2001:db8:0:ff:0:0:0:b7"
    assert (six.dest_port, six.syn) == (53, False)


def test_networks_of_the_provider() -> None:
    networks = Networks("10.0.0.0/8,2001:db8::/32,nonsense,192.0.2.1,300.0.0.0/8,10.0.0.0/99,")
    assert networks.inside(bytes([10, 1, 2, 3]))
    assert networks.inside(frames.A4)
    assert networks.inside(frames.A6)
    assert not networks.inside(frames.B4)
    assert networks.inside(bytes([224, 0, 0, 1]))  # never leaves the link
    assert networks.inside(b"\xfe\x80" + bytes(13) + b"\x01")
    assert not networks.inside(b"\x26" + bytes(15))
    assert not Networks("nonsense")

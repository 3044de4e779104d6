# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who claims what others use, and who asks for what is not there: what dom0's agent makes of ARP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenwarden_channel import paths
from xenwarden_channel.messages import parse as parse_message
from xenwarden_guest.vsem import arp
from xenwarden_guest.vsem.arp import Packet, Told, Watch
from xenwarden_guest.vsem.segments import message, own_addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

MALLORY, VICTIM, BOB, OTHER = 1, 2, 3, 4
OUTSIDE = "eth0"
DOM0_IP, VICTIM_IP, BOB_IP, ROUTER_IP, VIP = (bytes([10, 0, 0, n]) for n in (1, 11, 12, 254, 99))
NOBODY = bytes(4)


class Segment:
    """A bridge, second by second: whoever uses an address answers when it is asked for."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.watch.own = {DOM0_IP}
        self.now_s = 0.0
        self.users: dict[bytes, arp.Party] = {VICTIM_IP: VICTIM, BOB_IP: BOB, ROUTER_IP: OUTSIDE}
        self.asked: list[bytes] = []

    def ask(self, party: arp.Party, own: bytes, wanted: bytes) -> None:
        self.watch.take("br", party, Packet(own, wanted, asks=True), self.now_s)
        user = self.users.get(wanted)
        if user is not None and user != party:
            self.watch.take("br", user, Packet(wanted, own, asks=False), self.now_s)

    def claim(
        self, party: arp.Party, address: bytes, told: bytes | None = None, *, asks: bool = False
    ) -> None:
        self.watch.take("br", party, Packet(address, told or address, asks=asks), self.now_s)

    def second(self) -> dict[int, Told]:
        """Let a second pass; return what is told."""
        for _segment, address in self.watch.questions(self.now_s):
            self.asked.append(address)
            if address in self.users:
                answer = Packet(address, NOBODY, asks=False)
                self.watch.take("br", self.users[address], answer, self.now_s + 0.01)
        self.now_s += 1
        return self.watch.finish(self.now_s)

    def live(self) -> None:
        """Have everybody talk to everybody, as in ordinary life."""
        for address, party in list(self.users.items()):
            for other in self.users.keys() - {address}:
                self.ask(party, address, other)
        for _ in range(20):
            assert not any(told.claims or told.claimed for told in self.second().values())


@pytest.fixture
def segment() -> Segment:
    made = Segment()
    made.live()
    return made


def continuous(rates: Iterator[float]) -> int:
    """Return for how many seconds on end there were claims."""
    most = now = 0
    for rate in rates:
        now = now + 1 if rate else 0
        most = max(most, now)
    return most


def spoof(
    segment: Segment, seconds: int, every: int, address: bytes, told: bytes | None
) -> list[dict[int, Told]]:
    out = []
    for second in range(seconds):
        if second % every == 0:
            segment.claim(MALLORY, address, told)
        out.append(segment.second())
    return out


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize(
    ("address", "told", "victims"),
    [
        (VICTIM_IP, None, {VICTIM}),
        (VICTIM_IP, BOB_IP, {VICTIM, BOB}),
        (DOM0_IP, BOB_IP, {arp.DOM0, BOB}),
        (ROUTER_IP, BOB_IP, {BOB}),
        (ROUTER_IP, None, set()),
    ],
)
def test_claims_of_what_another_uses_are_told_without_a_gap(
    segment: Segment, every: int, address: bytes, told: bytes | None, victims: set[int]
) -> None:
    seen = spoof(segment, 14, every, address, told)
    assert continuous(one[MALLORY].claims if MALLORY in one else 0 for one in seen) >= 10
    assert {domid for one in seen for domid, of in one.items() if of.claimed} == victims
    assert {domid for one in seen for domid, of in one.items() if of.claims} == {MALLORY}


@pytest.mark.parametrize("every", [5, 10, 14])
def test_claims_with_long_pauses_count_once_they_last(segment: Segment, every: int) -> None:
    seen = spoof(segment, 60, every, VICTIM_IP, BOB_IP)
    claims = [one[MALLORY].claims if MALLORY in one else 0 for one in seen]
    assert continuous(iter(claims[:30])) <= 4
    assert min(claims[32:]) >= 1 / 30
    assert {domid for domid, of in seen[-1].items() if of.claimed} == {VICTIM, BOB}


def test_of_whom_nothing_was_ever_heard_is_asked_and_its_address_is_its_own() -> None:
    fresh = Segment()
    seen = spoof(fresh, 14, 1, VICTIM_IP, None)
    assert VICTIM_IP in fresh.asked
    assert continuous(one[MALLORY].claims if MALLORY in one else 0 for one in seen) >= 11
    assert seen[-1][VICTIM].claimed


def test_who_answers_sooner_for_what_it_claims_is_not_believed() -> None:
    fresh = Segment()
    for _ in range(14):
        fresh.claim(MALLORY, VICTIM_IP)
        asked = fresh.watch.questions(fresh.now_s)
        for _place in asked:
            fresh.watch.take("br", MALLORY, Packet(VICTIM_IP, NOBODY, asks=False), fresh.now_s)
            fresh.watch.take("br", VICTIM, Packet(VICTIM_IP, NOBODY, asks=False), fresh.now_s)
        told = fresh.second()
    assert (MALLORY in told, told[MALLORY].claims > 0, told[VICTIM].claims) == (True, True, 0)


def test_what_takes_over_an_address_claims_it_for_seconds_only(segment: Segment) -> None:
    """As keepalived: five packets, and five more after five seconds; the old master is silent."""
    segment.users[VIP] = VICTIM
    segment.ask(BOB, BOB_IP, VIP)
    segment.second()
    segment.users[VIP] = BOB
    seen = []
    for second in range(20):
        for _ in range(5 if second in (0, 5) else 0):
            segment.claim(BOB, VIP, asks=True)
        if second > 2:
            segment.ask(OTHER, b"\n\0\0\x0d", VIP)
        seen.append(segment.second())
    assert not any(told.claims for one in seen for told in one.values())


def test_a_takeover_that_the_old_one_did_not_hear_of_is_over_before_anybody_is_suspected(
    segment: Segment,
) -> None:
    seen = []
    for second in range(20):
        for _ in range(5 if second in (0, 5) else 0):
            segment.claim(BOB, VICTIM_IP)  # who goes on to answer for it
        seen.append(segment.second())
    assert any(one[BOB].claims for one in seen if BOB in one)
    assert continuous(one[BOB].claims if BOB in one else 0 for one in seen) < 6


def test_who_reminds_others_of_its_own_address_for_ever_claims_nothing_of_others(segment: Segment) -> None:
    """As kube-vip, after another had the address and went silent."""
    segment.users[VIP] = VICTIM
    segment.ask(BOB, BOB_IP, VIP)
    segment.second()
    segment.users[VIP] = BOB
    for second in range(90):
        if second % 3 == 0:
            segment.claim(BOB, VIP)
        if second % 10 == 0:
            segment.ask(OTHER, b"\n\0\0\x0d", VIP)
        assert not any(told.claims for told in segment.second().values())


def test_nobody_is_convicted_by_another_that_begins_to_use_its_address(segment: Segment) -> None:
    """Not a weapon: who was there first may say so as often as it likes."""
    for _ in range(20):
        segment.claim(VICTIM, VICTIM_IP)
        segment.ask(MALLORY, VICTIM_IP, BOB_IP)
        segment.watch.take("br", MALLORY, Packet(VICTIM_IP, NOBODY, asks=False), segment.now_s)
        told = segment.second()
        assert not (VICTIM in told and told[VICTIM].claims)


def test_who_announced_itself_at_boot_and_was_silent_since_was_there_first(segment: Segment) -> None:
    segment.claim(OTHER, VIP, asks=True)
    segment.users[VIP] = OTHER
    for _ in range(40):
        segment.second()
    seen = spoof(segment, 10, 1, VIP, None)
    assert {domid for one in seen for domid, told in one.items() if told.claims} == {MALLORY}


def test_a_proxy_that_is_asked_and_who_boots_claim_nothing(segment: Segment) -> None:
    for _ in range(10):
        segment.ask(BOB, BOB_IP, VIP)
        segment.watch.take("br", OTHER, Packet(VIP, BOB_IP, asks=False), segment.now_s)  # as a proxy does
        segment.watch.take("br", OTHER, Packet(NOBODY, b"\n\0\0\x0d", asks=True), segment.now_s)
        assert not any(told.claims or told.claimed for told in segment.second().values())


def test_dom0s_own_questions_are_answered_and_not_claimed(segment: Segment) -> None:
    for _ in range(10):
        segment.ask(arp.DOM0, DOM0_IP, VICTIM_IP)
        assert not segment.second()


def test_the_same_address_on_two_bridges_is_nobodys_claim(segment: Segment) -> None:
    for _ in range(10):
        segment.watch.take("other", OTHER, Packet(VICTIM_IP, VICTIM_IP, asks=True), segment.now_s)
        assert not any(told.claims for told in segment.second().values())


def hosts(first: int, count: int) -> list[bytes]:
    return [bytes([10, 0, 1 + number // 250, number % 250]) for number in range(first, first + count)]


def test_a_sweep_is_told_with_how_much_of_it_was_answered(segment: Segment) -> None:
    segment.users.update(dict.fromkeys(hosts(0, 20), OUTSIDE))
    for address in hosts(0, 250):
        segment.ask(MALLORY, b"\n\0\0\x0a", address)
    told = segment.second()[MALLORY]
    assert (told.asked, told.answered) == (50, 4)
    for _ in range(10):
        told = segment.second().get(MALLORY, told)
    assert (told.asked, told.answered) == (0, 0), "told once more when it is over"


def test_hosts_that_are_down_are_asked_for_again_and_again_and_that_is_no_sweep(segment: Segment) -> None:
    rates = []
    for second in range(120):
        if second % 5 == 0:
            for address in hosts(0, 60):
                segment.ask(BOB, BOB_IP, address)
        told = segment.second()
        rates.append(told[BOB].asked if BOB in told else 0.0)
    assert max(rates[:6]) == 12
    assert set(rates[6:]) == {0.0}


def test_a_few_new_neighbours_are_not_worth_a_message(segment: Segment) -> None:
    for address in hosts(0, 15):
        segment.ask(BOB, BOB_IP, address)
    assert segment.second() == {}


def test_who_is_gone_owns_nothing(segment: Segment) -> None:
    segment.watch.keep({arp.DOM0, MALLORY, BOB, OUTSIDE})
    segment.users[VICTIM_IP] = MALLORY  # as it may: nobody else has it
    seen = spoof(segment, 30, 1, VICTIM_IP, None)
    assert not any(told.claims for one in seen for told in one.values())


PARTIES = st.sampled_from([0, 1, 2, 3, "eth0"])
ADDRESSES = st.sampled_from([NOBODY, DOM0_IP, VICTIM_IP, BOB_IP, VIP])
PACKETS = st.tuples(PARTIES, ADDRESSES, ADDRESSES, st.booleans(), st.floats(0, 5))


@given(st.lists(PACKETS, max_size=80))
def test_whatever_comes_only_who_sent_a_claim_is_told_to_have(
    packets: list[tuple[arp.Party, bytes, bytes, bool, float]],
) -> None:
    segment, sent = Segment(), set()
    for party, sender, target, asks, after_s in packets:
        segment.watch.take("br", party, Packet(sender, target, asks=asks), segment.now_s)
        if not asks or sender == target:
            sent.add(party)
        segment.now_s += after_s
        told = segment.second()
        assert {domid for domid, of in told.items() if of.claims} <= sent - {arp.DOM0}
        assert all(min(of.claims, of.claimed, of.asked, of.answered) >= 0 for of in told.values())


def test_a_flood_of_made_up_addresses_takes_nobodys_own_away(segment: Segment) -> None:
    for number in range(50_000):
        made_up = (0x0B000000 + number).to_bytes(4, "big")
        segment.watch.take("br", MALLORY, Packet(made_up, VIP, asks=True), segment.now_s)
    seen = spoof(segment, 10, 1, VICTIM_IP, None)
    assert seen[-1][MALLORY].claims > 0


@settings(max_examples=300)
@given(st.binary(max_size=64))
def test_any_frame_is_a_packet_or_none(raw: bytes) -> None:
    arp.parse(raw)
    arp.parse((bytes(12) + arp._HEAD + raw).ljust(arp.FRAME_BYTES, b"\0"))


def test_a_question_is_a_probe_that_teaches_nobody_an_address() -> None:
    asked = arp.parse(arp.question(VICTIM_IP, b"\2\0\0\0\0\1"))
    assert asked is not None
    assert (asked.asks, asked.sender, asked.target) == (True, NOBODY, VICTIM_IP)


def test_own_addresses_are_those_of_the_kernels_table() -> None:
    table = b"""Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/24 2 0 2
        +-- 10.0.0.0/30 2 0 2
           |-- 10.0.0.0
              /24 link UNICAST
           |-- 10.0.0.1
              /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
Local:
     |-- 127.0.0.1
        /32 host LOCAL
"""
    assert own_addresses(table) == {DOM0_IP, b"\x7f\0\0\1"}


@given(st.binary(max_size=200))
def test_any_table_of_addresses_can_be_read(text: bytes) -> None:
    assert all(len(address) == 4 for address in own_addresses(b"|-- " + text + b"\n/32 host LOCAL"))


def test_the_message_names_those_of_whom_there_is_most_to_tell() -> None:
    told = {}
    for domid in range(1, 40):
        told[domid] = Told()
        told[domid].claims = 85.333 * domid
    fields = parse_message(message(7, told), "arp").fields
    domids = fields["domids"].split(",")
    assert (len(domids), domids[0], fields["claims"].split(",")[0]) == (paths.MAX_ARP, "39", "3327.987")

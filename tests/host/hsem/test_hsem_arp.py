# SPDX-License-Identifier: LGPL-2.1-or-later
"""ARP, from the packets on: what dom0's agent makes of them, and HSEM of that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from simulate import Host, SimVm

from xenwarden_channel.signals import ARP_RATES
from xenwarden_guest.vsem.arp import DOM0, Packet, Watch
from xenwarden_host.records import LimitKey, Verdict, VmState, VmType

if TYPE_CHECKING:
    from collections.abc import Callable

ARP = LimitKey.parse("vif-pps/arp")
DOM0_IP, MALLORY_IP, VICTIM_IP, BOB_IP, VIP = (bytes([10, 0, 0, n]) for n in (1, 10, 11, 12, 99))
NOBODY = bytes(4)
BEGIN_S = 20
RESTING_S = 5  # between two looks of dom0's agent while there is nothing to tell


class Lan:
    """Mallory, victim and bob on one bridge with dom0, whose agent hears their ARP."""

    def __init__(self, **mallory: bool) -> None:
        vms = [SimVm("mallory", **mallory), SimVm("victim"), SimVm("bob"), SimVm("dom0", vm_type=VmType.DOM0)]  # type: ignore[arg-type]
        self.host = Host(*vms)
        self.watch = Watch()
        self.watch.own = {DOM0_IP}
        self.users = {MALLORY_IP: 1, VICTIM_IP: 2, BOB_IP: 3}
        self.doings: list[Callable[[int], None]] = []
        self.second_s = 0
        self._heard: list[tuple[int, Packet]] = []
        for own in (MALLORY_IP, VICTIM_IP, BOB_IP):
            self.ask(self.users[own], own, DOM0_IP)

    def send(self, domid: int, sender: bytes, target: bytes, *, asks: bool) -> None:
        self._heard.append((domid, Packet(sender, target, asks=asks)))

    def ask(self, domid: int, own: bytes, wanted: bytes) -> None:
        self.send(domid, own, wanted, asks=True)
        if self.users.get(wanted, domid) != domid:
            self.send(self.users[wanted], wanted, own, asks=False)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second_s += 1
            for doing in self.doings:
                doing(self.second_s)
            for vm in self.host.vms.values():
                vm.base_hrem = {}
            now_s = float(self.second_s)
            if self.watch.restless(now_s) or self.second_s % RESTING_S == 0:
                self._look(now_s)
            self.host.tick()

    def _look(self, now_s: float) -> None:
        for domid, packet in self._heard:
            self.watch.take("br", domid, packet, now_s)
        self._heard.clear()
        for _segment, address in self.watch.questions(now_s):
            if address in self.users:
                self.send(self.users[address], address, NOBODY, asks=False)
        for domid, told in self.watch.finish(now_s).items():
            (vm,) = [vm for vm in self.host.vms.values() if vm.domid == domid]
            vm.base_hrem = {signal: getattr(told, name) for name, signal in ARP_RATES.items()}

    def spoof(self, claimed: bytes, told: bytes, every_s: float, until_s: int = 10**6) -> None:
        def doing(second_s: int) -> None:
            if not BEGIN_S < second_s <= until_s:
                return
            for _ in range(round(1 / every_s) if every_s < 1 else second_s % round(every_s) == 0):
                self.send(1, claimed, told, asks=False)

        self.doings.append(doing)


@pytest.mark.parametrize("kind", [{}, {"lies": True}, {"agent": False}], ids=str)
@pytest.mark.parametrize("every_s", [0.1, 1, 2])
@pytest.mark.parametrize(
    ("claimed", "told", "victims"),
    [
        (VICTIM_IP, VICTIM_IP, {"victim"}),
        (DOM0_IP, VICTIM_IP, {"victim"}),
        (BOB_IP, VICTIM_IP, {"victim", "bob"}),
    ],
    ids=["of all", "as dom0", "as bob"],
)
def test_who_claims_what_others_use_is_an_attacker_within_30_s_and_only_its_arp_ends(
    kind: dict[str, bool], every_s: float, claimed: bytes, told: bytes, victims: set[str]
) -> None:
    lan = Lan(**kind)
    lan.spoof(claimed, told, every_s)
    lan.run(BEGIN_S + 30)
    host = lan.host
    assert host.verdict("mallory") is Verdict.ATTACKER
    assert host.vms["mallory"].limits == {ARP: 0}
    assert {key for _t, action in host.limited("mallory") for key in [action.key]} == {ARP}
    assert {name for name in host.vms if host.verdict(name) is Verdict.VICTIM} == victims
    for name in ("victim", "bob"):
        assert not host.limited(name)
    assert host.verdict("bob") in ((Verdict.VICTIM,) if "bob" in victims else (None,))
    assert ("arp-spoofed" in host.alerts("dom0")) == (claimed == DOM0_IP)


@pytest.mark.parametrize("every_s", [5, 10])
def test_pauses_between_the_claims_only_delay_the_verdict(every_s: float) -> None:
    lan = Lan(agent=False)
    lan.spoof(BOB_IP, VICTIM_IP, every_s)
    lan.run(BEGIN_S + 70)
    verdicts = {name: lan.host.verdict(name) for name in ("mallory", "victim", "bob")}
    assert verdicts == {"mallory": Verdict.ATTACKER, "victim": Verdict.VICTIM, "bob": Verdict.VICTIM}


@pytest.mark.parametrize("kind", [{"lies": True}, {"agent": False}], ids=str)
def test_who_goes_on_stays_contained_and_its_victim_does_not_suffer_any_more(kind: dict[str, bool]) -> None:
    lan = Lan(**kind)
    lan.spoof(VICTIM_IP, VICTIM_IP, 1, until_s=400)
    lan.run(400)
    assert lan.host.state("mallory") is VmState.CONTAINED
    assert len(lan.host.verdicts("victim")) == 1
    assert lan.host.state("victim") is VmState.NORMAL
    lan.run(60)
    assert lan.host.state("mallory") is VmState.NORMAL
    assert not lan.host.vms["mallory"].limits


def test_a_daemon_that_restarts_keeps_none_of_its_arp_passing() -> None:
    lan = Lan()
    lan.spoof(VICTIM_IP, VICTIM_IP, 1)
    lan.run(BEGIN_S + 30)
    lan.host.restart_daemon()
    lan.run(5)
    assert (lan.host.state("mallory"), lan.host.vms["mallory"].limits) == (VmState.CONTAINED, {ARP: 0})


def takes_over(lan: Lan) -> None:
    """As keepalived on bob, from victim, which is silent from then on."""
    lan.users[VIP] = 2
    lan.ask(3, BOB_IP, VIP)

    def doing(second_s: int) -> None:
        lan.users[VIP] = 2 if second_s < BEGIN_S else 3
        for _ in range(5 if second_s in (BEGIN_S, BEGIN_S + 5) else 0):
            lan.send(3, VIP, VIP, asks=True)

    lan.doings.append(doing)


def both_take_over(lan: Lan) -> None:
    """As keepalived on bob and on victim, which do not hear of each other."""
    takes_over(lan)

    def doing(second_s: int) -> None:
        lan.ask(1, MALLORY_IP, VIP)
        lan.send(2, VIP, MALLORY_IP, asks=False)
        for _ in range(5 if second_s in (BEGIN_S + 2, BEGIN_S + 7) else 0):
            lan.send(2, VIP, VIP, asks=True)

    lan.doings.append(doing)


def reminds(lan: Lan) -> None:
    """As kube-vip on bob, of an address that mallory soon uses, too."""
    lan.users[VIP] = 3
    lan.ask(2, VICTIM_IP, VIP)

    def doing(second_s: int) -> None:
        if second_s % 3 == 0:
            lan.send(3, VIP, VIP, asks=True)
        if second_s > BEGIN_S:
            lan.ask(1, VIP, DOM0_IP)

    lan.doings.append(doing)


def frames(lan: Lan) -> None:
    """As mallory, that asks the others for what is theirs, in each other's name."""

    def doing(second_s: int) -> None:
        if second_s > BEGIN_S:
            for asked, asker in ((VICTIM_IP, BOB_IP), (BOB_IP, VICTIM_IP), (DOM0_IP, BOB_IP), (BOB_IP, VIP)):
                lan.ask(1, asker, asked)

    lan.doings.append(doing)


def watches(lan: Lan) -> None:
    """As bob, that polls sixty hosts of which all are down, for ever."""

    def doing(second_s: int) -> None:
        for number in range(60 if second_s % 5 == 0 else 0):
            lan.ask(3, BOB_IP, bytes([10, 0, 2, number]))

    lan.doings.append(doing)


def boots(lan: Lan) -> None:
    """As a node of a cluster on bob, that meets seventy neighbours at once."""

    def doing(second_s: int) -> None:
        if second_s == BEGIN_S:
            lan.send(3, NOBODY, BOB_IP, asks=True)
            lan.send(3, BOB_IP, BOB_IP, asks=True)
            for number in range(70):
                lan.users[bytes([10, 0, 2, number])] = DOM0
                lan.ask(3, BOB_IP, bytes([10, 0, 2, number]))

    lan.doings.append(doing)


@pytest.mark.parametrize("life", [takes_over, both_take_over, reminds, frames, watches, boots])
def test_honest_arp_raises_nobody(life: Callable[[Lan], None]) -> None:
    lan = Lan()
    life(lan)
    lan.run(BEGIN_S + 100)
    host = lan.host
    assert {name: host.state(name) for name in ("victim", "bob")} == dict.fromkeys(
        ("victim", "bob"), VmState.NORMAL
    )
    for name in ("victim", "bob"):
        assert not host.limited(name)
        assert host.verdict(name) in (None, Verdict.NEITHER)


def sweep(lan: Lan, count: int) -> None:
    def doing(second_s: int) -> None:
        if BEGIN_S < second_s <= BEGIN_S + count // 100:
            for number in range((second_s - BEGIN_S - 1) * 100, (second_s - BEGIN_S) * 100):
                lan.ask(1, MALLORY_IP, bytes([10, 0, 3 + number // 250, number % 250]))

    lan.doings.append(doing)


@pytest.mark.parametrize("kind", [{}, {"lies": True}, {"agent": False}], ids=str)
def test_a_sweep_of_the_segment_is_a_scan_and_some_arp_is_left(kind: dict[str, bool]) -> None:
    lan = Lan(**kind)
    sweep(lan, 300)
    lan.run(BEGIN_S + 30)
    assert lan.host.verdict("mallory") is Verdict.ATTACKER
    assert {key: value > 0 for key, value in lan.host.vms["mallory"].limits.items()} == {ARP: True}


def test_a_router_asks_for_those_to_whom_others_send() -> None:
    lan = Lan()
    lan.host.vms["mallory"].base = {"rx_pps": 200.0, "tx_pps": 10.0}
    sweep(lan, 300)
    lan.run(BEGIN_S + 60)
    assert lan.host.verdict("mallory") is not Verdict.ATTACKER
    assert not lan.host.limited("mallory")


def test_the_policy_can_let_some_of_it_pass() -> None:
    lan = Lan()
    policy = lan.host.policy
    rules = tuple(replace(rule, stop=False) if rule.name == "arp-spoof" else rule for rule in policy.rules)
    lan.host.hsem.policy = replace(policy, rules=rules)
    lan.spoof(VICTIM_IP, VICTIM_IP, 1)
    lan.run(BEGIN_S + 30)
    assert lan.host.vms["mallory"].limits == {ARP: 1}

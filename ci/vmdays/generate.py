# SPDX-License-Identifier: LGPL-2.1-or-later
"""One host's day: VMs by their profiles, and attacks mixed in at known times and strengths."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vmdays.peers import Aim, told
from xenwarden_host.policy.load import defaults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROFILES = Path(__file__).with_name("profiles.yaml")
DAY_S = 86400
WARM_UP_S = 6 * 3600  # no attack before: something must have been learnt
GAP_S = 3600  # between two attacks on or by one VM
STRENGTHS = (1.0, 1.5, 2.0, 4.0, 8.0)

# Answers follow what they answer, whatever the noise.
ANSWERS = {
    "rx_synack_pps": "tx_syn_pps",
    "tx_synack_pps": "rx_syn_pps",
    "rx_udp_pps": "tx_udp_pps",
    "tcp_open_ps": "tx_syn_pps",
}
COUNTED = ("tx_pps", "tx_bps", "rx_pps", "rx_bps")  # by dom0, too
# An attack by its family: who of the two it makes of the VM; the signal that its strength is told in,
# and what it adds for each of those; what of it comes back. Strength 1 is the 95th percentile of the
# VM's own signal, or LEAST of the prior where the VM's own is next to nothing.
LEAST = 0.5
_TARGET = 100_000  # beyond all addresses of ordinary life
FAMILIES: dict[str, tuple[str, str, dict[str, float]]] = {
    "syn-flood": (
        "attacker",
        "tx_syn_pps",
        {"tx_pps": 1, "tx_bps": 480, "rx_synack_pps": 0.1, "rx_pps": 0.1},
    ),
    "udp-flood": (
        "attacker",
        "tx_udp_pps",
        {"tx_pps": 1, "tx_bps": 4000, "rx_udp_pps": 0.02, "rx_pps": 0.02},
    ),
    "icmp-flood": ("attacker", "tx_icmp_pps", {"tx_pps": 1, "tx_bps": 800, "rx_pps": 0.5, "rx_bps": 400}),
    "scan": (
        "attacker",
        "tx_dests",
        {
            "tx_syn_pps": 0.5,
            "tx_pps": 0.5,
            "tx_bps": 240,
            "tcp_open_ps": 0.5,
            "tcp_fail_ps": 0.1,
            "rx_pps": 0.1,
        },
    ),
    "failed-connections": (
        "attacker",
        "tcp_fail_ps",
        {"tx_syn_pps": 1, "tx_pps": 3, "tx_bps": 2000, "tcp_open_ps": 1, "rx_pps": 3, "rx_bps": 1500},
    ),
    # A server gives each connection up after a minute, and another one is opened.
    "slow-http": (
        "attacker",
        "tcp_held",
        {
            "tcp_stalling": 1,
            "tcp_open_ps": 1 / 60,
            "tx_syn_pps": 1 / 60,
            "tx_pps": 0.2,
            "tx_bps": 140,
            "rx_pps": 0.2,
            "rx_bps": 110,
        },
    ),
    "in-slow-http": (
        "victim",
        "tcp_taken",
        {
            "tcp_stalled": 1,
            "rx_syn_pps": 1 / 60,
            "tx_synack_pps": 1 / 60,
            "rx_pps": 0.2,
            "rx_bps": 140,
            "tx_pps": 0.2,
            "tx_bps": 110,
        },
    ),
    "in-syn-flood": (
        "victim",
        "rx_syn_pps",
        {"rx_pps": 1, "rx_bps": 480, "tx_synack_pps": 0.8, "tx_pps": 0.8},
    ),
    "in-udp-flood": ("victim", "rx_udp_pps", {"rx_pps": 1, "rx_bps": 4000, "tx_pps": 0.02}),
    "in-icmp-flood": ("victim", "rx_icmp_pps", {"rx_pps": 1, "rx_bps": 800, "tx_pps": 1, "tx_bps": 800}),
}

# Claims by ARP per second, as dom0's agent hears them: a spoofer's strengths, by no VM's own scale.
CLAIMS_PPS = (0.1, 0.5, 1.0, 10.0)
_TAKEOVER = 10  # claims of who takes over an address, and its old master still answers for it


@dataclass(frozen=True, slots=True)
class Episode:
    """One attack: what is true of `vm` from `begin_s` to `end_s`."""

    vm: str
    family: str
    truth: str  # "attacker" or "victim"
    strength: float
    begin_s: float
    end_s: float


@dataclass(slots=True)
class HostDay:
    """A host's day: the recording's lines, and what is true of it."""

    lines: list[bytes]
    episodes: list[Episode]
    vms: list[str]
    interval_s: float
    values: dict[str, list[tuple[float, dict[str, float]]]] = field(default_factory=dict)  # by VM


def profiles(path: Path = PROFILES) -> dict[str, Any]:
    """Read profiles."""
    data: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data


class _Vm:
    """One VM: its own scale, its events of the day, its attacks."""

    def __init__(self, name: str, profile: Mapping[str, Any], dice: random.Random, interval_s: float) -> None:
        self.name = name
        self._profile = profile
        self._dice = dice
        self._interval_s = interval_s
        self.destinations: list[list[str | float]] | None = None  # of the last line
        self._scale = profile["spread"] ** dice.uniform(-1, 1)
        self._events = []
        for event in profile.get("events", {}).values():
            for _ in range(event["per_day"]):
                begin_s = dice.uniform(0, DAY_S)
                self._events.append((begin_s, begin_s + 60 * event["minutes"], event))
        self.attacks: list[tuple[Episode, float]] = []  # with how much it adds

    def p95(self, signal: str) -> float:
        """Return about the 95th percentile of what the VM does by itself, by its profile."""
        value: float = self._profile["signals"].get(signal, 0.0)
        return value * self._scaled(signal) * math.exp(1.2 * self._profile["noise"])

    def _scaled(self, signal: str) -> float:
        return 1.0 if signal in ("cpu_pct", "tx_top_share", "tx_dests", "rx_sources") else self._scale

    def at(self, t: float) -> dict[str, float] | None:
        """Return the VM's signals over the interval that ends at `t`; None where it does not report."""
        profile, dice = self._profile, self._dice
        hour = 2 * math.pi * (t / 3600 - profile["peak"]) / 24
        night: float = profile["night"]
        load = night + (1 - night) * (0.5 + 0.5 * math.cos(hour))
        # Longer intervals average over what short ones show.
        sigma = profile["noise"] / math.sqrt(max(1.0, self._interval_s / 30))
        together = dice.gauss(0, sigma / 2)
        out: dict[str, float] = {}
        aims = []
        for name, most in profile["signals"].items():
            share = 1.0 if name == "tx_top_share" else load
            out[name] = most * share * self._scaled(name) * math.exp(together + dice.gauss(0, sigma / 2))
        for answer, asked in ANSWERS.items():
            if profile["signals"].get(asked):
                ratio = profile["signals"].get(answer, 0.0) / profile["signals"][asked]
                out[answer] = out[asked] * min(ratio, ratio * math.exp(dice.gauss(0, 0.03)))
        for begin_s, end_s, event in self._events:
            if begin_s <= t < end_s:
                if event.get("silent"):
                    return None
                for name, times in event.get("times", {}).items():
                    out[name] *= times
                size = math.exp(dice.gauss(0, 0.15))
                adds_of = event.get("adds", {})
                for name, adds in adds_of.items():
                    out[name] += adds * size
                hosts = event.get("hosts", 1)
                aims.append(
                    Aim(
                        size * adds_of.get("tx_pps", 0),
                        size * adds_of.get("tx_syn_pps", 0),
                        90_000,
                        hosts,
                        port=443,
                    )
                )
        for episode, adds in self.attacks:
            if episode.begin_s < t <= episode.end_s:
                key, also = FAMILIES[episode.family][1:]
                size = adds * math.exp(dice.gauss(0, 0.1))
                out[key] += size
                for name, each in also.items():
                    out[name] = out.get(name, 0.0) + size * each
                aim = _aim(episode, size, also)
                aims.append(aim)
                if aim.addresses > 1 and key != "tx_dests":
                    out["tx_dests"] += min(aim.addresses, size * self._interval_s)
                elif episode.truth == "attacker" and key != "tx_dests":
                    out["tx_top_share"] = max(out["tx_top_share"], size / max(out["tx_pps"], size))
                out["cpu_pct"] += 5
        out["cpu_pct"] = min(out["cpu_pct"], 100.0)
        out["tx_top_share"] = min(out["tx_top_share"], 1.0)
        # An agent tells more while there is more than ordinary life.
        self.destinations = told(out, aims, self._dice) if aims else None
        return out


def _aim(episode: Episode, size: float, also: Mapping[str, float]) -> Aim:
    """Return where an attack's packets go."""
    pps = size * also["tx_pps"]
    match episode.family:
        case "syn-flood":
            return Aim(pps, size, _TARGET, port=80)
        case "udp-flood":
            return Aim(pps, 0, _TARGET, protocol="udp", port=53)
        case "icmp-flood":
            return Aim(pps, 0, _TARGET, protocol="icmp")
        case "slow-http":
            return Aim(pps, size * also["tx_syn_pps"], _TARGET, port=80)
        case "scan":
            return Aim(pps, size * also["tx_syn_pps"], _TARGET, 1 << 20, port=22)
        case "failed-connections" if int(episode.begin_s) % 3 == 0:  # one port of a network's hosts
            return Aim(pps, size, _TARGET, 254, port=22)
        case "failed-connections":  # the ports of one host
            return Aim(pps, size, _TARGET, port=None)
    return Aim(pps, 0, _TARGET, 1 << 20, port=None)  # answers to whoever is behind it


def _attacks(vm: _Vm, dice: random.Random, per_day: int, kinds: Mapping[str, Any]) -> Iterator[Episode]:
    priors = defaults().profiles["unknown"]
    t = WARM_UP_S + dice.uniform(0, GAP_S)
    for _ in range(per_day):
        family, strength = dice.choice(sorted(kinds)), dice.choice(STRENGTHS)
        end_s = t + dice.uniform(300, 900)
        if end_s > DAY_S:
            return
        truth, key, _also = kinds[family]
        episode = Episode(vm.name, family, truth, strength, t, end_s)
        vm.attacks.append((episode, strength * max(vm.p95(key), LEAST * priors.get(key, 0.0))))
        yield episode
        t = end_s + GAP_S + dice.uniform(0, (DAY_S - WARM_UP_S) / per_day - GAP_S)


def _together(vms: list[_Vm], dice: random.Random, senders: int) -> Iterator[Episode]:
    """Yield floods of one VM by others, from twice what is usual for the one on."""
    prior = defaults().profiles["unknown"]["rx_syn_pps"]
    for half in range(2):
        begin_s = WARM_UP_S + GAP_S + half * (DAY_S - WARM_UP_S) / 2 + dice.uniform(0, GAP_S)
        end_s = begin_s + dice.uniform(300, 900)
        victim, *others = dice.sample(vms, senders + 1)
        strength = dice.choice([2.0, 2.5, 3.0])
        adds = strength * max(victim.p95("rx_syn_pps"), LEAST * prior)
        for vm, family, part in [
            (victim, "in-syn-flood", 1.0),
            *((vm, "syn-flood", 1 / senders) for vm in others),
        ]:
            episode = Episode(vm.name, family, FAMILIES[family][0], strength, begin_s, end_s)
            vm.attacks.append((episode, part * adds))
            yield episode


def _spoofs(vms: list[_Vm], dice: random.Random) -> Iterator[Episode]:
    """Yield one VM's claims of another's address, at each strength once a day."""
    part_s = (DAY_S - WARM_UP_S) / len(CLAIMS_PPS)
    for number, strength in enumerate(CLAIMS_PPS):
        begin_s = WARM_UP_S + number * part_s + dice.uniform(0, part_s - GAP_S)
        end_s = begin_s + dice.uniform(300, 900)
        spoofer, victim = dice.sample(vms, 2)
        yield Episode(spoofer.name, "arp-spoof", "attacker", strength, begin_s, end_s)
        yield Episode(victim.name, "in-arp-spoof", "victim", strength, begin_s, end_s)


def _heard(
    vm: str, t: float, interval_s: float, spoofs: list[Episode], takeovers: Mapping[str, int]
) -> dict[str, float]:
    """Return what dom0's agent tells of a VM's ARP in the interval that ends at `t`."""
    for episode in spoofs:
        if episode.vm == vm and episode.begin_s < t <= episode.end_s:
            signal = "arp_claim_pps" if episode.truth == "attacker" else "arp_claimed_pps"
            return {signal: episode.strength}
    if takeovers.get(vm) == int(t // interval_s):
        return {"arp_claim_pps": _TAKEOVER / interval_s}
    return {}


def host_day(
    seed: int,
    of: Mapping[str, Any],
    *,
    vms: int = 5,
    interval_s: float = 30,
    attacks_per_day: int = 4,
    together: int = 0,
    spoofs: bool = False,
) -> HostDay:
    """Make a day of a host. The same seed and profiles give the same day.

    `together`: twice that day so many VMs flood another one together, each with an equal part; what dom0
    counts of all VMs is in the recording then, too. `spoofs`: VMs claim others' addresses by ARP, and
    each takes over an address once that day.
    """
    dice = random.Random(seed)  # noqa: S311  a day like any other, no secret
    names = sorted(of)
    made = []
    for number in range(vms):
        kind = dice.choice(names)
        made.append(_Vm(f"{kind}-{number}", of[kind], dice, interval_s))
    episodes = [episode for vm in made for episode in _attacks(vm, dice, attacks_per_day, FAMILIES)]
    if together:
        episodes += _together(made, dice, together)
    spoofed = list(_spoofs(made, dice)) if spoofs else []
    takeovers = {vm.name: int(dice.uniform(0, DAY_S) // interval_s) for vm in made} if spoofs else {}
    episodes += spoofed
    day = HostDay(
        [json.dumps({"xenwarden_recording": 1, "interval_s": interval_s}).encode()],
        episodes,
        [vm.name for vm in made],
        interval_s,
        {vm.name: [] for vm in made},
    )
    for step in range(1, int(DAY_S / interval_s) + 1):
        t = step * interval_s
        for vm in made:
            values = vm.at(t)
            if values is not None:
                if together:
                    values |= {f"vif_{name}": values[name] for name in COUNTED}
                values |= _heard(vm.name, t, interval_s, spoofed, takeovers)
                rounded = {name: round(value, 3) for name, value in values.items()}
                day.values[vm.name].append((t, rounded))
                line: dict[str, Any] = {"t": t, "vm": vm.name, "signals": rounded}
                if vm.destinations:
                    line["destinations"] = vm.destinations
                day.lines.append(json.dumps(line).encode())
    return day

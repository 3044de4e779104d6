# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom a VM sends to in one interval, told as an agent tells it at level 2: by the agent's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xenwarden_guest.vsem.headers import Header, Networks
from xenwarden_guest.vsem.plan import Plan
from xenwarden_guest.vsem.talkers import Talkers

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping

SAMPLES = 60  # packets that an interval's detail is made of, and as many SYN
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}
_PLAN = Plan(0)
_PORTS = (443, 80, 5432, 8080, 25, 3306)


class Aim(NamedTuple):
    """Packets on top of ordinary ones: of how many addresses, from which on, at which port (None: any)."""

    pps: float
    syn_pps: float
    first: int = 0
    addresses: int = 1
    protocol: str = "tcp"
    port: int | None = 0


def told(values: Mapping[str, float], aims: Iterable[Aim], dice: random.Random) -> list[list[str | float]]:
    """Return the top destinations of these signals, part of which are the `aims`."""
    aims = list(aims)
    talkers = Talkers(Networks(), outgoing=True)
    for syn, whole in ((True, values["tx_syn_pps"]), (False, values["tx_pps"] - values["tx_syn_pps"])):
        rates = [aim.syn_pps if syn else max(0.0, aim.pps - aim.syn_pps) for aim in aims]
        rest = max(0.0, whole - sum(rates))
        weight = (rest + sum(rates)) / SAMPLES
        if weight <= 0:
            continue
        ordinary = _ordinary(values, syn=syn)
        for aim in dice.choices([*aims, ordinary], [*rates, rest], k=SAMPLES):
            talkers.add(_packet(aim, dice, syn=syn), _PLAN, weight)
    return [_peer(line) for line in talkers.top(values["tx_pps"], values["tx_syn_pps"])]


def _ordinary(values: Mapping[str, float], *, syn: bool) -> Aim:
    udp = 0.0 if syn else values["tx_udp_pps"] / max(values["tx_pps"], 1e-9)
    return Aim(0, 0, -1, max(1, int(values["tx_dests"])), "udp" if udp > 0.5 else "tcp", -1)


def _packet(aim: Aim, dice: random.Random, *, syn: bool) -> Header:
    # The more frequent an address, the lower its number; those of an attack are all alike.
    place = int(aim.addresses * dice.random() ** (3 if aim.port == -1 else 1))
    address = (10 << 24) + (place if aim.port == -1 else aim.first + place)
    header = Header(b"\0\0\0\0", address.to_bytes(4, "big"), _PROTOCOLS[aim.protocol])
    if aim.protocol != "icmp":
        header.dest_port = (
            dice.randrange(1, 65536)
            if aim.port is None
            else _PORTS[place % 6]
            if aim.port == -1
            else aim.port
        )
    header.syn = syn
    return header


def _peer(line: str) -> list[str | float]:
    _address, protocol, port, pps, syn_pps = line.split(",")
    return [protocol, int(port), float(pps), float(syn_pps)]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""In dom0: who claims by ARP what another uses, and who asks for addresses that are not there; pure.

A *claim* is an ARP packet that nobody asked for and that says where an address is: a gratuitous one, or a
reply without its request. A VM sends a few when it boots, migrates or takes over an address. It is held
against its sender only while somebody else uses the address still: who used it first, is another party of
the same segment, and was heard since, by its own ARP or by its answer to a question of ours. So it is not
what a cluster does that moves an address, and whose claims they are tells the port alone that they came by.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    Party = int | str  # a domain by its domid, 0 for dom0; what is outside by the name of its port
    Place = tuple[str, bytes]  # an address of a segment

FRAME_BYTES = 42  # Ethernet's header and ARP's for IPv4
_HEAD = b"\x08\x06\0\x01\x08\0\x06\x04"  # ARP, of Ethernet and IPv4
_REQUEST, _REPLY = 1, 2
_NOBODY = bytes(4)

DOM0 = 0
WINDOW_S = 3.0  # claims are told as their mean over so long
_SWEEP_S = 5.0  # and addresses asked for over so long
_WORTH_TELLING = 20  # of addresses asked for in that time: a VM that boots asks for a few
_ANSWER_S = 5.0  # an answer comes within so long
_HEARD_S = 8.0  # who was heard of so long ago uses its address still
_ASK_AGAIN_S = 2.0  # whether it does: asked as often,
_ASK_FROM = 3  # from so many claims on: who boots sends fewer
_UNCONTESTED_S = 10.0  # claimed for so long, and nobody else was heard: it is the claimer's
_QUIET_S = 30.0  # a claim after so long is another one
_LASTING_S = 30.0  # who claims for longer than that does it, whatever the pauses,
_PAUSES = 3  # up to so many times what they were until then
_KNOWN_S = 300.0  # an address asked for again before is none of a sweep's
_LEFT_S = 600.0  # who was not heard of for so long has left an address to who uses it next
_MAX_OWNERS, _MAX_OWNED = 16384, 1024  # in all; of one party, so that none takes the place of all others
_MAX_ASKED, _MAX_CLAIMS, _MAX_CLAIM_TIMES = 1024, 256, 256
_MAX_SWEEPS, _MAX_KNOWN = 1024, 4096


class Packet:
    """What counts of an ARP packet: request or reply, the addresses of who sent it and of who is meant."""

    __slots__ = ("asks", "sender", "target")

    def __init__(self, sender: bytes, target: bytes, *, asks: bool) -> None:
        self.sender = sender
        self.target = target
        self.asks = asks


def parse(frame: bytes) -> Packet | None:
    """Return the ARP packet of an Ethernet frame, None where it is none for IPv4; total."""
    if len(frame) < FRAME_BYTES or frame[12:20] != _HEAD:
        return None
    operation = int.from_bytes(frame[20:22], "big")
    if operation not in (_REQUEST, _REPLY):
        return None
    return Packet(frame[28:32], frame[38:42], asks=operation == _REQUEST)


def question(address: bytes, mac: bytes) -> bytes:
    """Return the frame that asks who has an address, as RFC 5227 does: no neighbour table learns from it."""
    asked = b"\0\x01" + mac + _NOBODY + bytes(6) + address
    return b"\xff" * 6 + mac + _HEAD + asked


class Told:
    """What is told of one domain, per second."""

    __slots__ = ("answered", "asked", "claimed", "claims")

    def __init__(self) -> None:
        self.claims = 0.0  # that it sent, of what another uses
        self.claimed = 0.0  # that others sent, of what it uses, or to it
        self.asked = 0.0  # addresses that it asked for, and not before
        self.answered = 0.0  # of these


class _Owner:
    """Who used an address first, and when it was last heard to."""

    __slots__ = ("heard_s", "party")

    def __init__(self, party: Party, heard_s: float) -> None:
        self.party = party
        self.heard_s = heard_s


class _Claims:
    """What one party claims an address with, since it began."""

    __slots__ = ("asked_s", "count", "first_s", "sent")

    def __init__(self, first_s: float) -> None:
        self.first_s = first_s
        self.count = 0
        self.asked_s = float("-inf")  # whether anybody else uses it
        self.sent: deque[tuple[float, bytes]] = deque(maxlen=_MAX_CLAIM_TIMES)  # when, and to whom

    def lasts(self, now_s: float) -> bool:
        """Tell whether this is more than what happens once."""
        return now_s - self.first_s > _LASTING_S

    def rates(self, now_s: float) -> list[tuple[bytes, float]]:
        """Return to whom it is told now, and how often, per second."""
        lately = [(target, 1 / WINDOW_S) for at_s, target in self.sent if now_s - at_s <= WINDOW_S]
        last_s, target = self.sent[-1]
        pause_s = (last_s - self.first_s) / max(1, self.count - 1)
        if lately or not self.lasts(now_s) or now_s - last_s > _PAUSES * pause_s:
            return lately
        return [(target, self.count / (now_s - self.first_s))]


class _Sweep:
    """The addresses that one domain asked for."""

    __slots__ = ("answered", "known", "new")

    def __init__(self) -> None:
        self.known: dict[bytes, float] = {}  # when it last asked
        self.new: dict[bytes, float] = {}  # when it first did
        self.answered: set[bytes] = set()

    def ask(self, address: bytes, now_s: float) -> None:
        """Note that it asked."""
        asked_s = self.known.pop(address, None)
        self.known[address] = now_s
        if asked_s is None or now_s - asked_s > _KNOWN_S:
            self.new.pop(address, None)
            self.new[address] = now_s
        _bound(self.known, _MAX_KNOWN)
        _bound(self.new, _MAX_KNOWN)

    def rates(self, now_s: float) -> tuple[float, float]:
        """Return how many addresses it asked for lately, and how many of them answered, per second."""
        for address in [address for address, at_s in self.new.items() if now_s - at_s > _SWEEP_S]:
            del self.new[address]
        self.answered &= self.new.keys()
        return len(self.new) / _SWEEP_S, len(self.answered) / _SWEEP_S


class Watch:
    """Takes in all ARP of all segments; `finish` tells what is to be told."""

    __slots__ = ("_asked", "_claims", "_owned", "_owners", "_sweeps", "_told", "own")

    def __init__(self) -> None:
        self.own: Collection[bytes] = ()  # dom0's addresses
        self._owners: dict[Place, _Owner] = {}
        self._owned: dict[Party, int] = {}  # so many of them
        self._asked: dict[tuple[str, bytes, bytes], tuple[Party, float]] = {}  # what, for whom: by whom, when
        self._claims: dict[tuple[str, bytes, Party], _Claims] = {}
        self._sweeps: dict[int, _Sweep] = {}
        self._told: set[int] = set()

    def take(self, segment: str, party: Party, packet: Packet, now_s: float) -> None:
        """Take in a packet that came from `party`."""
        sender, target = packet.sender, packet.target
        if packet.asks and sender != target:
            if sender != _NOBODY:
                self._uses((segment, sender), party, now_s)
            self.asked(segment, target, sender, party, now_s)
            if isinstance(party, int) and party != DOM0 and self._sweep(party) is not None:
                self._sweeps[party].ask(target, now_s)
            return
        asked = self._asked.get((segment, sender, target))
        if asked is not None and asked[0] != party and now_s - asked[1] <= _ANSWER_S:
            self._uses((segment, sender), party, now_s)
            sweep = self._sweeps.get(asked[0]) if isinstance(asked[0], int) else None
            if sweep is not None and sender in sweep.new:
                sweep.answered.add(sender)
        elif party != DOM0 and sender != _NOBODY:
            key = (segment, sender, party)
            claims = self._claims.get(key)
            if claims is None or now_s - claims.sent[-1][0] > _QUIET_S:
                claims = self._claims[key] = _Claims(now_s)
                _bound(self._claims, _MAX_CLAIMS)
            claims.sent.append((now_s, target))
            claims.count += 1

    def asked(self, segment: str, address: bytes, asker: bytes, party: Party, now_s: float) -> None:
        """Note that `party` asked for an address, in the name of `asker`: an answer is no claim then."""
        key = (segment, address, asker)
        self._asked.pop(key, None)
        self._asked[key] = (party, now_s)
        _bound(self._asked, _MAX_ASKED)

    def _sweep(self, domid: int) -> _Sweep | None:
        if domid not in self._sweeps and len(self._sweeps) < _MAX_SWEEPS:
            self._sweeps[domid] = _Sweep()
        return self._sweeps.get(domid)

    def _uses(self, place: Place, party: Party, now_s: float) -> None:
        """Note that a party uses an address in a way that claims nothing."""
        owner = self._owners.get(place)
        if owner is not None and owner.party == party:
            owner.heard_s = now_s
        elif (owner is None or now_s - owner.heard_s > _LEFT_S) and (*place, party) not in self._claims:
            # Who claims it against somebody else answers for it, too, and perhaps sooner.
            self._own(place, party, now_s)

    def _own(self, place: Place, party: Party, now_s: float) -> None:
        before = self._owners.pop(place, None)
        if before is not None:
            self._owned[before.party] -= 1
        owned = self._owned.get(party, 0)
        if owned < _MAX_OWNED and len(self._owners) < _MAX_OWNERS:
            self._owners[place] = _Owner(party, now_s)
            self._owned[party] = owned + 1

    def _owner(self, place: Place) -> Party | None:
        if place[1] in self.own:
            return DOM0
        owner = self._owners.get(place)
        return None if owner is None else owner.party

    def _disputes(self, place: Place, party: Party) -> bool:
        """Tell whether what the party claims may be another's; what is outside may quarrel there."""
        owner = self._owner(place)
        return owner != party if isinstance(party, int) else isinstance(owner, int)

    def _is_used(self, place: Place, claims: _Claims, now_s: float) -> bool:
        """Tell whether the owner was heard since the claims began, and a moment ago."""
        owner = self._owners.get(place)
        heard_s = float("-inf") if owner is None else owner.heard_s
        lately_s = _QUIET_S if claims.lasts(now_s) else _HEARD_S
        return place[1] in self.own or (heard_s > claims.first_s and now_s - heard_s <= lately_s)

    def questions(self, now_s: float) -> list[Place]:
        """Return the addresses of which to ask now whether somebody uses them, and take them for asked."""
        out = []
        for (segment, address, party), claims in self._claims.items():
            place = (segment, address)
            due = now_s - claims.asked_s >= _ASK_AGAIN_S and now_s - claims.sent[-1][0] <= WINDOW_S
            if due and claims.count >= _ASK_FROM and address not in self.own and self._disputes(place, party):
                claims.asked_s = now_s
                self.asked(segment, address, _NOBODY, DOM0, now_s)
                out.append(place)
        return out

    def finish(self, now_s: float) -> dict[int, Told]:
        """Return what to tell, by domid: of whom there is anything, and once more when it is over."""
        out: dict[int, Told] = {}
        for (segment, address, party), claims in list(self._claims.items()):
            if now_s - claims.sent[-1][0] > _QUIET_S:
                del self._claims[segment, address, party]
                continue
            place = (segment, address)
            owner = self._owner(place)
            if owner is None and now_s - claims.first_s > _UNCONTESTED_S:
                self._own(place, party, claims.sent[-1][0])
            if owner in (None, party) or not self._is_used(place, claims, now_s):
                continue
            for target, rate in claims.rates(now_s):
                if isinstance(party, int):
                    out.setdefault(party, Told()).claims += rate
                for sufferer in {owner, owner if target == address else self._owner((segment, target))}:
                    if isinstance(sufferer, int) and sufferer != party:
                        out.setdefault(sufferer, Told()).claimed += rate
        for domid, sweep in self._sweeps.items():
            asked, answered = sweep.rates(now_s)
            if asked * _SWEEP_S >= _WORTH_TELLING or domid in out or domid in self._told:
                told = out.setdefault(domid, Told())
                told.asked, told.answered = asked, answered
        ended = self._told - out.keys()
        self._told = {domid for domid, told in out.items() if told.claims or told.claimed or told.asked}
        return {**out, **{domid: Told() for domid in ended}}

    def restless(self, now_s: float) -> bool:
        """Tell whether to look often: somebody claims what may be another's, or asks for many."""
        for (segment, address, party), claims in self._claims.items():
            if now_s - claims.sent[-1][0] <= _QUIET_S and self._disputes((segment, address), party):
                return True
        return bool(self._told) or any(
            len(sweep.new) >= _WORTH_TELLING / 2 for sweep in self._sweeps.values()
        )

    def keep(self, parties: Collection[Party]) -> None:
        """Forget what is known of all others: their ports are gone."""
        self._owners = {place: owner for place, owner in self._owners.items() if owner.party in parties}
        self._owned = {party: owned for party, owned in self._owned.items() if party in parties}
        self._sweeps = {domid: sweep for domid, sweep in self._sweeps.items() if domid in parties}


def _bound(table: dict[Any, Any], most: int) -> None:
    """Drop what has been longest in the table where there is too much."""
    while len(table) > most:
        del table[next(iter(table))]

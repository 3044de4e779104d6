# SPDX-License-Identifier: LGPL-2.1-or-later
"""What to sample: the plan that a sampler follows, and from what it saw to its next one; pure."""

from __future__ import annotations

WORD = 0xFFFFFFFF
# Odd multipliers with evenly spread bits, those of MurmurHash3's finaliser.
HASH_1, HASH_2 = 0x85EBCA6B, 0xC2B2AE35

# Sampled packets per second of one direction that are worth their CPU time, by level; both directions' fit
# into the ring from look to look.
BUDGET_PPS = {1: 80.0, 2: 120.0}
# Parts of it: SYNs by chance, other packets by chance, and the slice of addresses, whose size decides how
# well distinct peers are counted.
_SYN_PART, _OTHER_PART, _SLICE_PART = 0.25, 0.25, 0.5
_MOST = 20
# Steps of the slice's shift: wider while it shows little, narrower and elsewhere when a loud peer is in it.
_WIDEN, _NARROW = 3, 2
# Where there are few peers and a loud one, a slice that is widened meets it again and again, and each time
# costs a new filter and a full ring: it then stays for twice as many looks, up to this power of two.
_MOST_MET = 6


class Plan:
    """Which packets a sampler takes; each is a power of two, so that plans change seldom.

    One in 2^`shift` at random, of TCP SYN one in 2^`syn_shift`, and all whose peer's address hashes into
    the lowest 1 / 2^`slice_shift` of the hash's range: enough of the peers are seen whole to count them.
    `met` and `wait` are the planner's own, and two plans that differ in these only take the same packets.
    """

    __slots__ = ("met", "salt", "shift", "slice_shift", "syn_shift", "wait")

    def __init__(self, salt: int, shift: int = 0, syn_shift: int = 0, slice_shift: int = 0) -> None:
        self.salt = salt
        self.shift = shift
        self.syn_shift = syn_shift
        self.slice_shift = slice_shift
        self.met = 0  # loud peers that were in the slice
        self.wait = 0  # looks before the slice may become wider

    def _takes(self) -> tuple[int, int, int, int]:
        return self.salt, self.shift, self.syn_shift, self.slice_shift

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._takes() == other._takes()

    def __hash__(self) -> int:
        return hash(self._takes())

    @property
    def takes_all(self) -> bool:
        """Say whether nothing is left out."""
        return self.slice_shift == 0

    def stands_for(self, hashed: int, *, syn: bool) -> int:
        """Return how many packets one that was taken stands for; `hashed` is its peer's `address_hash`."""
        if hashed <= WORD >> self.slice_shift:
            return 1
        return 1 << (self.syn_shift if syn else self.shift)


def address_hash(address: bytes, salt: int) -> int:
    """Return the 32-bit hash of an address (4 or 16 bytes) that the sampler's program computes."""
    folded = salt
    for at in range(0, len(address), 4):
        folded ^= int.from_bytes(address[at : at + 4], "big")
    folded = folded * HASH_1 & WORD
    folded ^= folded >> 16
    return folded * HASH_2 & WORD


class Seen:
    """What a sampler and the counters beside it saw since the last plan."""

    __slots__ = ("in_slice_pps", "pps", "syn_pps")

    def __init__(self, pps: float, syn_pps: float, in_slice_pps: float) -> None:
        self.pps = pps
        self.syn_pps = syn_pps
        self.in_slice_pps = in_slice_pps  # samples whose address is in the slice, lost ones made up for


def next_plan(plan: Plan, seen: Seen, budget_pps: float, new_salt: int) -> Plan:
    """Return the plan that keeps to the budget; unchanged where the difference is not worth a new filter."""
    slice_pps = budget_pps * _SLICE_PART
    if seen.pps <= (budget_pps if plan.takes_all else budget_pps / 2):
        return plan if plan.takes_all else Plan(new_salt)
    even = max(1, _shift_for(seen.pps, slice_pps))  # right for traffic spread evenly over addresses
    slice_shift = plan.slice_shift
    salt, met, wait = plan.salt, plan.met, max(0, plan.wait - 1)
    if plan.takes_all:
        slice_shift = even
    elif seen.in_slice_pps > 2 * slice_pps:
        slice_shift = min(max(slice_shift, even), slice_shift + _NARROW)
        salt = new_salt
        met = min(met + 1, _MOST_MET)
        wait = 1 << met
    elif not wait:
        # As much wider as what it shows leaves room for.
        room = 0
        while room < _WIDEN and max(seen.in_slice_pps, 1.0) * (2 << room) <= slice_pps:
            room += 1
        slice_shift = max(1, slice_shift - room)
    planned = Plan(
        salt,
        _settle(plan.shift, _shift_for(seen.pps - seen.syn_pps, budget_pps * _OTHER_PART)),
        _settle(plan.syn_shift, _shift_for(seen.syn_pps, budget_pps * _SYN_PART)),
        slice_shift,
    )
    planned.met, planned.wait = met, wait
    return planned


def _shift_for(pps: float, budget_pps: float) -> int:
    """Return k where one in 2^k of `pps` is within the budget."""
    shift = 0
    while pps > budget_pps and shift < _MOST:
        pps /= 2
        shift += 1
    return shift


def _settle(now: int, wanted: int) -> int:
    """Keep the shift while it is right or one too careful: rates near a border would change it each time."""
    return now if now - 1 <= wanted <= now else wanted

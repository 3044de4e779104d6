# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shares: what VMs that are hungry together get of the CPU, and the weights that make up for what is off.

A guarantee is what a VM gets, not what its weight says, and schedulers are not that exact. So what each
VM got is set against its due: of what they got together the part that its weight is of their weights, per
vCPU as both credit schedulers count it, and no more than its vCPUs can take. dom0 and whoever else is
there has had its part before. Where that is off for one that has a guarantee, weight goes from those that
got more to those that got less; the sum stays.

It cannot thrash: what is off by no more than `off_pct` is let be; each time it corrects, it looks twice as
long before the next; nothing that was seen under other weights counts; and no weight is corrected by more
than `correction`. Who has not been hungry for `idle_s` is not corrected any more.

Not compared are those that do not wait for their weight's sake: capped, or not free to run where the
others do. Nobody is corrected who only says that it waits: its vCPUs must be seen to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenwarden_host.records import LimitKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xenwarden_host.hrem.balancer import Seat
    from xenwarden_host.policy.model import BalancePolicy

_MOST_DOUBLED = 4  # by default it looks for 16 min at most


@dataclass(slots=True)
class _Account:
    """What is known of one VM for as long as it is hungry now and then."""

    correction: float = 1.0
    times: int = 0  # that it was corrected
    hungry_s: float = 0.0  # when it was last
    back_to: int = 0  # the weight that it had without correction, once it is not corrected any more
    weight: int = 0  # under which all of the following was seen
    looked_s: float = 0.0
    blocked_s: float = 0.0
    got_s: float = 0.0
    due_s: float = 0.0

    def look_anew(self, weight: int) -> None:
        """Forget what was seen."""
        self.weight = weight
        self.looked_s = self.blocked_s = self.got_s = self.due_s = 0.0


class Shares:
    """All VMs that are hungry for CPU or were not long ago."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def note_hungry(self, hungry: Sequence[Seat], now_s: float) -> None:
        """Note who has been hungry for long enough."""
        for seat in hungry:
            account = self._accounts.setdefault(seat.uuid, _Account())
            account.hungry_s, account.back_to = now_s, 0

    def look(
        self,
        hungry: Sequence[Seat],
        base: Mapping[str, int],
        room: int,
        passed_s: float,
        policy: BalancePolicy,
    ) -> None:
        """Take what each got in `passed_s`, and correct where shares have been off for long enough."""
        groups: dict[frozenset[int], list[Seat]] = {}
        for seat in hungry:
            if seat.cpus:
                groups.setdefault(seat.cpus, []).append(seat)
        plain = self._plain(hungry, base, room)
        for group in groups.values():
            if len(group) > 1:
                self._add(group, base, passed_s)
                self._correct(group, plain, policy)

    def weights(self, hungry: Sequence[Seat], base: Mapping[str, int], room: int) -> dict[str, int]:
        """Return the weights that the hungry are to have.

        Args:
            hungry: those of one CPU pool.
            base: their weights when all are hungry.
            room: by how much they may have more in all than they have.
        """
        plain = self._plain(hungry, base, room)
        return {uuid: round(weight * self._accounts[uuid].correction) for uuid, weight in plain.items()}

    def back(self, seat: Seat, now_s: float, policy: BalancePolicy) -> int:
        """Return what weight a VM is to go back to that is not to be corrected any more; else what it has."""
        account = self._accounts.get(seat.uuid)
        if account is None or now_s - account.hungry_s < policy.idle_s:
            return seat.has
        account.back_to = account.back_to or max(seat.own, round(seat.has / account.correction))
        if seat.has - account.back_to >= policy.rules[LimitKind.WEIGHT].least:
            return account.back_to
        del self._accounts[seat.uuid]
        return seat.has

    def forget(self, uuid: str) -> None:
        """Forget a VM that is gone."""
        self._accounts.pop(uuid, None)

    def _plain(self, hungry: Sequence[Seat], base: Mapping[str, int], room: int) -> dict[str, float]:
        """Return weights without corrections: of what the hungry have and may have in all, by their base."""
        claimed = sum(max(1, base[seat.uuid]) * self._accounts[seat.uuid].correction for seat in hungry)
        times = max(1.0, (sum(seat.has for seat in hungry) + room) / max(1.0, claimed))
        return {seat.uuid: max(1, base[seat.uuid]) * times for seat in hungry}

    def _add(self, group: Sequence[Seat], base: Mapping[str, int], passed_s: float) -> None:
        pairs = [(seat, self._accounts[seat.uuid]) for seat in group]
        if any(account.weight != seat.has for seat, account in pairs):
            for seat, account in pairs:
                account.look_anew(seat.has)
        dues_s = _dues_s(group, base, passed_s)
        for seat, account in pairs:
            account.looked_s += passed_s
            account.blocked_s += passed_s * seat.blocked
            account.got_s += seat.got_s
            account.due_s += dues_s[seat.uuid]

    def _correct(self, group: Sequence[Seat], plain: Mapping[str, float], policy: BalancePolicy) -> None:
        pairs = [(seat, self._accounts[seat.uuid]) for seat in group]
        pairs = [(seat, account) for seat, account in pairs if account.looked_s >= policy.every_s]
        doubled = min((account.times for _, account in pairs), default=0)
        enough_s = policy.every_s * 2 ** min(doubled, _MOST_DOUBLED)
        pairs = [(seat, account) for seat, account in pairs if account.looked_s >= enough_s]
        rule = policy.rules[LimitKind.WEIGHT]
        waited = [
            (seat, account)
            for seat, account in pairs
            if account.blocked_s <= (1 - rule.hungry_pct / 100) * account.looked_s
        ]
        off = _off(waited)
        if any(seat.guarantee and abs(off[seat.uuid] - 1) > policy.off_pct / 100 for seat, _ in waited):
            wants = _wants([seat for seat, _ in waited], off, plain, policy.correction)
            moves = _exchange(wants, rule.least, policy.off_pct / 100)
            for seat, account in waited:
                account.times += 1
                if seat.uuid in moves:
                    correction = (seat.has + moves[seat.uuid]) / plain[seat.uuid]
                    account.correction = _bounded(correction, policy.correction)
        for seat, account in pairs:
            account.look_anew(seat.has)


def _dues_s(group: Sequence[Seat], base: Mapping[str, int], passed_s: float) -> dict[str, float]:
    """Return how much of what a group got is due to each; what one's vCPUs cannot take goes to the others."""
    claims = {seat.uuid: max(1, base[seat.uuid]) * seat.vcpus for seat in group}
    left_s, claimed = sum(seat.got_s for seat in group), sum(claims.values())
    dues_s = {}
    for seat in sorted(group, key=lambda s: -base[s.uuid]):  # in the order in which their vCPUs are full
        dues_s[seat.uuid] = min(seat.vcpus * passed_s, left_s * claims[seat.uuid] / claimed)
        left_s -= dues_s[seat.uuid]
        claimed -= claims[seat.uuid]
    return dues_s


def _off(pairs: Sequence[tuple[Seat, _Account]]) -> dict[str, float]:
    """Return how many times its due each got, in proportion to the others."""
    got_s, due_s = sum(account.got_s for _, account in pairs), sum(account.due_s for _, account in pairs)
    if not got_s or not all(account.due_s for _, account in pairs):
        return {seat.uuid: 1.0 for seat, _ in pairs}  # nobody had any
    return {seat.uuid: account.got_s / account.due_s * due_s / got_s for seat, account in pairs}


def _wants(
    seats: Sequence[Seat], off: Mapping[str, float], plain: Mapping[str, float], most: float
) -> dict[Seat, int]:
    """Return by how much each weight is to change for each to get its due."""
    ideal = {}
    for seat in seats:
        correction = seat.has / plain[seat.uuid] / max(off[seat.uuid], 0.01)
        ideal[seat] = plain[seat.uuid] * _bounded(correction, most)
    times = sum(seat.has for seat in seats) / sum(ideal.values())
    return {
        seat: round(
            min(
                plain[seat.uuid] * _bounded(weight * times / plain[seat.uuid], most),
                max(seat.ceiling, seat.has),
            )
        )
        - seat.has
        for seat, weight in ideal.items()
    }


def _exchange(wants: Mapping[Seat, int], least: int, off: float) -> dict[str, int]:
    """Return what is to change: those that want less give what those get that want more.

    Nothing changes by less than `least`; it is as much only where it is too much by no more than `off`.
    """
    wanted = sum(more for more in wants.values() if more > 0)
    gives = _shared_out({seat: -more for seat, more in wants.items()}, wanted, least, off)
    gets = _shared_out(wants, sum(gives.values()), least, off)
    return {**{uuid: -less for uuid, less in gives.items()}, **gets}


def _shared_out(wants: Mapping[Seat, int], amount: int, least: int, off: float) -> dict[str, int]:
    out = {}
    for seat, more in sorted(wants.items(), key=lambda item: -item[1] / item[0].has):
        change = min(max(least, more), amount)
        if more > 0 and change >= least and change - more <= off * seat.has:
            out[seat.uuid] = change
            amount -= change
    return out


def _bounded(correction: float, most: float) -> float:
    return max(1 / most, min(most, correction))

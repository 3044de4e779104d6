# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy's rules, ready to be asked: AND in a group, OR over groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xenwarden_channel.signals import HREM, SIGNALS
from xenwarden_host.hsem.detectors import make
from xenwarden_host.hsem.detectors.joins import Joins
from xenwarden_host.hsem.detectors.overflows import Overflows
from xenwarden_host.hsem.detectors.rises import Rises
from xenwarden_host.hsem.detectors.surge import Surge
from xenwarden_host.hsem.detectors.unlike import Unlike
from xenwarden_host.policy.model import Trust

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xenwarden_host.hsem.detectors import Detector
    from xenwarden_host.hsem.sight import Hit, Sight
    from xenwarden_host.policy.model import RuleSpec
    from xenwarden_host.records import Evidence

# By group: what each of its detectors said while its signals were not masked.
Latch = dict[int, list["Hit | None"]]


class Outcome(NamedTuple):
    """A group fired: all its evidence, and the least of its detectors' strengths."""

    evidence: tuple[Evidence, ...]
    strength: float | None


class Rule:
    """One rule of the policy."""

    __slots__ = (
        "_convicts",
        "_raises",
        "_reads",
        "_signals",
        "by_report",
        "gate",
        "habitual",
        "needs_overflow",
        "needs_unusual",
        "remembers",
        "shapes",
        "spec",
    )

    def __init__(self, spec: RuleSpec) -> None:
        self.spec = spec
        self._raises = [[make(item) for item in group] for group in spec.raises]
        self._convicts = [[make(item) for item in group] for group in spec.convicts]
        # It can raise only where one of these is over what is usual. None: it has a group without such.
        gates = [
            next((item.gate for item in group if isinstance(item, Surge | Joins)), None)
            for group in self._raises
        ]
        self.gate = None if None in gates else frozenset(gate for gate in gates if gate is not None)
        self.needs_overflow = all(
            any(isinstance(item, Overflows) for item in group) for group in self._raises
        )
        # Where nothing is over its usual upper limit, overflows or is unlike itself, it cannot raise.
        self.needs_unusual = all(
            any(isinstance(item, Overflows | Unlike) or getattr(item, "gate", None) for item in group)
            for group in self._raises
        )
        self._signals = {signal for group in self._raises for item in group for signal in item.signals}
        # A rule that reads what the agent says is asked when it has said something.
        self._reads = {signal for group in self._raises for item in group for signal in item.corruptible}
        self.by_report = any(
            SIGNALS[signal][0] != HREM
            for group in (*self._raises, *self._convicts)
            for detector in group
            for signal in detector.signals
        )

        # What its detectors compare with the VM's ordinary reports, and with all that it did in days.
        self.remembers = self._signals_of(Rises)
        self.habitual = {
            item.key
            for group in (*self._raises, *self._convicts)
            for item in group
            if isinstance(item, Unlike)
        }

        # What is not learnt of a signal: what looks as each of these groups has it, however little it is.
        self.shapes: list[tuple[str, list[Detector]]] = []
        for group in self._convicts if spec.unlearnt else ():
            surges = [item.signals[0] for item in group if isinstance(item, Surge)]
            shape = [item for item in group if not isinstance(item, Surge)]
            if surges and shape and all(item.signals for item in shape):
                self.shapes.append((surges[0], shape))

    def _signals_of(self, kind: type[Detector]) -> set[str]:
        return {
            signal
            for group in (*self._raises, *self._convicts)
            for detector in group
            if isinstance(detector, kind)
            for signal in detector.signals
        }

    def hears(self, *, trusted: bool) -> bool:
        """Tell whether the rule is for a VM whose agent is believed, or is not."""
        agent = self.spec.agent
        return agent is Trust.ANY or trusted is (agent is Trust.TRUSTED)

    def raises(self, sight: Sight, latch: Latch | None = None) -> Outcome | None:
        """Return what puts the VM under suspicion now; None where nothing does."""
        if latch is None and not sight.masked:
            sight.rule = self.spec.name
            return self._ask_plainly(sight)
        return self._ask(self._raises, sight, latch)

    def is_blind(self, sight: Sight) -> bool:
        """Tell whether a limit of ours corrupts what the rule would see: its silence says little."""
        return not sight.masked.isdisjoint(self._reads)

    def has_nothing(self, sight: Sight) -> bool:
        """Tell whether nothing was measured of what the rule reads: its silence says nothing."""
        return bool(self._signals) and self._signals.isdisjoint(sight.signals)

    def tries(self, sight: Sight) -> Outcome | None:
        """Return what the VM still does, for one that is limited: what the limit corrupts is left out."""
        sight.rule = self.spec.name
        for group in self._raises:
            clear = [item for item in group if sight.masked.isdisjoint(item.corruptible)]
            outcome = _ask_group(clear, sight, None)
            if outcome is not None:
                return outcome
        return None

    def convicts(self, sight: Sight, latch: Latch) -> Outcome | None:
        """Return what speaks against the VM (or, of an inbound rule, for its being a victim) now."""
        return self._ask(self._convicts, sight, latch)

    def _ask(self, groups: list[list[Detector]], sight: Sight, latch: Latch | None) -> Outcome | None:
        sight.rule = self.spec.name
        if latch is None:
            return next((out for group in groups if (out := _ask_group(group, sight, None))), None)
        # All are asked, so that each has said something before a limit hides it.
        found = None
        masked = sight.masked
        for index, group in enumerate(groups):
            if masked:
                said = latch.setdefault(index, [None] * len(group))
                outcome = _ask_group(group, sight, said)
            else:
                said = latch[index] = [detector.check(sight) for detector in group]
                outcome = None if None in said else _outcome(said)
            found = found or outcome
        return found

    def _ask_plainly(self, sight: Sight) -> Outcome | None:
        """Ask as `_ask` does where nothing is hidden or to be kept: nearly all that HSEM ever asks."""
        for group in self._raises:
            last = sight.refused.get(group[0])
            if last is not None and last.check(sight) is None:
                continue
            hits = []
            for detector in group:
                hit = detector.check(sight)
                if hit is None:
                    sight.refused[group[0]] = detector
                    break
                hits.append(hit)
            else:
                return _outcome(hits)
        return None


class RuleSet:
    """Rules that are asked together."""

    __slots__ = ("all", "plain", "unheard")

    def __init__(self, rules: Iterable[Rule]) -> None:
        every = tuple(rules)
        # By whether the agent is believed: those for such a VM, and the names of the others.
        self.all = {
            trusted: tuple(rule for rule in every if rule.hears(trusted=trusted)) for trusted in (False, True)
        }
        self.unheard = {
            trusted: tuple(rule.spec.name for rule in every if not rule.hears(trusted=trusted))
            for trusted in (False, True)
        }
        # Those that may fire on a VM of which nothing is unusual, by whether its agent is believed.
        self.plain = {
            trusted: tuple(rule for rule in heard if not rule.needs_unusual)
            for trusted, heard in self.all.items()
        }


def _outcome(hits: Sequence[Hit | None]) -> Outcome:
    """Return what a group says of which all detectors fired."""
    fired = [hit for hit in hits if hit is not None]
    strengths = [hit.strength for hit in fired if hit.strength is not None]
    return Outcome(tuple(hit.evidence for hit in fired), min(strengths) if strengths else None)


def _ask_group(group: list[Detector], sight: Sight, said: list[Hit | None] | None) -> Outcome | None:
    """Ask the detectors of a group.

    One whose signals a limit of ours corrupts stands by what it said before the limit, which is in `said`;
    at least one must see something now. Where `said` is given, all are asked, and what they say is put there.
    """
    hits: list[Hit] = []
    live, masked = False, sight.masked
    for place, detector in enumerate(group):
        if masked and not masked.isdisjoint(detector.corruptible):
            hit = None if said is None else said[place]
        else:
            hit = detector.check(sight)
            live = live or hit is not None
            if said is not None:
                said[place] = hit
        if hit is not None:
            hits.append(hit)
        elif said is None:
            return None
    if len(hits) < len(group) or not live:
        return None
    return _outcome(hits)


def fires(group: list[Detector], sight: Sight) -> bool:
    """Tell whether all detectors of the group fire; who did not the last time is asked first."""
    last = sight.refused.get(group[0])
    if last is not None and last.check(sight) is None:
        return False
    for detector in group:
        if detector.check(sight) is None:
            sight.refused[group[0]] = detector
            return False
    return True


def compile_rules(specs: tuple[RuleSpec, ...]) -> tuple[Rule, ...]:
    """Return the rules of a policy, ready to be asked."""
    return tuple(Rule(spec) for spec in specs)

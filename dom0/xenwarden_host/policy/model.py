# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy as frozen records. What each value means is told in `defaults.yaml`."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xenwarden_host.records import LimitKey, LimitKind, Verdict

BUILT_IN = "built-in"  # the source of what is shipped
UNKNOWN = "unknown"  # the profile of a VM that no entry names
OVERFLOWS = ("cpu", "memory", "forks", "events", "disk", "asks")  # what a VM can take all of


class RuleKind(StrEnum):
    """What a rule is about."""

    ORIGINATED = "originated"  # the VM does it
    INBOUND = "inbound"  # it is done to the VM
    ALERT = "alert"  # an admin is told


class Trust(StrEnum):
    """For which VMs a rule is asked, by what dom0 thinks of their agent."""

    ANY = "any"
    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"


class FailSafe(StrEnum):
    """What becomes of limits when the daemon ends."""

    KEEP = "keep"
    RELEASE = "release"


class Role(StrEnum):
    """What a user of the control socket may do; each may do all that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Levels:
    """Intervals of the agents' reports."""

    level1_s: float
    level2_s: float
    level2_max_s: float


@dataclass(frozen=True, slots=True)
class VmEntry:
    """One entry of `vms`: what fits, and what follows."""

    name: str | None
    uuid: str | None
    profile: str
    protect: bool
    exempt: bool
    sources: Mapping[str, str] = field(default_factory=dict)  # where each key of it was written
    fail_safe: FailSafe | None = None  # None: as for all
    guarantee: Mapping[str, int] = field(default_factory=dict)  # by resource; memory in kB
    maximum: Mapping[str, int] = field(default_factory=dict)
    self_asks: tuple[str, ...] | None = None  # None: as for all

    def fits(self, uuid: str, name: str) -> bool:
        """Tell whether this entry is about the VM."""
        if self.uuid is not None:
            return uuid == self.uuid
        return self.name is not None and fnmatch.fnmatchcase(name, self.name)


@dataclass(frozen=True, slots=True)
class VmPolicy:
    """What holds for one VM."""

    profile: str
    protect: bool
    exempt: bool
    fail_safe: FailSafe
    guarantee: Mapping[str, int] = field(default_factory=dict)
    maximum: Mapping[str, int] = field(default_factory=dict)
    self_asks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VmNodes:
    """What nodes of XenStore say of one VM: values by the names of `VmPolicy`, and each key's node."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]

    def over(self, policy: VmPolicy) -> VmPolicy:
        """Return the policy with these values in place of the same ones."""
        whole: dict[str, Any] = {
            name: {**getattr(policy, name), **value} if isinstance(value, dict) else value
            for name, value in self.values.items()
        }
        return replace(policy, **whole)


@dataclass(frozen=True, slots=True)
class Detect:
    """When a finding raises."""

    at_once: float
    running: int


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """One detector of a rule: its name and arguments."""

    name: str
    arguments: Mapping[str, Any]


Group = tuple[DetectorSpec, ...]


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One rule."""

    name: str
    kind: RuleKind
    agent: Trust
    for_s: float
    hits: int
    distrust: bool
    alone: bool
    unlearnt: bool
    stop: bool
    limits: tuple[LimitKey, ...]
    raises: tuple[Group, ...]
    convicts: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How two ends of one flood are seen."""

    share: float
    at_least_pps: float
    within_s: float
    size_times: float
    together_share: float
    together_pps: float
    fell_to: float


@dataclass(frozen=True, slots=True)
class Gauge:
    """When a VM takes all that it can of one thing."""

    full: float
    for_s: float


@dataclass(frozen=True, slots=True)
class OverflowPolicy:
    """When a VM takes all that it can, unlike its history; `gauges` by the names in `OVERFLOWS`."""

    after_s: float
    known_s: float
    gauges: Mapping[str, Gauge]


@dataclass(frozen=True, slots=True)
class Amount:
    """A value relative to the VM's usual upper limit."""

    times: float
    at_least: int


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """How far a kind of limit goes."""

    signal: str
    provisional: Amount
    contained: Amount


@dataclass(frozen=True, slots=True)
class GrantRule:
    """How far a VM can get more of one resource by asking."""

    step: int
    times: float


@dataclass(frozen=True, slots=True)
class GrantPolicy:
    """More for a VM that asks; `resources` by the name of `xenwarden_channel.grants.RESOURCES`."""

    resources: Mapping[str, GrantRule]
    need_pct: float
    every_s: float
    idle_s: float
    host_keeps_kb: int
    vcpus_per_cpu: float
    self_asks: tuple[str, ...]
    pressed_s: float


class BalanceMode(StrEnum):
    """What the balancer does with what it finds."""

    NONE = "none"  # no "off": YAML takes that for false
    ADVISE = "advise"  # `xenwarden capacity` tells it
    ACT = "act"


@dataclass(frozen=True, slots=True)
class BalanceRule:
    """How one resource is balanced."""

    step: int
    least: int
    hungry_pct: float
    idle_pct: float


@dataclass(frozen=True, slots=True)
class BalancePolicy:
    """How weight and memory are moved between VMs."""

    mode: BalanceMode
    hungry_s: float
    idle_s: float
    every_s: float
    keeps: float
    times: float
    full_pct: float
    waits_pct: float
    off_pct: float
    correction: float
    rules: Mapping[LimitKind, BalanceRule]


@dataclass(frozen=True, slots=True)
class SprawlPolicy:
    """When a VM counts as idle, and as forgotten."""

    idle_s: float
    cpu_pct: float
    pps: float


@dataclass(frozen=True, slots=True)
class Watch:
    """From suspicion to verdict."""

    min_s: float
    min_observations: int
    min_hits: int
    calm_s: float
    look_s: float
    answer_wait_s: float
    acquit_s: float
    max_s: float
    undecided: Verdict
    cooldown_s: float
    again_times: float
    memory_s: float
    trace: bool


@dataclass(frozen=True, slots=True)
class Release:
    """Out of containment."""

    probation_s: float
    repeat_times: float
    repeat_s: float
    probation_max_s: float
    pressing: float
    operator_cooldown_s: float


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """Patience with agents."""

    settle_s: float
    patience_s: float
    remind_s: float


@dataclass(frozen=True, slots=True)
class HistoryPolicy:
    """How usual upper limits are learnt."""

    enough_s: float
    enough_observations: int
    interval_s: float
    margin: float
    floor: float
    ceiling: float
    rise_per_day: float
    slow_above: float
    slow_rise_per_day: float
    hour_s: float
    memory_s: float
    near_capacity_pct: float
    forget_s: float


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """How much the audit log keeps."""

    max_days: int
    max_records: int


@dataclass(frozen=True, slots=True)
class Recording:
    """How much recordings keep."""

    max_mb: int


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """Which events are told to which command; without a command none."""

    command: tuple[str, ...]
    events: tuple[str, ...]
    timeout_s: float
    max_running: int


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it.

    Attributes:
        sources: for each dotted key where its value came from: `built-in`, `file:line` or a node.
        data: as a file would say all of it.
        nodes: what nodes of XenStore say of one VM, by UUID.
        refused: why the value of a node does not count, by node.
    """

    tick_s: float
    levels: Levels
    provider_networks: tuple[str, ...]
    profiles: Mapping[str, Mapping[str, float]]  # complete: each holds all priors
    vms: tuple[VmEntry, ...]
    detect: Detect
    rules: tuple[RuleSpec, ...]
    overflow: OverflowPolicy
    neighbours: Neighbours
    limits: Mapping[LimitKey, LimitPolicy]
    grants: GrantPolicy
    balance: BalancePolicy
    sprawl: SprawlPolicy
    watch: Watch
    release: Release
    agent: AgentPolicy
    history: HistoryPolicy
    roles: Mapping[Role, tuple[str, ...]]
    fail_safe: FailSafe
    audit: AuditPolicy
    recording: Recording
    alerts: AlertPolicy
    sources: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, VmNodes] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def vm(self, uuid: str, name: str) -> VmPolicy:
        """Return what holds for the VM: its nodes, then the first entry that fits, then what is for all."""
        entry = self._entry(uuid, name)
        policy = VmPolicy(
            entry.profile,
            entry.protect,
            entry.exempt,
            entry.fail_safe or self.fail_safe,
            entry.guarantee,
            entry.maximum,
            self.grants.self_asks if entry.self_asks is None else entry.self_asks,
        )
        own = self.nodes.get(uuid)
        return policy if own is None else own.over(policy)

    def vm_sources(self, uuid: str, name: str) -> dict[str, str]:
        """Return where each value came from that holds for the VM, by dotted key of an entry."""
        own = self.nodes.get(uuid)
        return {
            **dict.fromkeys(("profile", "protect", "exempt"), BUILT_IN),
            "fail_safe": self.sources["fail_safe"],
            "self_asks": self.sources["grants.self_asks"],
            **self._entry(uuid, name).sources,
            **(own.sources if own is not None else {}),
        }

    def _entry(self, uuid: str, name: str) -> VmEntry:
        return next((entry for entry in self.vms if entry.fits(uuid, name)), _NO_ENTRY)


_NO_ENTRY = VmEntry(None, None, UNKNOWN, protect=False, exempt=False)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records that cross modules: frozen, typed, with units in their names. No logic, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# --- what a VM is ---------------------------------------------------------------------------------


class VmType(StrEnum):
    """Kind of domain, as `/libxl/<domid>/type` tells it; DOM0 is the management VM."""

    PV = "pv"
    PVH = "pvh"
    HVM = "hvm"
    DOM0 = "dom0"


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """One domain as libxl lists it (`libxl_dominfo`)."""

    domid: int
    uuid: str  # lower-case, with dashes; dom0 has the zero UUID
    name: str
    vm_type: VmType
    cpu_time_s: float  # CPU time received since the domain was made
    memory_kb: int
    max_memory_kb: int
    vcpus_online: int
    paused: bool
    dying: bool  # shut down or being destroyed: no limit is set any more
    cpupool: int = 0
    service: bool = False  # dom0, a stub, driver or store domain: other VMs hang on it, it is never limited


@dataclass(frozen=True, slots=True)
class SchedParams:
    """Scheduler parameters of one domain. `cap` in percent of one CPU, 0 is none."""

    scheduler: str  # "credit", "credit2", "rtds", "arinc653", "null"
    weight: int | None  # None: this scheduler has no weight
    cap: int | None


@dataclass(frozen=True, slots=True)
class VcpuInfo:
    """One vCPU that is online, as it stood when Xen was asked (`libxl_vcpuinfo`)."""

    cpus: frozenset[int]  # where it may run (hard affinity)
    blocked: bool  # it waits for an event, and wants no CPU


@dataclass(frozen=True, slots=True)
class HostInfo:
    """The machine as libxl tells it (`libxl_physinfo`, `libxl_version_info`)."""

    xen_version: str
    pcpus: int
    scheduler: str
    total_memory_kb: int
    free_memory_kb: int
    cpu_khz: int = 0  # of the CPUs' cycle counters; 0: not known


@dataclass(frozen=True, slots=True)
class TraceState:
    """Xen's trace buffers. Whether tracing is on Xen tells nobody."""

    made: bool  # once made, they stay until the host reboots
    mask: int  # what is traced where tracing is on
    positions: tuple[tuple[int, int], ...]  # of each CPU's: up to where it was read, and written


# --- limits ---------------------------------------------------------------------------------------


class LimitKind(StrEnum):
    """What a limit acts on."""

    CAP = "cap"  # percent of one CPU over all vCPUs, as in `xl sched-credit -c`; 0 is none
    VIF_RATE = "vif-rate"  # bits per second from guest to network, whole VM; 0 is none
    VIF_PPS = "vif-pps"  # packets per second from guest to network of one class, whole VM; 0: none passes
    VIF_IN = "vif-in"  # bits per second from network to guest, whole VM
    VBD_IO = "vbd-io"  # bytes per second from disks and, apart from that, to disks, whole VM
    WEIGHT = "weight"  # scheduler weight, 1..65535; Xen's default is 256
    PAUSE = "pause"  # 1: the domain does not run
    MEMORY = "memory"  # kB that the domain is to balloon down to, and cannot have more than
    VCPUS = "vcpus"  # vCPUs that the domain may use; it has to comply


class PacketClass(StrEnum):
    """Class of packets that a `vif-pps` limit acts on: what a client sends, never answers; but all ARP."""

    SYN = "syn"  # TCP SYN without ACK
    UDP = "udp"
    ICMP = "icmp"  # echo requests, ICMPv6 likewise
    TCP = "tcp"  # all of it, to ports below those that clients have: what keeps connections to services open
    ARP = "arp"  # a request claims its sender's address as a reply does


@dataclass(frozen=True, slots=True, order=True)
class LimitKey:
    """A limit's kind and, for `vif-pps`, the packet class. Text form: `cap`, `vif-rate`, `vif-pps/syn`."""

    kind: LimitKind
    match: PacketClass | None = None

    def __str__(self) -> str:
        return f"{self.kind}/{self.match}" if self.match else str(self.kind)

    @classmethod
    def parse(cls, text: str) -> LimitKey:
        """Return the key of its text form; ValueError where there is none such."""
        kind, _, match = text.partition("/")
        return cls(LimitKind(kind), PacketClass(match) if match else None)


class LimitState(StrEnum):
    """How a wanted limit stands, after reading back."""

    PENDING = "pending"  # decided, not set yet
    SET = "set"  # set, and read back as set
    UNSUPPORTED = "unsupported"  # the scheduler or backend has no such limit
    FAILED = "failed"  # refused, or read back otherwise; tried again
    NO_TARGET = "no-target"  # nothing to act on (no vif, domain gone)
    PROTECTED = "protected"  # dom0, a stub, driver or store domain: never limited
    LIFTED = "lifted"  # no longer wanted, and read back as the original; told once, as an event


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit as `show` tells it. Values in the unit of the kind; `original` None: nothing was there."""

    uuid: str
    key: LimitKey
    value: int
    original: str | None  # as it was found, in words that the kind can restore exactly
    state: LimitState
    owner: str  # "hsem", "hrem" or "operator:NAME"
    why: str
    since_unix_s: float
    detail: str = ""  # the sentence of a state that is not SET
    set_to: str | None = None  # what was made of `original`, in the same words; None: nothing yet
    read_back: str | None = None  # what stood there when it was last read
    until_unix_s: float | None = None  # when it lapses by itself
    took_s: float | None = None  # from the decision until it was read back as set; None: not seen by this run


# --- what HSEM sees ---------------------------------------------------------------------------------


class AgentState(StrEnum):
    """How dom0 stands with a VM's agent."""

    ABSENT = "absent"  # never reported since dom0 first saw the VM
    ALIVE = "alive"
    SILENT = "silent"  # reported once, and not within three of its intervals
    GARBLED = "garbled"  # its last value is no message
    VERSION = "version"  # speaks another major version


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of a level 2 detail: an address that the VM says it talks to (untrusted: a hint)."""

    address: str
    protocol: str  # "tcp", "udp", "icmp", "other"
    port: int  # of the destination; 0 where there is none
    pps: float
    syn_pps: float


@dataclass(frozen=True, slots=True)
class Report:
    """A guest's report after the bounded parser (untrusted in meaning, safe in form)."""

    seq: int
    boot: str  # changes when the agent restarts
    level: int
    why: str  # the signal that took it to level 2, "ordered", or ""
    over: tuple[str, ...]  # signals over the brief history
    interval_s: float  # that it covers: as the agent says, and no more than has passed by dom0's clock
    signals: Mapping[str, float]  # VSEM's and VREM's, known names only
    missing: tuple[str, ...]  # signals or collectors that could not be read
    agent_version: str
    agent_rss_kb: int
    agent_cpu_s: float
    agent_up_s: float
    near_max: int  # intervals in which the VM was close to its maximum
    near_max_of: int  # of this many intervals
    destinations: tuple[Peer, ...] = ()  # at level 2; of a recording without addresses
    sources: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """VREM's answer to question `ask_id`."""

    ask_id: int
    load_pct: float  # the highest of CPU and memory use, smoothed by the agent
    near_max: int
    near_max_of: int
    signals: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Request:
    """A VM's request for `more` of a resource: memory in kB, vCPUs, or weight."""

    request_id: int
    kind: LimitKind
    more: int


@dataclass(frozen=True, slots=True)
class Overflow:
    """HREM's finding: the VM takes all that it can of something, which its history does not know."""

    of: str  # one of `policy.model.OVERFLOWS`
    signal: str
    value: float
    full: float  # from here on it is all, by the policy
    for_s: float  # without a break
    known_s: float  # how long its history knows it so, in sum


@dataclass(frozen=True, slots=True)
class VmView:
    """All that HSEM may know of one VM at one tick."""

    uuid: str
    domid: int
    name: str
    vm_type: VmType
    vcpus: int
    known_s: float  # how long dom0 has seen this VM (this UUID) run
    paused: bool
    hrem: Mapping[str, float]  # dom0's own signals of this tick
    agent: AgentState
    report: Report | None  # the last one
    report_is_new: bool  # received since the tick before
    report_age_s: float | None
    answer: Answer | None  # the last one
    held: frozenset[LimitKey] = field(default_factory=frozenset)  # our limits in force
    service: bool = False  # dom0, a stub, driver or store domain
    overflows: tuple[Overflow, ...] = ()
    passed_s: float = 0.0  # between the agent's last two words, by dom0's clock


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One tick: all VMs at one time. `now_s` is monotonic; `unix_s` is for records only."""

    now_s: float
    unix_s: float
    vms: tuple[VmView, ...]


# --- what HSEM decides --------------------------------------------------------------------------------


class Level(IntEnum):
    """Level of detail of a VM's monitors."""

    ONE = 1
    TWO = 2


class VmState(StrEnum):
    """HSEM's state of one VM."""

    NORMAL = "normal"
    WATCHED = "watched"  # level 2, provisional limits
    CONTAINED = "contained"  # verdict attacker
    PROTECTED = "protected"  # verdict victim


class Verdict(StrEnum):
    """What HSEM decided a VM to be."""

    ATTACKER = "attacker"
    VICTIM = "victim"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason: `signal` had `value` where `usual` is the upper limit of what is usual."""

    signal: str
    value: float
    usual: float
    unit: str
    source: str  # "vsem", "vrem", "hrem"
    rule: str  # the detector's name
    text: str  # one sentence for an admin


@dataclass(frozen=True, slots=True)
class OrderLevel:
    """Have the VM's agent work at `level`."""

    uuid: str
    level: Level
    why: str


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Want this limit on the VM; the same key again replaces the value."""

    uuid: str
    key: LimitKey
    value: int
    provisional: bool
    why: str


@dataclass(frozen=True, slots=True)
class LiftLimit:
    """Want HSEM's limit of this key gone, and the original back."""

    uuid: str
    key: LimitKey
    why: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Have HREM ask the VM's VREM about its reliability; the answer repeats `ask_id`."""

    uuid: str
    ask_id: int


@dataclass(frozen=True, slots=True)
class Transition:
    """The VM's state changed; goes to the audit log. `verdict` is set where this change is a verdict."""

    uuid: str
    old: VmState
    new: VmState
    verdict: Verdict | None
    also_victim: bool
    why: str  # one sentence
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something an admin should know that changes no state (an anomaly of dom0, a silent agent)."""

    uuid: str
    what: str  # short name, stable
    text: str
    evidence: tuple[Evidence, ...] = ()


Action = OrderLevel | SetLimit | LiftLimit | Ask | Transition | Alert

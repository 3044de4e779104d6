# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Xen in memory, behind the same Protocol: for dry runs, replays and tests.

It behaves as Xen does where that matters to its users: a domid is never used twice, a new domain has
weight 256 and no cap, a migrated one keeps both, moving between CPU pools resets both, and the
schedulers without weight or cap accept a setting and ignore it.
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from xenwarden_host.errors import DomainGoneError, HypervisorError
from xenwarden_host.records import DomainInfo, HostInfo, SchedParams, TraceState, VcpuInfo, VmType

DEFAULT_WEIGHT = 256
ALL_TRACED = 0x0FFFF000  # the mask that Xen starts with
DOM0_UUID = str(UUID(int=0))
_WITH_CAP = ("credit", "credit2")


class FakeHypervisor:
    """A machine with dom0 and whatever `add` makes.

    Attributes:
        refuse: names of methods that fail with `ERROR_FAIL` as long as they stand in it.
        affinity: where a domid's vCPUs may run, if not everywhere.
        blocked: domids whose vCPUs want no CPU.
        pauses, targets_kb, vcpus: per domid, what Xen counts and what the domain was last told.
        trace_mask, trace_on, trace_positions: Xen's trace buffers.
        traced: what each CPU has recorded when tracing is stopped.
        calls: every call that changes something, as `(method, domid, arguments)`.
    """

    def __init__(self, *, scheduler: str = "credit2", pcpus: int = 4, memory_kb: int = 4 << 20) -> None:
        self.scheduler = scheduler
        self.pcpus = pcpus
        self.memory_kb = memory_kb
        self.refuse: set[str] = set()
        self.calls: list[tuple[str, int, dict[str, int]]] = []
        self._domains: dict[int, DomainInfo] = {}
        self._weights: dict[int, int] = {}
        self._caps: dict[int, int] = {}
        self.affinity: dict[int, list[frozenset[int]]] = {}
        self.blocked: set[int] = set()
        self.pauses: dict[int, int] = {}
        self.targets_kb: dict[int, int] = {}
        self.vcpus: dict[int, int] = {}
        self.trace_mask = ALL_TRACED
        self.trace_on = False
        self.trace_positions: list[tuple[int, int]] = []  # none: no buffers
        self.traced: list[bytes] = []  # what each CPU records while it is on
        self._next_domid = 1
        self._domains[0] = DomainInfo(
            domid=0,
            uuid=DOM0_UUID,
            name="Domain-0",
            vm_type=VmType.DOM0,
            cpu_time_s=1.0,
            memory_kb=1 << 20,
            max_memory_kb=1 << 20,
            vcpus_online=pcpus,
            paused=False,
            dying=False,
            service=True,
        )
        self._weights[0], self._caps[0] = DEFAULT_WEIGHT, 0

    # --- what a test or a replay does to the machine ---

    def add(
        self,
        uuid: str,
        name: str = "",
        *,
        vm_type: VmType = VmType.PV,
        vcpus: int = 1,
        memory_kb: int = 256 << 10,
        weight: int = DEFAULT_WEIGHT,
        cap: int = 0,
        cpu_time_s: float = 1.0,
        service: bool = False,
    ) -> int:
        """Start a domain and return its domid. `cpu_time_s` 0 is one that is still being built."""
        domid = self._next_domid
        self._next_domid += 1
        self._domains[domid] = DomainInfo(
            domid=domid,
            uuid=uuid,
            name=name or f"vm{domid}",
            vm_type=vm_type,
            cpu_time_s=cpu_time_s,
            memory_kb=memory_kb,
            max_memory_kb=memory_kb,
            vcpus_online=vcpus,
            paused=cpu_time_s == 0,
            dying=False,
            service=service,
        )
        self._weights[domid], self._caps[domid] = weight, cap
        self.pauses[domid], self.targets_kb[domid], self.vcpus[domid] = int(cpu_time_s == 0), memory_kb, vcpus
        return domid

    def destroy(self, domid: int) -> None:
        """Let the domain die."""
        self._get("destroy", domid)
        del self._domains[domid], self._weights[domid], self._caps[domid]

    def renumber(self, domid: int, *, cpu_time_s: float = 1.0) -> int:
        """Migrate the domain, or save and restore it: same UUID, weight and cap, another domid."""
        info = self._get("renumber", domid)
        weight, cap = self._weights[domid], self._caps[domid]
        self.destroy(domid)
        new = self._next_domid
        self._next_domid += 1
        self._domains[new] = replace(info, domid=new, cpu_time_s=cpu_time_s, paused=False, dying=False)
        self._weights[new], self._caps[new] = weight, cap
        self.pauses[new] = 0
        self.targets_kb[new], self.vcpus[new] = self.targets_kb[domid], self.vcpus[domid]
        return new

    def change(self, domid: int, **fields: object) -> None:
        """Set fields of the domain's record, such as `cpu_time_s` or `dying`."""
        self._domains[domid] = replace(self._get("change", domid), **fields)  # type: ignore[arg-type]

    def move_to_pool(self, domid: int, cpupool: int) -> None:
        """`xl cpupool-migrate`: weight and cap are reset."""
        self.change(domid, cpupool=cpupool)
        self._weights[domid], self._caps[domid] = DEFAULT_WEIGHT, 0

    # --- protocols.Hypervisor ---

    def host_info(self) -> HostInfo:
        """Return what the machine is."""
        self._may("host_info")
        used = sum(d.memory_kb for d in self._domains.values())
        return HostInfo(
            "4.17.fake",
            self.pcpus,
            self.scheduler,
            self.memory_kb,
            max(0, self.memory_kb - used),
            cpu_khz=1_000_000,
        )

    def list_domains(self) -> list[DomainInfo]:
        """Return all domains, dom0 included, ascending by domid."""
        self._may("list_domains")
        return [self._domains[domid] for domid in sorted(self._domains)]

    def sched_params(self, domid: int) -> SchedParams:
        """Return the domain's scheduler parameters."""
        self._get("sched_params", domid)
        if self.scheduler not in _WITH_CAP:
            return SchedParams(self.scheduler, None, None)
        return SchedParams(self.scheduler, self._weights[domid], self._caps[domid])

    def set_sched_params(self, domid: int, *, weight: int | None = None, cap: int | None = None) -> None:
        """Set what is given, within the bounds that Xen checks."""
        info = self._get("set_sched_params", domid)
        given = {k: v for k, v in (("weight", weight), ("cap", cap)) if v is not None}
        self.calls.append(("set_sched_params", domid, given))
        if self.scheduler not in _WITH_CAP:
            return
        if (
            not 1 <= given.get("weight", 1) <= 65535
            or not 0 <= given.get("cap", 0) <= 100 * info.vcpus_online
        ):
            raise HypervisorError(f"set_sched_params failed for domain {domid}: ERROR_INVAL", "ERROR_INVAL")
        self._weights[domid] = given.get("weight", self._weights[domid])
        self._caps[domid] = given.get("cap", self._caps[domid])

    def vcpu_infos(self, domid: int) -> list[VcpuInfo]:
        """Return how the domain's vCPUs stand that are online."""
        count = self._get("vcpu_infos", domid).vcpus_online
        cpus = self.affinity.get(domid, [frozenset(range(self.pcpus))] * count)
        return [VcpuInfo(where, domid in self.blocked) for where in cpus]

    def paused(self, domid: int) -> bool:
        """Tell whether there are any pauses."""
        self._get("paused", domid)
        return self.pauses[domid] > 0

    def pause(self, domid: int) -> None:
        """Count one up."""
        self._get("pause", domid)
        self.pauses[domid] += 1
        self.calls.append(("pause", domid, {}))

    def unpause(self, domid: int) -> None:
        """Count one down; Xen refuses where there is none."""
        self._get("unpause", domid)
        if self.pauses[domid] == 0:
            raise HypervisorError(f"unpause failed for domain {domid}: ERROR_FAIL", "ERROR_FAIL")
        self.pauses[domid] -= 1
        self.calls.append(("unpause", domid, {}))

    def memory_target_kb(self, domid: int) -> int:
        """Return the balloon target."""
        self._get("memory_target_kb", domid)
        return self.targets_kb[domid]

    def set_memory_target(self, domid: int, target_kb: int) -> None:
        """Set the balloon target."""
        self._get("set_memory_target", domid)
        self.targets_kb[domid] = target_kb

    def vcpus_available(self, domid: int) -> int:
        """Return how many vCPUs the domain was told to use."""
        self._get("vcpus_available", domid)
        return self.vcpus[domid]

    def set_vcpus_available(self, domid: int, count: int) -> None:
        """Tell it."""
        self._get("set_vcpus_available", domid)
        self.vcpus[domid] = count

    # --- inside ---

    def trace_state(self) -> TraceState:
        """Return how the host's trace buffers stand."""
        self._may("trace_state")
        return TraceState(bool(self.trace_positions), self.trace_mask, tuple(self.trace_positions))

    def start_trace(self, mask: int, pages: int) -> None:  # noqa: ARG002
        """Trace what `mask` says, in buffers that are made where there are none."""
        self._may("start_trace")
        self.trace_mask, self.trace_on = mask, True
        self.trace_positions = self.trace_positions or [(0, 0)] * self.pcpus

    def set_trace_mask(self, mask: int) -> None:
        """Set the mask and nothing else."""
        self._may("set_trace_mask")
        self.trace_mask = mask

    def stop_trace(self) -> None:
        """Stop tracing."""
        self._may("stop_trace")
        self.trace_on = False

    def take_trace(self, cpus: int, size: int) -> list[bytes]:
        """Return what at most `cpus` CPUs recorded, and mark all as read."""
        self._may("take_trace")
        self.trace_positions = [(written, written) for _read, written in self.trace_positions]
        return [records[:size] for records in self.traced[:cpus]]

    def _may(self, method: str) -> None:
        if method in self.refuse:
            raise HypervisorError(f"{method} failed: ERROR_FAIL", "ERROR_FAIL")

    def _get(self, method: str, domid: int) -> DomainInfo:
        self._may(method)
        if domid not in self._domains:
            raise DomainGoneError(f"domain {domid} is gone", "ERROR_DOMAIN_NOTFOUND")
        return self._domains[domid]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Xen through libxl: `protocols.Hypervisor`, typed records in and out, every C list freed.

Two facts that libxl does not tell come from XenStore, in one pipelined batch with the names: what
`dominfo` calls HVM may be PVH (`/libxl/<domid>/type` says), and which domains serve others (stub,
driver and store domains). All of these nodes are dom0's own; no guest can write them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from xenwarden_host.errors import DomainGoneError, HypervisorError
from xenwarden_host.libxl.context import Context
from xenwarden_host.libxl.errors import error
from xenwarden_host.libxl.slow import SlowCalls
from xenwarden_host.libxl.tracebuf import TraceBuffers
from xenwarden_host.records import DomainInfo, HostInfo, SchedParams, VcpuInfo, VmType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenwarden_host.protocols import Store
    from xenwarden_host.records import TraceState

_NS_PER_S = 1_000_000_000


class Xenlight:
    """The machine's Xen. Quick calls are a few hypercalls and never fork; slow ones run in `slow`.

    Args:
        store: XenStore, for names, kinds and service domains.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._context = Context()
        self._ffi, self._lib = self._context.ffi, self._context.lib
        self._slow = SlowCalls()
        self._trace: TraceBuffers | None = None  # opened when first used
        # (domid, uuid) -> what never changes in a domain's life
        self._kinds: dict[tuple[int, str], tuple[VmType, bool]] = {}

    def close(self) -> None:
        """Free the libxl contexts; slow calls that are begun are finished first."""
        self._slow.close()
        self._context.close()
        if self._trace is not None:
            self._trace.close()

    # --- the machine ---

    def host_info(self) -> HostInfo:
        """Return what the machine is."""
        version = self._lib.libxl_get_version_info(self._context.ctx)
        if not version:
            raise error("libxl_get_version_info", -3)
        extra = self._text(version.xen_version_extra)
        page_kb = version.pagesize // 1024
        scheduler = self._lib.libxl_get_scheduler(self._context.ctx)
        if scheduler < 0:
            raise error("libxl_get_scheduler", scheduler)
        with self._context.struct("libxl_physinfo") as info:
            self._check("libxl_get_physinfo", self._lib.libxl_get_physinfo(self._context.ctx, info))
            return HostInfo(
                xen_version=f"{version.xen_version_major}.{version.xen_version_minor}{extra}",
                pcpus=info.nr_cpus,
                scheduler=self._scheduler(scheduler),
                total_memory_kb=info.total_pages * page_kb,
                free_memory_kb=info.free_pages * page_kb,
                cpu_khz=info.cpu_khz,
            )

    # --- tracing ---

    def trace_state(self) -> TraceState:
        """Return how the host's trace buffers stand."""
        return self._buffers().state()

    def start_trace(self, mask: int, pages: int) -> None:
        """Trace what `mask` says; where there are no buffers, make some of so many pages for each CPU."""
        self._buffers().start(mask, pages)

    def set_trace_mask(self, mask: int) -> None:
        """Set the mask and nothing else."""
        self._buffers().set_mask(mask)

    def stop_trace(self) -> None:
        """Stop tracing: when this returns, nothing is recorded any more."""
        self._buffers().stop()

    def take_trace(self, cpus: int, size: int) -> list[bytes]:
        """Return what the `cpus` busiest CPUs recorded first, `size` bytes of each, and mark all as read.

        Only while tracing is off.
        """
        return self._buffers().take(cpus, size)

    def _buffers(self) -> TraceBuffers:
        if self._trace is None:
            self._trace = TraceBuffers()
        return self._trace

    # --- domains ---

    def list_domains(self) -> list[DomainInfo]:
        """Return all domains, dom0 included, ascending by domid. One being built may have no name yet."""
        count = self._ffi.new("int *")
        listed = self._lib.libxl_list_domain(self._context.ctx, count)
        if not listed:
            raise error("libxl_list_domain", -3)
        try:
            raw = [_Raw(self._ffi, listed[i]) for i in range(count[0])]
        finally:
            self._lib.libxl_dominfo_list_free(listed, count[0])
        return self._told_by_store(raw)

    def _told_by_store(self, raw: list[_Raw]) -> list[DomainInfo]:
        """Add names, kinds and services. Kinds are read once per domain, names each time (`xl rename`)."""
        new = [r for r in raw if (r.domid, r.uuid) not in self._kinds and r.domid != 0]
        paths = [f"/local/domain/{r.domid}/name" for r in raw]
        for r in new:
            home = f"/local/domain/{r.domid}"
            paths += [f"/libxl/{r.domid}/type", f"{home}/target", f"{home}/libxl"]
        paths.append("/tool/xenstored/domid")
        values = self._store.read_many(paths)
        store_domid = _number(values.pop())
        names = [(value or b"").decode("ascii", "replace") for value in values[: len(raw)]]
        alive = {(r.domid, r.uuid) for r in raw}
        self._kinds = {key: kind for key, kind in self._kinds.items() if key in alive}
        kinds = dict(self._kinds)
        for i, r in enumerate(new):
            word, target, driver = values[len(raw) + 3 * i : len(raw) + 3 * i + 3]
            vm_type = _TYPES.get(word)
            service = target is not None or driver is not None or r.domid == store_domid
            kinds[r.domid, r.uuid] = (vm_type or VmType.PV, service)
            if vm_type is not None and not (
                r.paused and r.cpu_time_s == 0
            ):  # else: ask again, it is being built
                self._kinds[r.domid, r.uuid] = (vm_type, service)
        domains = [
            r.record(name, *kinds[r.domid, r.uuid])
            if r.domid
            else r.record(name or "Domain-0", VmType.DOM0, True)
            for r, name in zip(raw, names, strict=True)
        ]
        return sorted(domains, key=lambda d: d.domid)

    # --- scheduler ---

    def sched_params(self, domid: int) -> SchedParams:
        """Return weight and cap; both None where the domain's scheduler has none (rtds, null, arinc653)."""
        with self._context.struct("libxl_domain_sched_params") as params:
            code = self._lib.libxl_domain_sched_params_get(self._context.ctx, domid, params)
            if code:  # libxl has no getter for some schedulers, and no code of its own for a dead domain
                name = self._scheduler_of(domid)
                if name in ("credit", "credit2"):
                    raise error("libxl_domain_sched_params_get", code, domid)
                return SchedParams(name, None, None)
            if params.sched in (self._lib.LIBXL_SCHEDULER_CREDIT, self._lib.LIBXL_SCHEDULER_CREDIT2):
                return SchedParams(self._scheduler(params.sched), params.weight, params.cap)
            return SchedParams(self._scheduler(params.sched), None, None)

    def set_sched_params(self, domid: int, *, weight: int | None = None, cap: int | None = None) -> None:
        """Set what is given, leave the rest. Does not read back: the caller does."""
        with self._context.struct("libxl_domain_sched_params") as params:
            params.sched = self._lib.LIBXL_SCHEDULER_UNKNOWN
            if weight is not None:
                params.weight = weight
            if cap is not None:
                params.cap = cap
            code = self._lib.libxl_domain_sched_params_set(self._context.ctx, domid, params)
        self._check_domain("libxl_domain_sched_params_set", code, domid)

    def vcpu_infos(self, domid: int) -> list[VcpuInfo]:
        """Return how the domain's vCPUs stand that are online: two hypercalls each."""
        count, cpus = self._ffi.new("int *"), self._ffi.new("int *")
        listed = self._lib.libxl_list_vcpu(self._context.ctx, domid, count, cpus)
        if not listed:
            self._check_domain("libxl_list_vcpu", -3, domid)
        try:
            return [
                VcpuInfo(
                    frozenset(
                        n
                        for n in range(cpus[0])
                        if self._lib.libxl_bitmap_test(self._ffi.addressof(vcpu, "cpumap"), n)
                    ),
                    vcpu.blocked,
                )
                for vcpu in (listed[i] for i in range(count[0]))
                if vcpu.online
            ]
        finally:
            self._lib.libxl_vcpuinfo_list_free(listed, count[0])

    def _scheduler_of(self, domid: int) -> str:
        """Return the scheduler of the domain's CPU pool, by libxl's name."""
        with self._info(domid) as info:
            if info.dying:
                raise DomainGoneError(f"domain {domid} is being destroyed", "ERROR_DOMAIN_DESTROYED")
            pool = info.cpupool
        with self._context.struct("libxl_cpupoolinfo") as info:
            self._check("libxl_cpupool_info", self._lib.libxl_cpupool_info(self._context.ctx, info, pool))
            return self._scheduler(info.sched)

    # --- pause, memory, vCPUs ---

    def paused(self, domid: int) -> bool:
        """Tell whether the toolstack keeps the domain from running."""
        with self._info(domid) as info:
            return bool(info.paused)

    def pause(self, domid: int) -> None:
        """Pause once more: one hypercall, whatever the kind of domain."""
        code = self._lib.libxl_domain_pause(self._context.ctx, domid, self._ffi.NULL)
        self._check_domain("libxl_domain_pause", code, domid)

    def unpause(self, domid: int) -> None:
        """Take one pause back. Begun: an HVM domain's QEMU is asked first."""

        def call(context: Context) -> None:
            code = context.lib.libxl_domain_unpause(context.ctx, domid, context.ffi.NULL)
            self._check_domain("libxl_domain_unpause", code, domid)

        self._slow.run(("unpause", domid), call)

    def memory_target_kb(self, domid: int) -> int:
        """Return what the domain was last told to balloon to."""
        # libxl would read this node too, on a connection that does not outlive a restart of xenstored.
        target = _number(self._store.read_many([f"/local/domain/{domid}/memory/target"])[0])
        if target is None:
            with self._info(domid):
                raise HypervisorError(f"domain {domid} has no memory target yet", "ERROR_NOT_READY")
        return target

    def set_memory_target(self, domid: int, target_kb: int) -> None:
        """Tell the domain to balloon to this, and let it have no more, as `xl mem-set` does. Begun."""

        def call(context: Context) -> None:
            code = context.lib.libxl_set_memory_target(context.ctx, domid, target_kb, 0, 1)
            self._check_domain("libxl_set_memory_target", code, domid)

        self._slow.run(("memory", domid), call)

    def vcpus_available(self, domid: int) -> int:
        """Return how many vCPUs the domain was last told to use: what Xen counts is what it complied with."""
        with self._info(domid) as info:
            last = info.vcpu_max_id
        nodes = [f"/local/domain/{domid}/cpu/{n}/availability" for n in range(last + 1)]
        return sum(value == b"online" for value in self._store.read_many(nodes))

    def set_vcpus_available(self, domid: int, count: int) -> None:
        """Tell the domain to use its first `count` vCPUs. Begun: HVM is asked through QEMU."""

        def call(context: Context) -> None:
            with context.struct("libxl_bitmap") as cpus:
                code = context.lib.libxl_cpu_bitmap_alloc(context.ctx, cpus, count)
                self._check("libxl_cpu_bitmap_alloc", code)
                for cpu in range(count):
                    context.lib.libxl_bitmap_set(cpus, cpu)
                code = context.lib.libxl_set_vcpuonline(context.ctx, domid, cpus, context.ffi.NULL)
            self._check_domain("libxl_set_vcpuonline", code, domid)

        self._slow.run(("vcpus", domid), call)

    # --- small things ---

    @contextmanager
    def _info(self, domid: int) -> Iterator[Any]:
        with self._context.struct("libxl_dominfo") as info:
            code = self._lib.libxl_domain_info(self._context.ctx, info, domid)
            self._check("libxl_domain_info", code, domid)
            yield info

    def _check_domain(self, call: str, code: int, domid: int) -> None:
        """Raise what `code` means: most calls say ERROR_FAIL of a domain that died."""
        if code:
            with self._info(domid):
                raise error(call, code, domid)

    def _check(self, call: str, code: int, domid: int | None = None) -> None:
        if code:
            raise error(call, code, domid)

    def _scheduler(self, number: int) -> str:
        return self._text(self._lib.libxl_scheduler_to_string(number)) or f"scheduler {number}"

    def _text(self, pointer: Any) -> str:
        return self._ffi.string(pointer).decode("ascii", "replace") if pointer else ""


_TYPES: dict[bytes | None, VmType] = {b"pv": VmType.PV, b"pvh": VmType.PVH, b"hvm": VmType.HVM}


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None


class _Raw:
    """A `libxl_dominfo` copied out of C, before XenStore adds to it."""

    __slots__ = ("cpu_time_s", "cpupool", "domid", "dying", "max_kb", "memory_kb", "paused", "uuid", "vcpus")

    def __init__(self, ffi: Any, info: Any) -> None:
        self.domid: int = info.domid
        self.uuid = str(UUID(bytes=bytes(ffi.buffer(info.uuid.uuid))))
        self.cpu_time_s = info.cpu_time / _NS_PER_S
        self.memory_kb: int = info.current_memkb
        self.max_kb: int = info.max_memkb
        self.vcpus: int = info.vcpu_online
        self.paused: bool = info.paused
        self.dying: bool = info.dying or info.shutdown
        self.cpupool: int = info.cpupool

    def record(self, name: str, kind: VmType, service: bool) -> DomainInfo:
        """Return the record that the rest of dom0 uses."""
        return DomainInfo(
            domid=self.domid,
            uuid=self.uuid,
            name=name,
            vm_type=kind,
            cpu_time_s=self.cpu_time_s,
            memory_kb=self.memory_kb,
            max_memory_kb=self.max_kb,
            vcpus_online=self.vcpus,
            paused=self.paused,
            dying=self.dying,
            cpupool=self.cpupool,
            service=service,
        )

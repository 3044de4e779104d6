# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything with a side effect stands behind one of these Protocols, each with a real and a fake form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xenwarden_host.records import (
        DomainInfo,
        HostInfo,
        PacketClass,
        SchedParams,
        TraceState,
        VcpuInfo,
    )


class Clock(Protocol):
    """Time. A guest's clock is never used."""

    def monotonic(self) -> float:
        """Return seconds that only go forward."""

    def unix(self) -> float:
        """Return seconds since 1970, for records that people read."""


class Hypervisor(Protocol):
    """Xen. Real: `libxl.xenlight.Xenlight`; fake: `libxl.fake.FakeHypervisor`.

    Every method raises `HypervisorError`; those with a domid raise `DomainGoneError` when it died. All
    are quick but the setters that say *begun*: those may go on after their return, delay no other call,
    and what failed later is raised by the next call of the same for the same domain.
    """

    def host_info(self) -> HostInfo:
        """Return what the machine is."""

    def list_domains(self) -> list[DomainInfo]:
        """Return all domains, dom0 included, in one batch."""

    def sched_params(self, domid: int) -> SchedParams:
        """Return the domain's scheduler parameters."""

    def set_sched_params(self, domid: int, *, weight: int | None = None, cap: int | None = None) -> None:
        """Set what is given, leave the rest. Does not read back: the caller does."""

    def vcpu_infos(self, domid: int) -> list[VcpuInfo]:
        """Return how the domain's vCPUs stand that are online: two hypercalls each."""

    def paused(self, domid: int) -> bool:
        """Tell whether the toolstack keeps the domain from running. Xen counts pauses and shows only this."""

    def pause(self, domid: int) -> None:
        """Pause once more."""

    def unpause(self, domid: int) -> None:
        """Take one pause back. Begun."""

    def memory_target_kb(self, domid: int) -> int:
        """Return what the domain was last told to balloon to."""

    def set_memory_target(self, domid: int, target_kb: int) -> None:
        """Tell the domain to balloon to this, and let it have no more. Begun."""

    def vcpus_available(self, domid: int) -> int:
        """Return how many vCPUs the domain was last told to use."""

    def set_vcpus_available(self, domid: int, count: int) -> None:
        """Tell the domain to use its first `count` vCPUs. Begun."""

    def trace_state(self) -> TraceState:
        """Return how the host's trace buffers stand."""

    def start_trace(self, mask: int, pages: int) -> None:
        """Trace what `mask` says; where there are no buffers, make some of so many pages for each CPU."""

    def set_trace_mask(self, mask: int) -> None:
        """Set the mask and nothing else."""

    def stop_trace(self) -> None:
        """Stop tracing: when this returns, nothing is recorded any more."""

    def take_trace(self, cpus: int, size: int) -> list[bytes]:
        """Return what the `cpus` busiest CPUs recorded first, `size` bytes of each, and mark all as read.

        Only while tracing is off.
        """


class VifControl(Protocol):
    """The vifs of one domain whose backend is in dom0. Real: `limits.vif.DomainVifs`; fake beside it."""

    def devids(self, domid: int) -> list[int]:
        """Return the device ids of the domain's connected vifs, ascending; empty where it has none."""

    def queues(self, domid: int, devid: int) -> int:
        """Return how many queues the vif uses (the rate is per queue)."""

    def rate(self, domid: int, devid: int) -> str | None:
        """Return the backend's `rate` node as it stands (`bytes,usecs`), None where there is none."""

    def set_rate(self, domid: int, devid: int, value: str | None) -> None:
        """Write the `rate` node, None removes it. netback takes it at once."""

    def police(self, domid: int) -> dict[int, dict[PacketClass, int]]:
        """Return the packet limits that stand on each vif now, per class, read back from the kernel."""

    def set_police(self, domid: int, wanted: Mapping[int, Mapping[PacketClass, int]]) -> None:
        """Make `wanted` the packet limits of ours on the vifs named; empty removes all trace of them."""

    def police_drops(self) -> dict[int, int]:
        """Return by domid how many packets its limits dropped since they were set, in one pass for all."""

    def inbound(self, domid: int) -> dict[int, int | None]:
        """Return the bits per second that may reach the guest by each vif, None where there is no limit."""

    def set_inbound(self, domid: int, wanted: Mapping[int, int | None]) -> None:
        """Limit what reaches the guest by the vifs named; None removes all trace of it."""


class VbdControl(Protocol):
    """The disks of one domain that dom0's blkback serves. Real: `limits.vbd.DomainVbds`."""

    def limits(self, domid: int) -> dict[int, int | None]:
        """Return bytes per second, each way, of every such disk by device id; None where it has no limit."""

    def set_limits(self, domid: int, wanted: Mapping[int, int | None]) -> None:
        """Make `wanted` the limits of the disks named; None removes all trace of it."""


class Store(Protocol):
    """XenStore. Real: `xenwarden_channel.client.StoreClient`; fake: `xenwarden_channel.fake.FakeStore`.

    Raises `xenwarden_channel.errors.StoreError` and its kinds. Every call has a deadline.
    """

    def read(self, path: str) -> bytes:
        """Return the node's value."""

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the values in order, pipelined; None where a node is missing or unreadable."""

    def write(self, path: str, value: bytes) -> None:
        """Write the node, making it and its parents."""

    def write_many(self, items: Sequence[tuple[str, bytes]]) -> list[Exception | None]:
        """Write all, pipelined; the answer has None for each that was written, else its error."""

    def mkdir(self, path: str) -> None:
        """Make the node with an empty value; nothing happens where it is there."""

    def remove(self, path: str) -> None:
        """Remove the node and all below; nothing happens where there is none."""

    def directory(self, path: str) -> list[str]:
        """Return the children's names, however many. Never for a directory that a guest can write."""

    def permissions(self, path: str) -> list[str]:
        """Return the node's permissions, as `n0`, `r5`."""

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        """Set the node's permissions."""

    def usage(self, domid: int) -> dict[str, int]:
        """Return what a domain holds of its quotas, by the daemon's own names; see `StoreClient.usage`."""

    def watch(self, path: str, token: str) -> None:
        """Watch the node and all below. Events come from `events`; they are re-made after a reconnect."""

    def unwatch(self, path: str, token: str) -> None:
        """Stop watching."""

    def events(self) -> list[tuple[str, str]]:
        """Return and clear the (path, token) events since the last call, each pair once. Never blocks."""

    def event_fd(self) -> int:
        """Return a descriptor that is readable while `events` has something to return."""

    def generation(self) -> int:
        """Return a number that rises with each reconnect: the caller re-reads everything when it changed."""

    def connected(self) -> bool:
        """Tell whether the connection stands now."""

    def close(self) -> None:
        """Close the connection and stop the reader."""

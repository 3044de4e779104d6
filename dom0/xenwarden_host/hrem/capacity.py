# SPDX-License-Identifier: LGPL-2.1-or-later
"""How full the host is: who is near its maximum, who gets too little, what is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenwarden_host.records import HostInfo

NEAR_SHARE = 0.1  # close to its maximum in this share of all observations
_ENOUGH = 60  # observations


@dataclass(frozen=True, slots=True)
class Load:
    """One VM's use of the host; None: not known."""

    name: str
    domid: int
    uuid: str
    vcpus: int
    memory_kb: int
    cpus_used: float | None  # CPUs of the host
    mem_used_pct: float | None  # by its own word
    steal_pct: float | None  # likewise
    steal_usual: float
    near_max: int
    near_max_of: int

    @property
    def is_near_max(self) -> bool:
        """Tell whether it is often close to what its vCPUs can give."""
        return self.near_max_of >= _ENOUGH and self.near_max >= NEAR_SHARE * self.near_max_of

    @property
    def gets_too_little(self) -> bool:
        """Tell whether it waits for CPU more than is usual for it."""
        return self.steal_pct is not None and self.steal_pct > self.steal_usual


@dataclass(frozen=True, slots=True)
class OneMore:
    """One more VM such as the middling one here."""

    vcpus: int
    memory_kb: int
    cpus_used: float
    fits: bool
    text: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """The host and its VMs."""

    cpus: int
    cpus_used: float
    vcpus: int
    memory_kb: int
    free_kb: int
    keeps_kb: int  # free memory that is for nobody
    one_more: OneMore | None  # None: no VM runs that could be a measure
    advice: tuple[str, ...]


def look(host: HostInfo, dom0: Sequence[Load], vms: Sequence[Load], keeps_kb: int) -> Capacity:
    """Return how full the host is. `dom0` are the domains that serve others, `vms` the others."""
    used = sum(load.cpus_used or 0.0 for load in (*dom0, *vms))
    vcpus = sum(load.vcpus for load in vms)
    left_kb = max(0, host.free_memory_kb - keeps_kb)
    return Capacity(
        cpus=host.pcpus,
        cpus_used=round(used, 2),
        vcpus=vcpus,
        memory_kb=host.total_memory_kb,
        free_kb=host.free_memory_kb,
        keeps_kb=keeps_kb,
        one_more=_one_more(host, vms, used, left_kb) if vms else None,
        advice=tuple(_advice(host, vms, used, left_kb)),
    )


def _one_more(host: HostInfo, vms: Sequence[Load], used: float, left_kb: int) -> OneMore:
    vcpus = int(median(load.vcpus for load in vms))
    memory_kb = int(median(load.memory_kb for load in vms))
    cpus = median(load.cpus_used or 0.0 for load in vms)
    fits_memory, fits_cpu = memory_kb <= left_kb, used + cpus <= host.pcpus
    what = f"one more VM with {vcpus} vCPU{'' if vcpus == 1 else 's'} and {memory_kb // 1024} MB"
    if fits_memory and fits_cpu:
        after = left_kb - memory_kb
        text = f"{what} fits: {after // 1024} MB and {host.pcpus - used - cpus:.1f} CPUs would be left"
    elif not fits_memory:
        text = f"{what} does not fit: {(memory_kb - left_kb + 1023) // 1024} MB of memory are missing"
    else:
        text = f"{what} would make VMs wait: {used + cpus:.1f} of {host.pcpus} CPUs would be used"
    return OneMore(vcpus, memory_kb, round(cpus, 2), fits_memory and fits_cpu, text)


def _advice(host: HostInfo, vms: Sequence[Load], used: float, left_kb: int) -> list[str]:
    out = []
    waiting = [load.name for load in vms if load.gets_too_little]
    if waiting:
        largest = max(vms, key=lambda load: load.cpus_used or 0.0)
        out.append(
            f"{', '.join(waiting)}: wait for CPU ({used:.1f} of {host.pcpus} CPUs are used); "
            f"moving {largest.name} away would free {largest.cpus_used or 0.0:.1f} CPUs"
        )
    if left_kb == 0 and vms:
        largest = max(vms, key=lambda load: load.memory_kb)
        out.append(
            f"no memory is left beyond what the host keeps; moving {largest.name} away would free "
            f"{largest.memory_kb // 1024} MB"
        )
    return out

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Xen's trace buffers, by Xen's own stable libraries.

libxl has no call for them. Each CPU writes its records into a ring in memory that dom0 maps, and stops
where it is full: what is not read costs Xen nothing more.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, NamedTuple

from xenwarden_host.errors import HypervisorError
from xenwarden_host.libxl import binding
from xenwarden_host.records import TraceState

_HEADER = 8  # struct t_buf: cons and prod, before the records of each ring
_PAGE = 4096


class _Ring(NamedTuple):
    """One CPU's buffer, as it is mapped."""

    address: Any
    position: Any  # cons and prod; either runs over twice the size
    size: int


class TraceBuffers:
    """The buffers of all CPUs, mapped when they are first looked into.

    Raises:
        HypervisorError: hypercalls of this kind, or Xen's memory, are not to be had.
    """

    def __init__(self) -> None:
        self._ffi, self._lib = binding.load()
        self._call = self._opened("xencall_open", self._lib.xw_xencall_open(), self._lib.xencall_close)
        self._memory = self._opened(
            "xenforeignmemory_open", self._lib.xw_foreignmemory_open(), self._lib.xenforeignmemory_close
        )
        self._rings: list[_Ring] = []
        self._mapped: list[tuple[Any, int]] = []

    def _opened(self, name: str, handle: Any, close: Any) -> Any:
        if not handle:
            raise self._failed(name)
        return self._ffi.gc(handle, close)

    def state(self) -> TraceState:
        """Return how they stand."""
        info = self._do("get_info")
        rings = self._map(info)
        positions = tuple((ring.position[0], ring.position[1]) for ring in rings)
        return TraceState(bool(info.buffer_mfn), info.evt_mask, positions)

    def start(self, mask: int, pages: int) -> None:
        """Trace what `mask` says; where there are no buffers, make some of so many pages for each CPU."""
        self.set_mask(mask)
        # Making them starts it as well.
        if self._do("get_info").buffer_mfn:
            self._do("enable")
        else:
            self._do("set_size", size=pages)

    def set_mask(self, mask: int) -> None:
        """Set the mask and nothing else."""
        self._do("set_evt_mask", evt_mask=mask)

    def stop(self) -> None:
        """Stop tracing: when this returns, nothing is recorded any more."""
        self._do("disable")

    def take(self, cpus: int, size: int) -> list[bytes]:
        """Return what the `cpus` busiest CPUs recorded first, `size` bytes of each, and mark all as read.

        Only while tracing is off.
        """
        out = []
        rings = self._map(self._do("get_info"))
        unread = {n: (r.position[1] - r.position[0]) % (2 * r.size) for n, r in enumerate(rings)}
        for n in sorted(unread, key=unread.__getitem__, reverse=True)[:cpus]:
            ring, length = rings[n], min(size, unread[n])
            start = ring.position[0] % ring.size
            first = min(length, ring.size - start)
            buffer = self._ffi.buffer(ring.address + _HEADER, ring.size)
            out.append(buffer[start : start + first] + buffer[: length - first])
        for ring in rings:
            ring.position[0] = ring.position[1]
        return out

    def close(self) -> None:
        """Unmap all, close the handles; tracing is left as it is."""
        for address, pages in self._mapped:
            self._lib.xenforeignmemory_unmap(self._memory, address, pages)
        self._mapped, self._rings = [], []
        self._ffi.release(self._memory)
        self._ffi.release(self._call)

    def _do(self, what: str, **values: int) -> Any:
        op = self._ffi.new("struct xen_sysctl_tbuf_op *", values)
        if self._lib.xw_tbuf_op(self._call, getattr(self._lib, f"XEN_SYSCTL_TBUFOP_{what}"), op):
            raise self._failed(f"XEN_SYSCTL_TBUFOP_{what}")
        return op

    def _map(self, info: Any) -> list[_Ring]:
        """Map the page that says where all rings are, and these; once, since neither ever moves."""
        if self._rings or not info.buffer_mfn:
            return self._rings
        table = self._map_pages([info.buffer_mfn + n for n in range(info.size // _PAGE)], mmap.PROT_READ)
        halves, words = self._ffi.cast("uint16_t *", table), self._ffi.cast("uint32_t *", table)
        pages = halves[0]
        # After the size of a ring, one offset for each CPU, 0 where it is off; the first ring's list of pages
        # comes right after all offsets.
        offsets = [halves[n] for n in range(1, _PAGE // 2)]
        first = next((offset for offset in offsets if offset), 0)
        for offset in offsets[: 2 * first - 1]:
            if offset:
                address = self._map_pages(
                    [words[offset + n] for n in range(pages)], mmap.PROT_READ | mmap.PROT_WRITE
                )
                position = self._ffi.cast("volatile uint32_t *", address)
                self._rings.append(_Ring(address, position, pages * _PAGE - _HEADER))
        return self._rings

    def _map_pages(self, frames: list[int], protection: int) -> Any:
        address = self._lib.xenforeignmemory_map(
            self._memory,
            self._lib.DOMID_XEN,
            protection,
            len(frames),
            self._ffi.new("xen_pfn_t[]", frames),
            self._ffi.NULL,
        )
        if not address:
            raise self._failed("xenforeignmemory_map")
        self._mapped.append((address, len(frames)))
        return self._ffi.cast("char *", address)

    def _failed(self, call: str) -> HypervisorError:
        return HypervisorError(f"{call} failed: {os.strerror(self._ffi.errno)}", "ERROR_FAIL")

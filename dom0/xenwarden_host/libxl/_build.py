# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build script of the extension module `xenwarden_host.libxl._xenlight` (cffi, API mode).

The declarations in `cdef/` name only what is used; where they say `...`, the C compiler supplies the
layout from libxl's own headers. Run by setuptools, which does not import the package.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

# One file per subject, in the order in which they need each other.
SLICES = ("context.h", "host.h", "domains.h", "sched.h", "slow.h", "trace.h")

# libxl keeps its older interfaces alive; this names the one that we were written for, so that newer
# headers do not change a prototype under us.
API_VERSION = "0x041400"


def declarations() -> str:
    """Return the text of all slices."""
    folder = Path(__file__).resolve().parent / "cdef"
    return "\n".join((folder / name).read_text(encoding="ascii") for name in SLICES)


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "xenwarden_host.libxl._xenlight",
    """
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <libxl.h>
    #include <libxl_event.h>
    #include <libxl_utils.h>
    #include <xentoollog.h>
    #define __XEN_TOOLS__ /* Xen's own interface to tools, of one release as libxl is */
    #include <xencall.h>
    #include <xenforeignmemory.h>
    #include <xen/sysctl.h>

    /* libxl does not copy the hooks: they must outlast every context. libxl reaps its own children
     * only; ours (tc) are waited for by the one who started them. */
    static const libxl_childproc_hooks xw_hooks = {
        .chldowner = libxl_sigchld_owner_libxl_always_selective_reap,
    };

    static void xw_own_children(libxl_ctx *ctx) { libxl_childproc_setmode(ctx, &xw_hooks, NULL); }

    static xentoollog_logger *xw_logger(int min_level)
    {
        return (xentoollog_logger *)xtl_createlogger_stdiostream(
            stderr, (xentoollog_level)min_level, XTL_STDIOSTREAM_HIDE_PROGRESS);
    }

    static xencall_handle *xw_xencall_open(void) { return xencall_open(NULL, 0); }

    static xenforeignmemory_handle *xw_foreignmemory_open(void) { return xenforeignmemory_open(NULL, 0); }

    static int xw_tbuf_op(xencall_handle *call, uint32_t cmd, struct xen_sysctl_tbuf_op *op)
    {
        xen_sysctl_t *ctl = xencall_alloc_buffer(call, sizeof *ctl);
        int rc;

        if (!ctl)
            return -1;
        memset(ctl, 0, sizeof *ctl);
        ctl->cmd = XEN_SYSCTL_tbuf_op;
        ctl->interface_version = XEN_SYSCTL_INTERFACE_VERSION;
        ctl->u.tbuf_op = *op;
        ctl->u.tbuf_op.cmd = cmd;
        rc = xencall1(call, __HYPERVISOR_sysctl, (uintptr_t)ctl);
        *op = ctl->u.tbuf_op;
        xencall_free_buffer(call, ctl);
        return rc;
    }
    """,
    libraries=["xenlight", "xentoollog", "xencall", "xenforeignmemory"],
    define_macros=[("LIBXL_API_VERSION", API_VERSION)],
)

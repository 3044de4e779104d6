/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xencall.h, xenforeignmemory.h, xen/sysctl.h: Xen's trace buffers, which no call of libxl's is about. */

typedef ... xencall_handle;
typedef ... xenforeignmemory_handle;
typedef unsigned long xen_pfn_t;

#define DOMID_XEN ...
#define XEN_SYSCTL_TBUFOP_get_info ...
#define XEN_SYSCTL_TBUFOP_set_evt_mask ...
#define XEN_SYSCTL_TBUFOP_set_size ...
#define XEN_SYSCTL_TBUFOP_enable ...
#define XEN_SYSCTL_TBUFOP_disable ...

struct xen_sysctl_tbuf_op {
    uint32_t evt_mask;
    uint64_t buffer_mfn;
    uint32_t size;
    ...;
};

int xencall_close(xencall_handle *xcall);
int xenforeignmemory_close(xenforeignmemory_handle *fmem);
void *xenforeignmemory_map(xenforeignmemory_handle *fmem, uint32_t dom, int prot, size_t pages,
                           const xen_pfn_t arr[], int err[]);
int xenforeignmemory_unmap(xenforeignmemory_handle *fmem, void *addr, size_t pages);

/* ours, in _build.py */
xencall_handle *xw_xencall_open(void);
xenforeignmemory_handle *xw_foreignmemory_open(void);
int xw_tbuf_op(xencall_handle *call, uint32_t cmd, struct xen_sysctl_tbuf_op *op);

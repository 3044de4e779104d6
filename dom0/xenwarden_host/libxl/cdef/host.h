/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The machine: Xen's version, CPUs, memory, schedulers of CPU pools. */

typedef int... libxl_scheduler;
const char *libxl_scheduler_to_string(libxl_scheduler p);

typedef struct {
    int xen_version_major;
    int xen_version_minor;
    char *xen_version_extra;
    int pagesize;
    ...;
} libxl_version_info;
const libxl_version_info *libxl_get_version_info(libxl_ctx *ctx);

typedef struct {
    uint32_t nr_cpus;
    uint32_t cpu_khz;
    uint64_t total_pages;
    uint64_t free_pages;
    ...;
} libxl_physinfo;
void libxl_physinfo_init(libxl_physinfo *p);
void libxl_physinfo_dispose(libxl_physinfo *p);
int libxl_get_physinfo(libxl_ctx *ctx, libxl_physinfo *physinfo);

typedef struct {
    libxl_scheduler sched;
    ...;
} libxl_cpupoolinfo;
void libxl_cpupoolinfo_init(libxl_cpupoolinfo *p);
void libxl_cpupoolinfo_dispose(libxl_cpupoolinfo *p);
int libxl_cpupool_info(libxl_ctx *ctx, libxl_cpupoolinfo *info, uint32_t poolid);
int libxl_get_scheduler(libxl_ctx *ctx);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls that may block: on a lock, on XenStore's transactions, on QEMU. */

typedef struct {
    uint32_t size; /* bytes */
    uint8_t *map;
    ...;
} libxl_bitmap;
void libxl_bitmap_init(libxl_bitmap *map);
void libxl_bitmap_dispose(libxl_bitmap *map);
int libxl_cpu_bitmap_alloc(libxl_ctx *ctx, libxl_bitmap *cpumap, int max_cpus);
void libxl_bitmap_set(libxl_bitmap *bitmap, int bit);
int libxl_bitmap_test(const libxl_bitmap *bitmap, int bit);

typedef ... libxl_asyncop_how;
int libxl_domain_unpause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *ao_how);
int libxl_set_memory_target(libxl_ctx *ctx, uint32_t domid, int64_t target_memkb, int relative, int enforce);
int libxl_set_vcpuonline(libxl_ctx *ctx, uint32_t domid, libxl_bitmap *cpumap, const libxl_asyncop_how *ao_how);

/* quick, but of the same subject */
int libxl_domain_pause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *ao_how);

typedef struct {
    bool online;
    bool blocked;
    libxl_bitmap cpumap; /* hard affinity */
    ...;
} libxl_vcpuinfo;
libxl_vcpuinfo *libxl_list_vcpu(libxl_ctx *ctx, uint32_t domid, int *nb_vcpu, int *nr_cpus_out);
void libxl_vcpuinfo_list_free(libxl_vcpuinfo *list, int nr_vcpus);

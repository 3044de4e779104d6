/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Domains: list and state. */

typedef struct {
    unsigned char uuid[16];
} libxl_uuid;

typedef struct {
    libxl_uuid uuid;
    uint32_t domid;
    bool paused;
    bool shutdown;
    bool dying;
    uint64_t current_memkb;
    uint64_t max_memkb;
    uint64_t cpu_time; /* nanoseconds */
    uint32_t vcpu_max_id;
    uint32_t vcpu_online;
    uint32_t cpupool;
    ...;
} libxl_dominfo;
void libxl_dominfo_init(libxl_dominfo *p);
void libxl_dominfo_dispose(libxl_dominfo *p);
int libxl_domain_info(libxl_ctx *ctx, libxl_dominfo *info_r, uint32_t domid);
libxl_dominfo *libxl_list_domain(libxl_ctx *ctx, int *nb_domain_out);
void libxl_dominfo_list_free(libxl_dominfo *list, int nb_domain);

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A libxenlight with as many functions as the binding uses, compiled against libxl's own headers so
 * that every structure has its real layout. What it hands out comes from malloc, as libxl's does, and
 * is counted until the matching free: a list that the binding forgets shows as `fake_live` > 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libxl.h>
#include <libxl_event.h>
#include <libxl_utils.h>

int fake_live;     /* allocations that nobody has freed yet */
int fake_contexts; /* contexts open */
int fake_ctx_error;
int fake_get_error, fake_set_error, fake_info_error;
int fake_domains = 3;
int fake_scheduler = LIBXL_SCHEDULER_CREDIT2;
int fake_weight = 256, fake_cap = 0;
int fake_set_weight, fake_set_cap, fake_set_scheduler; /* as the last set gave them */
int fake_owner = -1;

struct libxl__ctx {
    int magic;
};

int libxl_ctx_alloc(libxl_ctx **pctx, int version, unsigned flags, xentoollog_logger *lg)
{
    if (fake_ctx_error)
        return fake_ctx_error;
    *pctx = calloc(1, sizeof(struct libxl__ctx));
    fake_contexts++;
    return version == LIBXL_VERSION && flags == 0 && lg ? 0 : ERROR_VERSION;
}

int libxl_ctx_free(libxl_ctx *ctx)
{
    free(ctx);
    fake_contexts--;
    return 0;
}

void libxl_childproc_setmode(libxl_ctx *ctx, const libxl_childproc_hooks *hooks, void *user)
{
    (void)ctx, (void)user;
    fake_owner = hooks ? (int)hooks->chldowner : 0;
}

const libxl_version_info *libxl_get_version_info(libxl_ctx *ctx)
{
    static libxl_version_info version = {
        .xen_version_major = 4, .xen_version_minor = 17, .xen_version_extra = (char *)".7-fake", .pagesize = 4096
    };
    (void)ctx;
    return &version;
}

void libxl_physinfo_init(libxl_physinfo *p) { memset(p, 0, sizeof *p); fake_live++; }
void libxl_physinfo_dispose(libxl_physinfo *p) { (void)p; fake_live--; }
int libxl_get_physinfo(libxl_ctx *ctx, libxl_physinfo *p)
{
    (void)ctx;
    p->nr_cpus = 2;
    p->cpu_khz = 2400000;
    p->total_pages = 1 << 18;
    p->free_pages = 1 << 16;
    return 0;
}

const char *libxl_scheduler_to_string(libxl_scheduler s)
{
    switch (s) {
    case LIBXL_SCHEDULER_CREDIT: return "credit";
    case LIBXL_SCHEDULER_CREDIT2: return "credit2";
    case LIBXL_SCHEDULER_RTDS: return "rtds";
    case LIBXL_SCHEDULER_ARINC653: return "arinc653";
    default: return NULL;
    }
}

int libxl_get_scheduler(libxl_ctx *ctx) { (void)ctx; return fake_scheduler; }

void libxl_cpupoolinfo_init(libxl_cpupoolinfo *p) { memset(p, 0, sizeof *p); }
void libxl_cpupoolinfo_dispose(libxl_cpupoolinfo *p)
{
    if (p->pool_name)
        fake_live--;
    free(p->pool_name);
}
int libxl_cpupool_info(libxl_ctx *ctx, libxl_cpupoolinfo *info, uint32_t poolid)
{
    (void)ctx;
    info->poolid = poolid;
    info->pool_name = strdup("Pool-0");
    fake_live++;
    info->sched = fake_scheduler;
    return 0;
}

static void fill(libxl_dominfo *d, int i)
{
    memset(d, 0, sizeof *d);
    memset(d->uuid.uuid, i ? 0x10 + i : 0, 16);
    d->domid = i * 5;
    d->ssid_label = strdup("label");
    fake_live++;
    d->paused = i == 2;
    d->shutdown = i == 3;
    d->current_memkb = 1000 + i;
    d->max_memkb = 2000 + i;
    d->cpu_time = 1500000000ULL * i;
    d->vcpu_online = 1 + i;
    d->vcpu_max_id = 3;
    d->cpupool = i == 1;
}

void libxl_dominfo_init(libxl_dominfo *p) { memset(p, 0, sizeof *p); }
void libxl_dominfo_dispose(libxl_dominfo *p)
{
    if (p->ssid_label)
        fake_live--;
    free(p->ssid_label);
}
int libxl_domain_info(libxl_ctx *ctx, libxl_dominfo *info, uint32_t domid)
{
    (void)ctx;
    if (fake_info_error)
        return fake_info_error;
    fill(info, domid / 5);
    return 0;
}

libxl_dominfo *libxl_list_domain(libxl_ctx *ctx, int *nb)
{
    (void)ctx;
    if (fake_domains < 0)
        return NULL;
    libxl_dominfo *list = calloc(fake_domains, sizeof *list);
    fake_live++;
    for (int i = 0; i < fake_domains; i++)
        fill(&list[i], fake_domains - 1 - i); /* libxl promises no order */
    *nb = fake_domains;
    return list;
}
void libxl_dominfo_list_free(libxl_dominfo *list, int nb)
{
    for (int i = 0; i < nb; i++)
        libxl_dominfo_dispose(&list[i]);
    free(list);
    fake_live--;
}

void libxl_domain_sched_params_init(libxl_domain_sched_params *p)
{
    memset(p, 0, sizeof *p);
    p->weight = LIBXL_DOMAIN_SCHED_PARAM_WEIGHT_DEFAULT;
    p->cap = LIBXL_DOMAIN_SCHED_PARAM_CAP_DEFAULT;
    fake_live++;
}
void libxl_domain_sched_params_dispose(libxl_domain_sched_params *p) { (void)p; fake_live--; }
int libxl_domain_sched_params_get(libxl_ctx *ctx, uint32_t domid, libxl_domain_sched_params *p)
{
    (void)ctx, (void)domid;
    p->sched = fake_scheduler;
    p->weight = fake_weight;
    p->cap = fake_cap;
    return fake_get_error;
}
int libxl_domain_sched_params_set(libxl_ctx *ctx, uint32_t domid, const libxl_domain_sched_params *p)
{
    (void)ctx, (void)domid;
    fake_set_scheduler = p->sched;
    fake_set_weight = p->weight;
    fake_set_cap = p->cap;
    return fake_set_error;
}

int fake_pauses, fake_slow_error, fake_slow_ms, fake_vcpu_mask;
int fake_target = 1 << 18;
int fake_slow_context_differs;
static libxl_ctx *quick_ctx;

int libxl_domain_pause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how)
{
    (void)domid;
    quick_ctx = ctx;
    fake_pauses++;
    return how ? ERROR_INVAL : 0;
}

static int slow(libxl_ctx *ctx)
{
    fake_slow_context_differs = ctx != quick_ctx;
    usleep(fake_slow_ms * 1000);
    return fake_slow_error;
}

int libxl_domain_unpause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how)
{
    (void)domid;
    int rc = slow(ctx);
    if (!rc)
        fake_pauses--;
    return how ? ERROR_INVAL : rc;
}

int libxl_set_memory_target(libxl_ctx *ctx, uint32_t domid, int64_t kb, int relative, int enforce)
{
    (void)domid;
    int rc = slow(ctx);
    if (!rc && !relative && enforce)
        fake_target = kb;
    return rc;
}

void libxl_bitmap_init(libxl_bitmap *map) { memset(map, 0, sizeof *map); }
void libxl_bitmap_dispose(libxl_bitmap *map)
{
    if (map->map)
        fake_live--;
    free(map->map);
}
int libxl_cpu_bitmap_alloc(libxl_ctx *ctx, libxl_bitmap *map, int max_cpus)
{
    (void)ctx;
    map->size = (max_cpus + 7) / 8;
    map->map = calloc(1, map->size);
    fake_live++;
    return 0;
}
void libxl_bitmap_set(libxl_bitmap *map, int bit) { map->map[bit / 8] |= 1 << (bit % 8); }

int libxl_bitmap_test(const libxl_bitmap *map, int bit) { return map->map[bit / 8] >> (bit % 8) & 1; }

/* one vCPU on all of 10 CPUs, one offline, and one blocked that may run on the last CPU only */
libxl_vcpuinfo *libxl_list_vcpu(libxl_ctx *ctx, uint32_t domid, int *nb_vcpu, int *nr_cpus_out)
{
    if (domid != 5)
        return NULL;
    libxl_vcpuinfo *list = calloc(3, sizeof *list);
    fake_live++;
    for (int i = 0; i < 3; i++) {
        list[i].online = i != 1;
        list[i].blocked = i == 2;
        libxl_cpu_bitmap_alloc(ctx, &list[i].cpumap, 10);
        for (int cpu = i == 2 ? 9 : 0; cpu < 10; cpu++)
            libxl_bitmap_set(&list[i].cpumap, cpu);
    }
    *nb_vcpu = 3;
    *nr_cpus_out = 10;
    return list;
}
void libxl_vcpuinfo_list_free(libxl_vcpuinfo *list, int nb)
{
    for (int i = 0; i < nb; i++)
        libxl_bitmap_dispose(&list[i].cpumap);
    free(list);
    fake_live--;
}

int libxl_set_vcpuonline(libxl_ctx *ctx, uint32_t domid, libxl_bitmap *map, const libxl_asyncop_how *how)
{
    (void)domid;
    int rc = slow(ctx);
    if (!rc)
        fake_vcpu_mask = map->map[0];
    return how ? ERROR_INVAL : rc;
}

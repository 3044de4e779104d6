/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scheduler parameters of a domain, for every scheduler of Xen. */

typedef struct {
    libxl_scheduler sched; /* LIBXL_SCHEDULER_UNKNOWN: whichever the domain's CPU pool has */
    int weight;
    int cap; /* percent of one CPU; 0: none */
    ...;
} libxl_domain_sched_params;

#define LIBXL_SCHEDULER_UNKNOWN ...
#define LIBXL_SCHEDULER_CREDIT ...
#define LIBXL_SCHEDULER_CREDIT2 ...

/* init sets every field to its _DEFAULT (-1), which leaves a parameter as it is */
void libxl_domain_sched_params_init(libxl_domain_sched_params *p);
void libxl_domain_sched_params_dispose(libxl_domain_sched_params *p);
int libxl_domain_sched_params_get(libxl_ctx *ctx, uint32_t domid, libxl_domain_sched_params *params);
int libxl_domain_sched_params_set(libxl_ctx *ctx, uint32_t domid, const libxl_domain_sched_params *params);

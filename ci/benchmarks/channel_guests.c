/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plays many guests, each with an agent that reports at its interval, on the ring pages of an
 * offline xenstored (tests/xenstored/shim.c).
 *
 *     channel_guests DIRECTORY COUNT INTERVAL_MS SECONDS FLOODER
 *
 * Domains 1 to COUNT report, evenly spread over the interval. FLOODER, a further domain or 0 for none,
 * rewrites its report as fast as the daemon takes it. `up_s` of each report is the monotonic clock.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <xen/io/xs_wire.h>

#define FIRST_PORT 64 /* as in shim.c */
#define PATH "data/xenwarden/report"

/* What an agent that can read everything says: 41 signals beside its own fields, about 900 bytes. */
static const char signals[] =
    "tx_pps=1250.5 rx_pps=980.25 tx_bps=5400000 rx_bps=7600000 tx_drop_pps=0 tx_syn_pps=12.5 "
    "rx_syn_pps=10 tx_synack_pps=10 rx_synack_pps=12.25 tx_rst_pps=0.2 rx_rst_pps=0.4 tx_udp_pps=25 "
    "rx_udp_pps=25.5 tx_icmp_pps=0.2 rx_icmp_pps=0 tx_arp_pps=0.1 tx_dests=14 rx_sources=17 "
    "tx_top_share=0.42 tx_external_share=0.35 tcp_open_ps=12.5 tcp_fail_ps=0.2 tcp_retrans_ps=1.5 "
    "udp_error_ps=0 hv_event_ps=2400 hv_blk_rps=120.5 cpu_pct=35.5 steal_pct=1.2 run_queue=0.75 "
    "mem_used_pct=62.5 swap_used_pct=0 disk_bps=8400000 psi_cpu_pct=4.5 psi_mem_pct=0 psi_io_pct=1.5 "
    "fork_ps=3.5";

struct guest {
    struct xenstore_domain_interface *ring;
    uint32_t domid;
    uint32_t seq;
};

static int events;
static struct sockaddr_un daemon_address = { .sun_family = AF_UNIX };
static volatile int stopping;

static void map(struct guest *guest, const char *directory, uint32_t domid)
{
    char path[512];
    int fd;

    snprintf(path, sizeof(path), "%s/page-%u", directory, domid);
    fd = open(path, O_RDWR | O_CLOEXEC);
    guest->ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || guest->ring == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    close(fd);
    guest->domid = domid;
}

/* Put one report into the ring; 0 where there is no room for it yet. Answers are dropped. */
static int report(struct guest *guest)
{
    struct xenstore_domain_interface *ring = guest->ring;
    struct timespec now;
    struct {
        struct xsd_sockmsg header;
        char payload[2048];
    } request = { .header = { .type = XS_WRITE } };
    uint32_t producer = ring->req_prod, port = FIRST_PORT + guest->domid, size, i;

    ring->rsp_cons = ring->rsp_prod;
    clock_gettime(CLOCK_MONOTONIC, &now);
    request.header.len = (uint32_t)sprintf(
        request.payload, PATH "%cxw1 report seq=%u boot=%08x level=1 why= over= interval=5 missing= "
        "agent=0.1.0 rss_kb=9200 cpu_ms=140 near_max=0 near_max_of=60 up_s=%ld.%06ld %s",
        0, ++guest->seq, (unsigned int)getpid(), (long)now.tv_sec, now.tv_nsec / 1000, signals);
    size = sizeof(request.header) + request.header.len;
    if (XENSTORE_RING_SIZE - (producer - ring->req_cons) < size)
        return 0;
    for (i = 0; i < size; i++)
        ring->req[MASK_XENSTORE_IDX(producer + i)] = ((char *)&request)[i];
    __sync_synchronize();
    ring->req_prod = producer + size;
    sendto(events, &port, sizeof(port), 0, (struct sockaddr *)&daemon_address, sizeof(daemon_address));
    return 1;
}

static void *flood(void *argument)
{
    while (!stopping)
        if (!report(argument))
            usleep(50);
    return NULL;
}

int main(int argc, char **argv)
{
    struct guest *guests, flooder;
    struct timespec due;
    pthread_t thread;
    long count, interval_ms, i, total;
    uint32_t flooding;

    if (argc != 6) {
        fprintf(stderr, "usage: %s DIRECTORY COUNT INTERVAL_MS SECONDS FLOODER\n", argv[0]);
        return 2;
    }
    count = atol(argv[2]);
    interval_ms = atol(argv[3]);
    total = atol(argv[4]) * 1000 * count / interval_ms;
    flooding = (uint32_t)atol(argv[5]);
    snprintf(daemon_address.sun_path, sizeof(daemon_address.sun_path), "%s/evtchn", argv[1]);
    events = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    guests = calloc((size_t)count, sizeof(*guests));
    for (i = 0; i < count; i++)
        map(&guests[i], argv[1], (uint32_t)i + 1);
    if (flooding) {
        map(&flooder, argv[1], flooding);
        pthread_create(&thread, NULL, flood, &flooder);
    }
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (i = 0; i < total; i++) {
        due.tv_nsec += interval_ms * 1000000 / count;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        while (!report(&guests[i % count]))
            usleep(50);
    }
    stopping = 1;
    if (flooding) {
        pthread_join(thread, NULL);
        printf("%u\n", flooder.seq);
    }
    return 0;
}

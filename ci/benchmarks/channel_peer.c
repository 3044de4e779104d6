/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What C libxenstore does, for comparison; prints one number.
 *
 *     channel_peer read COUNT ROUNDS    reads per second, one at a time, of /bench/0 to /bench/COUNT-1
 *     channel_peer pipe COUNT ROUNDS    the same, COUNT requests in flight: what the daemon can do at most
 *     channel_peer event ROUNDS         median µs from writing a node to having read its watch event
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <xen/io/xs_wire.h>
#include <xenstore.h>

static double now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int by_size(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;

    return (a > b) - (a < b);
}

static double reads_per_s(struct xs_handle *store, int count, int rounds)
{
    double began = now_us();
    char path[64];
    unsigned int size;

    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof(path), "/bench/%d", i);
            free(xs_read(store, XBT_NULL, path, &size));
        }
    return count * (double)rounds * 1e6 / (now_us() - began);
}

/* No library: bytes out as long as they are taken, answers in some at a time, counted and not looked at. */
static double piped_reads_per_s(int count, int rounds)
{
    static char requests[1 << 20], answers[1 << 18];
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct pollfd ready = { .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0) };
    size_t size = 0;
    double began;

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", getenv("XENSTORED_PATH"));
    if (connect(ready.fd, (struct sockaddr *)&address, sizeof(address)))
        return -1;
    for (int i = 0; i < count; i++) {
        struct xsd_sockmsg header = { .type = XS_READ, .req_id = (uint32_t)i };
        char path[64];

        header.len = (uint32_t)snprintf(path, sizeof(path), "/bench/%d", i) + 1;
        memcpy(requests + size, &header, sizeof(header));
        memcpy(requests + size + sizeof(header), path, header.len);
        size += sizeof(header) + header.len;
    }
    began = now_us();
    for (int round = 0; round < rounds; round++) {
        size_t sent = 0, held = 0;
        int missing = count;

        while (missing) {
            struct xsd_sockmsg header;
            size_t start = 0;
            ssize_t got;

            ready.events = sent < size ? POLLIN | POLLOUT : POLLIN;
            poll(&ready, 1, 5000);
            if (ready.revents & POLLOUT && (got = write(ready.fd, requests + sent, size - sent)) > 0)
                sent += (size_t)got;
            if (!(ready.revents & POLLIN))
                continue;
            got = read(ready.fd, answers + held, sizeof(answers) - held);
            if (got <= 0)
                return -1;
            for (held += (size_t)got; held - start >= sizeof(header); start += sizeof(header) + header.len) {
                memcpy(&header, answers + start, sizeof(header));
                if (held - start < sizeof(header) + header.len)
                    break;
                missing--;
            }
            memmove(answers, answers + start, held -= start);
            usleep(1); /* as client.py does: woken for each answer, neither side gets on */
        }
    }
    return count * (double)rounds * 1e6 / (now_us() - began);
}

static void take_event(struct xs_handle *store)
{
    struct pollfd ready = { .fd = xs_fileno(store), .events = POLLIN };
    unsigned int count;

    poll(&ready, 1, 5000);
    free(xs_read_watch(store, &count));
}

static double event_us(struct xs_handle *store, int rounds)
{
    double *took = calloc((size_t)rounds, sizeof(*took));

    xs_watch(store, "/bench/event", "token");
    take_event(store);
    for (int i = 0; i < rounds; i++) {
        double began = now_us();

        xs_write(store, XBT_NULL, "/bench/event", "1", 1);
        take_event(store);
        took[i] = now_us() - began;
    }
    qsort(took, (size_t)rounds, sizeof(*took), by_size);
    return took[rounds / 2];
}

int main(int argc, char **argv)
{
    struct xs_handle *store = xs_open(0);

    if (!store) {
        perror("xs_open");
        return 1;
    }
    if (argc == 4 && !strcmp(argv[1], "read"))
        printf("%f\n", reads_per_s(store, atoi(argv[2]), atoi(argv[3])));
    else if (argc == 4 && !strcmp(argv[1], "pipe"))
        printf("%f\n", piped_reads_per_s(atoi(argv[2]), atoi(argv[3])));
    else if (argc == 3 && !strcmp(argv[1], "event"))
        printf("%f\n", event_us(store, atoi(argv[2])));
    else
        return 2;
    return 0;
}

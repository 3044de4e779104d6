/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What C libxenstore does, for comparison; prints one number.
 *
 *     channel_peer read COUNT ROUNDS    reads per second, one at a time, of /bench/0 to /bench/COUNT-1
 *     channel_peer event ROUNDS         median µs from writing a node to having read its watch event
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
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
    else if (argc == 3 && !strcmp(argv[1], "event"))
        printf("%f\n", event_us(store, atoi(argv[2])));
    else
        return 2;
    return 0;
}

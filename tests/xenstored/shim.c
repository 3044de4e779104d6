/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded into an unmodified xenstored or oxenstored, this stands in for Xen.
 *
 * All of it lives in the directory $OFFLINE_XEN:
 *   page-N   the XenStore ring page of domain N; a domain exists as long as its page does
 *   evtchn   datagram socket of the daemon: 32-bit numbers of ports that have an event
 *   event-N  datagram socket of domain N, which the daemon sends to for an event
 * and what the daemon keeps under /proc/xen and /var/run/xenstored is looked for there too.
 *
 * The daemon's end of the event channel to domain N is always port FIRST_PORT + N, so nothing needs
 * to be remembered, and a daemon that replaces itself (live update) finds all as it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define VIRQ_PORT 1
#define FIRST_PORT 64
#define PAGE_SIZE 4096

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char *in_directory(char *buffer, size_t size, const char *format, unsigned int number)
{
    const char *directory = getenv("OFFLINE_XEN");
    char name[64];

    snprintf(name, sizeof(name), format, number);
    snprintf(buffer, size, "%s/%s", directory ? directory : ".", name);
    return buffer;
}

/* The daemon must not outlive the test that started it, however that ends. */
__attribute__((constructor)) static void die_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* --- files ------------------------------------------------------------------------------------- */

static const char *redirect(const char *path, char *buffer, size_t size)
{
    if (!strcmp(path, "/proc/xen/xsd_port"))
        return in_directory(buffer, size, "xsd_port", 0);
    if (!strcmp(path, "/proc/xen/xsd_kva"))
        return in_directory(buffer, size, "page-0", 0);
    /* oxenstored has this directory compiled in. */
    if (!strncmp(path, "/var/run/xenstored", 18) && (path[18] == '/' || !path[18])) {
        in_directory(buffer, size, "", 0);
        strncat(buffer, path + 18, size - strlen(buffer) - 1);
        return buffer;
    }
    return path;
}

int open(const char *path, int flags, ...)
{
    char buffer[PATH_MAX];
    va_list arguments;
    mode_t mode;

    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return REAL(open)(redirect(path, buffer, sizeof(buffer)), flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int unlink(const char *path)
{
    char buffer[PATH_MAX];

    return REAL(unlink)(redirect(path, buffer, sizeof(buffer)));
}

int mkdir(const char *path, mode_t mode)
{
    char buffer[PATH_MAX];

    return REAL(mkdir)(redirect(path, buffer, sizeof(buffer)), mode);
}

int chmod(const char *path, mode_t mode)
{
    char buffer[PATH_MAX];

    return REAL(chmod)(redirect(path, buffer, sizeof(buffer)), mode);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    struct sockaddr_un moved = { .sun_family = AF_UNIX };
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    char buffer[PATH_MAX];

    if (address->sa_family != AF_UNIX || redirect(path, buffer, sizeof(buffer)) == path)
        return REAL(bind)(fd, address, length);
    if (strlen(buffer) >= sizeof(moved.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(moved.sun_path, buffer);
    return REAL(bind)(fd, (struct sockaddr *)&moved, sizeof(moved));
}

/* oxenstored raises its limit of open files, which takes a privilege that a test may not have. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    (void)resource;
    (void)limit;
    return 0;
}

/* --- domains ----------------------------------------------------------------------------------- */

static int handle; /* the address is all that callers keep */

static int domain_exists(uint32_t domid)
{
    char path[PATH_MAX];
    struct stat status;

    return !stat(in_directory(path, sizeof(path), "page-%u", domid), &status);
}

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *starting, unsigned flags)
{
    (void)logger;
    (void)starting;
    (void)flags;
    return (xc_interface *)&handle;
}

int xc_interface_close(xc_interface *xch)
{
    (void)xch;
    return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first, unsigned int max, xc_dominfo_t *info)
{
    (void)xch;
    (void)max;
    if (!domain_exists(first)) {
        errno = ESRCH;
        return 0;
    }
    memset(info, 0, sizeof(*info));
    info->domid = first;
    info->running = 1;
    return 1;
}

int xc_domain_getinfolist(xc_interface *xch, uint32_t first, unsigned int max, xc_domaininfo_t *info)
{
    (void)xch;
    (void)max;
    if (!domain_exists(first))
        return 0;
    memset(info, 0, sizeof(*info));
    info->domain = first;
    info->flags = XEN_DOMINF_running;
    return 1;
}

/* --- ring pages -------------------------------------------------------------------------------- */

static void *map_page(uint32_t domid)
{
    char path[PATH_MAX];
    void *page;
    int fd = REAL(open)(in_directory(path, sizeof(path), "page-%u", domid), O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return NULL;
    page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

xengnttab_handle *xengnttab_open(xentoollog_logger *logger, unsigned flags)
{
    (void)logger;
    (void)flags;
    return (xengnttab_handle *)&handle;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    (void)xgt;
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t count)
{
    (void)xgt;
    (void)count;
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    (void)xgt;
    (void)ref;
    (void)prot;
    return map_page(domid);
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start, uint32_t count)
{
    (void)xgt;
    return munmap(start, (size_t)count * PAGE_SIZE);
}

void *xc_map_foreign_range(xc_interface *xch, uint32_t domid, int size, int prot, unsigned long mfn)
{
    (void)xch;
    (void)size;
    (void)prot;
    (void)mfn;
    return map_page(domid);
}

/* --- event channels ---------------------------------------------------------------------------- */

static int event_socket = -1;

xenevtchn_handle *xenevtchn_open(xentoollog_logger *logger, unsigned int flags)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    (void)logger;
    (void)flags;
    in_directory(address.sun_path, sizeof(address.sun_path), "evtchn", 0);
    REAL(unlink)(address.sun_path);
    event_socket = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (event_socket < 0 || REAL(bind)(event_socket, (struct sockaddr *)&address, sizeof(address)))
        return NULL;
    return (xenevtchn_handle *)&handle;
}

/* Live update: the descriptor has come through exec. */
xenevtchn_handle *xenevtchn_fdopen(xentoollog_logger *logger, int fd, unsigned int flags)
{
    (void)logger;
    (void)flags;
    event_socket = fd;
    return (xenevtchn_handle *)&handle;
}

int xenevtchn_close(xenevtchn_handle *xce)
{
    (void)xce;
    return close(event_socket);
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    (void)xce;
    return event_socket;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    (void)xce;
    (void)virq;
    return VIRQ_PORT;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid,
                                                     evtchn_port_t remote)
{
    (void)xce;
    (void)remote;
    return FIRST_PORT + domid;
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

/* As in Xen an event is a flag, not a message: where one waits already, another changes nothing. */
int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    uint32_t number = port;

    (void)xce;
    in_directory(address.sun_path, sizeof(address.sun_path), "event-%u", port - FIRST_PORT);
    sendto(event_socket, &number, sizeof(number), MSG_DONTWAIT, (struct sockaddr *)&address,
           sizeof(address));
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t port, next;

    (void)xce;
    if (recv(event_socket, &port, sizeof(port), 0) != sizeof(port))
        return -1;
    while (recv(event_socket, &next, sizeof(next), MSG_PEEK | MSG_DONTWAIT) == sizeof(next) && next == port)
        recv(event_socket, &next, sizeof(next), 0);
    return (int)port;
}

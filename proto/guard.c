/* proto/guard.c - see guard.h. */
#include "proto/guard.h"

#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/log.h"

#define CHECK_KNOWN_MS (10 * GUARD_CHECK_MS)

/* What no other connection of this moment has. */
struct ends {
    struct sockaddr_in here, there;
};

struct connection {
    TAILQ_ENTRY(connection)
    next; /* in the list of its kind, the oldest first; in none once it is cut */
    int fd;
    bool known, heard, cut;
    uint64_t base; /* bytes received when it last completed a message */
    struct ends ends;
    char address[GUARD_ADDRESS_MAX];
};
TAILQ_HEAD(connections, connection);

struct guard {
    struct guard_limits limits;
    struct connection **by_fd;
    int size; /* of by_fd */
    struct connections strangers, known;
    uint32_t stranger_count;
    uint64_t checked_ms, checked_known_ms;
};

int guard_new(const struct guard_limits *limits, struct guard **ret, struct bl_error *err)
{
    struct guard *g = calloc(1, sizeof *g);
    if (!g)
        return bl_fail(err, BL_ENOMEM, "no memory for a table of connections");
    g->limits = *limits;
    TAILQ_INIT(&g->strangers);
    TAILQ_INIT(&g->known);
    *ret = g;
    return 0;
}

void guard_free(struct guard **guard)
{
    struct guard *g = *guard;
    for (int fd = 0; g && fd < g->size; fd++)
        free(g->by_fd[fd]);
    if (g)
        free(g->by_fd);
    free(g);
    *guard = NULL;
}

void guard_allow(struct guard *g, const struct guard_limits *limits)
{
    g->limits = *limits;
}

bool guard_has_strangers(const struct guard *g)
{
    return g->stranger_count > 0;
}

static struct connection *find(const struct guard *g, int fd)
{
    return fd >= 0 && fd < g->size ? g->by_fd[fd] : NULL;
}

const char *guard_address(const struct guard *g, int fd)
{
    const struct connection *c = find(g, fd);
    return c ? c->address : "?";
}

bool guard_was_cut(const struct guard *g, int fd)
{
    const struct connection *c = find(g, fd);
    return c && c->cut;
}

/* -- lists -- */

static void leave_list(struct guard *g, struct connection *c)
{
    if (c->cut)
        return;
    TAILQ_REMOVE(c->known ? &g->known : &g->strangers, c, next);
    g->stranger_count -= !c->known;
}

static void join_list(struct guard *g, struct connection *c)
{
    TAILQ_INSERT_TAIL(c->known ? &g->known : &g->strangers, c, next);
    g->stranger_count += !c->known;
}

static void make_room(struct guard *g, int fd)
{
    if (fd < g->size)
        return;
    int size = fd < 64 ? 128 : 2 * fd;
    g->by_fd = realloc(g->by_fd, (size_t)size * sizeof(struct connection *));
    BL_ASSERT(g->by_fd != NULL);
    memset(g->by_fd + g->size, 0, (size_t)(size - g->size) * sizeof(struct connection *));
    g->size = size;
}

static bool find_ends(int fd, struct ends *ret)
{
    socklen_t here = sizeof ret->here, there = sizeof ret->there;
    memset(ret, 0, sizeof *ret);
    return getsockname(fd, (struct sockaddr *)&ret->here, &here) == 0 &&
           getpeername(fd, (struct sockaddr *)&ret->there, &there) == 0;
}

void guard_accepted(struct guard *g, int fd)
{
    if (fd < 0)
        return;
    guard_gone(g, fd);
    make_room(g, fd);
    struct connection *c = calloc(1, sizeof *c);
    BL_ASSERT(c != NULL);
    c->fd = fd;
    if (!find_ends(fd, &c->ends) ||
        !inet_ntop(AF_INET, &c->ends.there.sin_addr, c->address, sizeof c->address))
        strcpy(c->address, "?");
    g->by_fd[fd] = c;
    join_list(g, c);
}

bool guard_gone(struct guard *g, int fd)
{
    struct connection *c = find(g, fd);
    if (!c)
        return false;
    bool known = c->known;
    leave_list(g, c);
    g->by_fd[fd] = NULL;
    free(c);
    return known;
}

bool guard_heard(struct guard *g, int fd, const char *address)
{
    struct connection *c = find(g, fd);
    if (!c || strcmp(c->address, address) != 0)
        return false;
    c->heard = true;
    return true;
}

void guard_know(struct guard *g, int fd, bool known)
{
    struct connection *c = find(g, fd);
    if (!c || c->cut || c->known == known)
        return;
    leave_list(g, c);
    c->known = known;
    c->base = 0;
    c->heard = true;
    join_list(g, c);
}

/* -- closing -- */

/* Is the descriptor still that connection's? */
static bool is_still(const struct connection *c)
{
    struct ends now;
    return find_ends(c->fd, &now) && memcmp(&now, &c->ends, sizeof now) == 0;
}

static void cut(struct guard *g, struct connection *c)
{
    leave_list(g, c);
    c->cut = true;
    if (is_still(c))
        shutdown(c->fd, SHUT_RDWR); /* ZeroMQ sees its end, and closes it */
}

void guard_cut(struct guard *g, int fd)
{
    struct connection *c = find(g, fd);
    if (c && !c->cut)
        cut(g, c);
}

/* Bytes that the kernel has received on a connection. */
static uint64_t received(int fd)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_received : 0;
}

static void cut_for(struct guard *g, struct connection *c, uint64_t bytes, const char *what)
{
    bl_log_peer(BL_LOG_WARNING, c->address, "connection from %s closed: it sent %.1f MB %s",
                c->address, (double)bytes / 1e6, what);
    cut(g, c);
}

static void check_known(struct guard *g)
{
    struct connection *c, *next;
    for (c = TAILQ_FIRST(&g->known); c; c = next) {
        next = TAILQ_NEXT(c, next);
        uint64_t bytes = received(c->fd);
        if (c->heard)
            c->base = bytes;
        else if (bytes > c->base + g->limits.incomplete)
            cut_for(g, c, bytes - c->base, "of a message without end");
        c->heard = false;
    }
}

static void check_strangers(struct guard *g)
{
    struct connection *c, *next;
    uint64_t together = 0;
    for (c = TAILQ_FIRST(&g->strangers); c; c = next) {
        next = TAILQ_NEXT(c, next);
        c->base = received(c->fd);
        if (c->base > g->limits.each)
            cut_for(g, c, c->base, "without joining");
        else
            together += c->base;
    }
    while ((c = TAILQ_FIRST(&g->strangers)) &&
           (together > g->limits.together || g->stranger_count > g->limits.strangers)) {
        together -= c->base;
        bl_log_peer(BL_LOG_WARNING, c->address,
                    "connection from %s closed: too many that have not joined", c->address);
        cut(g, c);
    }
}

void guard_check(struct guard *g, uint64_t now_ms)
{
    if (now_ms < g->checked_ms + GUARD_CHECK_MS)
        return;
    g->checked_ms = now_ms;
    check_strangers(g);
    if (now_ms < g->checked_known_ms + CHECK_KNOWN_MS)
        return;
    g->checked_known_ms = now_ms;
    check_known(g);
}

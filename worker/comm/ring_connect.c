/* worker/comm/ring_connect.c - how the ranks of a generation find and recognise their neighbours.
 *
 * Each rank listens, and publishes its address with a random token, which only the members of the run read (the store
 * travels over the coordinator's connections). It connects to the right and shows that rank's token there; who listens
 * answers with the token of the one that connects. A connection that does not begin so is a stranger's and is closed.
 * What follows is neither encrypted nor authenticated: docs/security.md. */
#include "worker/comm/ring.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <openssl/crypto.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/file.h"

#define MAGIC "BLIPring"
#define CALLERS_MAX 16 /* connections that have not shown a token yet */
#define BACKLOG 128
#define AGAIN_MS 50
#define ADDRESS_MAX 200

/* What the left-hand neighbour sends first, in this order; the answer is its own token. */
struct hello {
    char magic[8];
    uint8_t rank[4]; /* little-endian: the caller's */
    uint8_t token[RING_TOKEN_BYTES];
};

struct caller {
    int fd;
    size_t size;
    struct hello hello;
};

struct address {
    uint8_t token[RING_TOKEN_BYTES];
    struct sockaddr_storage to;
    socklen_t size;
};

/* The connections under way while a rank joins. */
struct joining {
    struct ring *ring;
    struct address right;
    uint8_t left_token[RING_TOKEN_BYTES];
    struct caller callers[CALLERS_MAX];
    int caller_count;
    int call; /* to the right, or -1 */
    bool said_hello;
    uint8_t answer[RING_TOKEN_BYTES];
    size_t answered;
    int64_t again_ms; /* when to call again, while call is -1 */
};

static int right_of(const struct comm_options *o)
{
    return (o->rank + 1) % o->world;
}

static int left_of(const struct comm_options *o)
{
    return (o->rank + o->world - 1) % o->world;
}

/* -- addresses: "HOST PORT TOKEN" -- */

static int resolve(const char *host, const char *port, int flags, struct address *ret,
                   struct bl_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *found;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0)
        return bl_fail(err, BL_EPEER, "%s port %s: %s", host, port, gai_strerror(rc));
    memcpy(&ret->to, found->ai_addr, found->ai_addrlen);
    ret->size = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static int listen_at(struct ring *ring, char ret[ADDRESS_MAX], struct bl_error *err)
{
    struct address own;
    char host[100], port[16], token[2 * RING_TOKEN_BYTES + 1];
    BL_TRY(resolve(ring->options.host, "0", AI_PASSIVE, &own, err));
    ring->listener = socket(own.to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const struct sockaddr *at = (const struct sockaddr *)&own.to;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    if (ring->listener < 0 || bind(ring->listener, at, own.size) != 0 ||
        listen(ring->listener, BACKLOG) != 0 ||
        getsockname(ring->listener, (struct sockaddr *)&bound, &size) != 0 ||
        getnameinfo((const struct sockaddr *)&bound, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return bl_fail(err, BL_EPEER, "cannot listen at %s: %s", ring->options.host,
                       strerror(errno));
    if (getrandom(ring->token, sizeof ring->token, 0) != sizeof ring->token)
        return bl_fail(err, BL_EPEER, "no random numbers: %s", strerror(errno));
    bl_hex(ring->token, sizeof ring->token, token);
    snprintf(ret, ADDRESS_MAX, "%s %s %s", host, port, token);
    return 0;
}

static void name_of(int rank, char ret[32])
{
    snprintf(ret, 32, "ring/%d", rank);
}

/* What `rank` published. */
static int address_of(struct ring *ring, int rank, struct address *ret, struct bl_error *err)
{
    const void *value;
    size_t size;
    char name[32], text[ADDRESS_MAX], host[100], port[16], token[2 * RING_TOKEN_BYTES + 1];
    name_of(rank, name);
    BL_TRY(ring->link.get(ring->link.store, name, &value, &size, err));
    if (size >= sizeof text)
        return bl_fail(err, BL_EPEER, "rank %d published no address", rank);
    memcpy(text, value, size);
    text[size] = '\0';
    if (sscanf(text, "%99s %15s %32[0-9a-f]", host, port, token) != 3 ||
        strlen(token) != 2 * RING_TOKEN_BYTES)
        return bl_fail(err, BL_EPEER, "rank %d published no address", rank);
    for (int i = 0; i < RING_TOKEN_BYTES; i++) {
        unsigned byte;
        sscanf(token + (size_t)2 * (size_t)i, "%2x", &byte);
        ret->token[i] = (uint8_t)byte;
    }
    return resolve(host, port, AI_NUMERICHOST | AI_NUMERICSERV, ret, err);
}

/* A connection under way; -1 with errno: there can be none. */
static int call(const struct address *address)
{
    int fd = socket(address->to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (connect(fd, (const struct sockaddr *)&address->to, address->size) == 0 ||
        errno == EINPROGRESS)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Of this process or host: it says nothing of a peer. */
static bool is_own_trouble(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static int error_of(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

static void set_no_delay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* without it: slower, not wrong */
}

/* -- from the left -- */

static void drop_caller(struct joining *j, int i)
{
    if (j->callers[i].fd >= 0)
        close(j->callers[i].fd);
    memmove(&j->callers[i], &j->callers[i + 1],
            (size_t)(--j->caller_count - i) * sizeof *j->callers);
}

static bool is_left_neighbour(const struct joining *j, const struct hello *hello)
{
    const struct ring *ring = j->ring;
    uint32_t rank = (uint32_t)hello->rank[0] | (uint32_t)hello->rank[1] << 8 |
                    (uint32_t)hello->rank[2] << 16 | (uint32_t)hello->rank[3] << 24;
    return memcmp(hello->magic, MAGIC, sizeof hello->magic) == 0 &&
           rank == (uint32_t)left_of(&ring->options) &&
           CRYPTO_memcmp(hello->token, ring->token, RING_TOKEN_BYTES) == 0;
}

/* Reads on; the left-hand neighbour becomes ring->left, others are closed. */
static void hear_caller(struct joining *j, int i)
{
    struct caller *caller = &j->callers[i];
    ssize_t got = recv(caller->fd, (char *)&caller->hello + caller->size,
                       sizeof caller->hello - caller->size, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    caller->size += got > 0 ? (size_t)got : 0;
    if (got > 0 && caller->size < sizeof caller->hello)
        return;
    if (got > 0 && is_left_neighbour(j, &caller->hello) &&
        send(caller->fd, j->left_token, RING_TOKEN_BYTES, MSG_NOSIGNAL) == RING_TOKEN_BYTES) {
        if (j->ring->left >= 0) /* it called again, since the first answer did not reach it */
            close(j->ring->left);
        j->ring->left = caller->fd;
        set_no_delay(caller->fd);
        caller->fd = -1;
    }
    drop_caller(j, i);
}

static int accept_callers(struct joining *j, struct bl_error *err)
{
    for (int fd;
         (fd = accept4(j->ring->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        if (j->caller_count == CALLERS_MAX)
            hear_caller(j, 0);
        if (j->caller_count == CALLERS_MAX)
            drop_caller(j, 0); /* silent so far; a neighbour would call again */
        j->callers[j->caller_count++] = (struct caller){.fd = fd};
    }
    if (is_own_trouble(errno))
        return bl_fail(err, BL_EPEER, "cannot accept a connection: %s", strerror(errno));
    return 0;
}

/* -- to the right -- */

static int call_failed(struct joining *j, int error, struct bl_error *err)
{
    if (j->call >= 0)
        close(j->call);
    j->call = -1;
    j->said_hello = false;
    j->answered = 0;
    j->again_ms = (int64_t)bl_now_ms() + AGAIN_MS;
    /* A full queue or a closed connection may be a stranger's doing. Refused is refused: who published an address listens. */
    if (error == 0 || error == ECONNRESET || error == EPIPE || error == EAGAIN)
        return 0;
    return bl_fail(err, BL_EPEER, "rank %d cannot be reached: %s", right_of(&j->ring->options),
                   strerror(error));
}

static int call_right(struct joining *j, struct bl_error *err)
{
    j->call = call(&j->right);
    return j->call >= 0 ? 0 : call_failed(j, errno, err);
}

static int say_hello(struct joining *j, struct bl_error *err)
{
    uint32_t rank = (uint32_t)j->ring->options.rank;
    struct hello hello = {.rank = {(uint8_t)rank, (uint8_t)(rank >> 8), (uint8_t)(rank >> 16),
                                   (uint8_t)(rank >> 24)}};
    memcpy(hello.magic, MAGIC, sizeof hello.magic);
    memcpy(hello.token, j->right.token, sizeof hello.token);
    int error = error_of(j->call);
    if (error == 0 && send(j->call, &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello)
        error = errno;
    if (error != 0)
        return call_failed(j, error, err);
    j->said_hello = true;
    return 0;
}

static int hear_answer(struct joining *j, struct bl_error *err)
{
    ssize_t got = recv(j->call, j->answer + j->answered, RING_TOKEN_BYTES - j->answered, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        return call_failed(j, got < 0 ? errno : 0, err);
    j->answered += (size_t)got;
    if (j->answered < RING_TOKEN_BYTES)
        return 0;
    if (CRYPTO_memcmp(j->answer, j->ring->token, RING_TOKEN_BYTES) != 0)
        return bl_fail(err, BL_EPEER, "another process listens at the address of rank %d",
                       right_of(&j->ring->options));
    set_no_delay(j->call);
    j->ring->right = j->call;
    j->call = -1;
    return 0;
}

/* -- both -- */

static int poll_once(struct joining *j, int64_t until_ms, struct bl_error *err)
{
    struct ring *ring = j->ring;
    struct pollfd polled[3 + CALLERS_MAX] = {
        {ring->wake, POLLIN, 0},
        {ring->listener, POLLIN, 0},
        {j->call, (short)(j->said_hello ? POLLIN : POLLOUT), 0},
    };
    int callers = j->caller_count;
    for (int i = 0; i < callers; i++)
        polled[3 + i] = (struct pollfd){j->callers[i].fd, POLLIN, 0};
    bool calls_again = ring->right < 0 && j->call < 0;
    int64_t next_ms = calls_again && j->again_ms < until_ms ? j->again_ms : until_ms;
    int64_t left_ms = next_ms - (int64_t)bl_now_ms();
    if (poll(polled, (nfds_t)(3 + callers), left_ms > 0 ? (int)left_ms : 0) < 0 && errno != EINTR)
        return bl_fail(err, BL_EPEER, "poll: %s", strerror(errno));
    if (polled[0].revents)
        return bl_fail(err, BL_EPEER, "aborted");
    for (int i = callers - 1; i >= 0; i--)
        if (polled[3 + i].revents)
            hear_caller(j, i);
    if (polled[1].revents)
        BL_TRY(accept_callers(j, err));
    if (j->call >= 0 && polled[2].revents)
        return j->said_hello ? hear_answer(j, err) : say_hello(j, err);
    return calls_again && (int64_t)bl_now_ms() >= j->again_ms ? call_right(j, err) : 0;
}

static int connect_neighbours(struct joining *j, struct bl_error *err)
{
    struct ring *ring = j->ring;
    const struct comm_options *o = &ring->options;
    int64_t until_ms = (int64_t)bl_now_ms() + o->connect_ms / 2;
    while (ring->left < 0 || ring->right < 0) {
        if ((int64_t)bl_now_ms() >= until_ms)
            return bl_fail(err, BL_EPEER, "rank %d %s in time",
                           ring->right < 0 ? right_of(o) : left_of(o),
                           ring->right < 0 ? "did not answer" : "did not connect");
        BL_TRY(poll_once(j, until_ms, err));
    }
    return 0;
}

/* Tries all other ranks at once. A stranger at their listeners, this connection is closed there or left unheard. */
static void find_unreached(struct ring *ring)
{
    const struct comm_options *o = &ring->options;
    int64_t until_ms = (int64_t)bl_now_ms() + o->connect_ms / 5;
    bl_autofree struct pollfd *calls = calloc((size_t)o->world, sizeof *calls);
    if (!calls)
        return; /* nobody is named */
    for (int rank = 0; rank < o->world; rank++) {
        struct address address;
        struct bl_error ignored;
        calls[rank] = (struct pollfd){-1, POLLOUT, 0};
        if (rank == o->rank || address_of(ring, rank, &address, &ignored) < 0)
            continue;
        calls[rank].fd = call(&address);
        if (calls[rank].fd < 0 && !is_own_trouble(errno))
            comm_store_note_unreached(ring->link.store, rank);
    }
    for (int rank = 0; rank < o->world; rank++) {
        int64_t left_ms = until_ms - (int64_t)bl_now_ms();
        int fd = calls[rank].fd;
        if (fd < 0)
            continue;
        if (poll(&calls[rank], 1, left_ms > 0 ? (int)left_ms : 0) != 1 || error_of(fd) != 0)
            comm_store_note_unreached(ring->link.store, rank);
        close(fd);
    }
}

static int know_neighbours(struct joining *j, struct bl_error *err)
{
    struct ring *ring = j->ring;
    const struct comm_options *o = &ring->options;
    char name[32], text[ADDRESS_MAX];
    struct address address;
    BL_TRY(listen_at(ring, text, err));
    name_of(o->rank, name);
    ring->link.set(ring->link.store, name, text, strlen(text));
    for (int rank = 0; rank < o->world; rank++) /* nobody begins before everybody is there */
        BL_TRY(address_of(ring, rank, &address, err));
    BL_TRY(address_of(ring, left_of(o), &address, err));
    memcpy(j->left_token, address.token, sizeof j->left_token);
    return address_of(ring, right_of(o), &j->right, err);
}

int ring_join(struct ring *ring, struct bl_error *err)
{
    struct joining j = {.ring = ring, .call = -1};
    BL_TRY(know_neighbours(&j, err));
    int rc = call_right(&j, err);
    if (rc == 0)
        rc = connect_neighbours(&j, err);
    if (rc < 0 && !ring->link.aborted(ring->link.store))
        find_unreached(ring);
    while (j.caller_count > 0)
        drop_caller(&j, 0);
    if (j.call >= 0)
        close(j.call);
    return rc;
}

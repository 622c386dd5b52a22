/* worker/comm/gloo.cc - collectives over Gloo's TCP connections and buffers. C++ ends at this file's
 * edge: no exception leaves.
 *
 * Device memory is staged: a buffer is copied to host memory, summed there, and copied back.
 *
 * The ring is ours because Gloo's own all-reduce hides its buffers, so that nothing could wake it
 * before its time-out. Every message goes to the right-hand neighbour, and each pair of neighbours
 * counts its messages; the count is the slot, so no two messages can be taken for one another.
 *
 * All-reduce of n elements over W ranks: n is cut into W segments; in W-1 rounds each rank passes a
 * segment on and adds the one it receives (2 (W-1)/W n elements over each wire in all, the known
 * minimum), then W-1 rounds copy the sums round. Segments travel in pieces of PIECE_BYTES through
 * two receive buffers, so that adding one overlaps receiving the next.
 */
#include "worker/comm/backend.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/address.h>
#include <gloo/transport/tcp/device.h>

namespace
{

constexpr size_t PIECE_BYTES = 1 << 20;
/* A peer may have a group of its own to compute first, however long that takes. Gloo knows no "for ever" here. */
constexpr std::chrono::hours FOREVER(24 * 365);

struct aborted : std::runtime_error {
    aborted() : std::runtime_error("aborted")
    {
    }
};

using buffer = std::unique_ptr<gloo::transport::UnboundBuffer>;
using moment = std::chrono::steady_clock::time_point;

struct task {
    bool reduce;
    void *data;    /* of the device, where there is one */
    int64_t count; /* elements of a reduction, bytes of a broadcast */
    comm_type type;
    int root;
    void *mark; /* the device's queue when the task was begun */
};

size_t element_bytes(comm_type type)
{
    return type == COMM_F32 ? 4 : 8;
}

void add(void *sum, const void *x, size_t bytes, comm_type type)
{
    if (type == COMM_F32) {
        auto *s = static_cast<float *>(sum);
        auto *a = static_cast<const float *>(x);
        for (size_t i = 0; i < bytes / 4; i++)
            s[i] += a[i];
    } else {
        auto *s = static_cast<uint64_t *>(
            sum); /* two's complement sums wrap without undefined behaviour */
        auto *a = static_cast<const uint64_t *>(x);
        for (size_t i = 0; i < bytes / 8; i++)
            s[i] += a[i];
    }
}

/* Gloo asks for a rendezvous store: ours. */
struct ring : gloo::rendezvous::Store {
    comm_link link;
    comm_options options;
    const comm_memory *memory;
    std::string host;
    std::shared_ptr<gloo::rendezvous::Context> context;
    char *staging = nullptr; /* host memory for device buffers */
    size_t staging_bytes = 0;

    std::mutex lock;
    std::condition_variable changed;
    std::deque<task> queue;
    bool busy = false, stop = false, is_aborted = false, failed = false;
    std::string failure;
    std::vector<gloo::transport::UnboundBuffer *> live; /* to be woken by abort */

    int connecting = 0; /* the rank whose addresses Gloo asked for last */

    std::thread thread;
    uint64_t sent = 0, received = 0;
    std::vector<char> piece[2];
    buffer piece_buffer[2];

    /* -- the store
     * --------------------------------------------------------------------------------------- */
    void set(const std::string &key, const std::vector<char> &value) override
    {
        link.set(link.store, key.c_str(), value.data(), value.size());
    }
    std::vector<char> get(const std::string &key) override
    {
        const void *value;
        size_t size;
        bl_error err;
        if (link.get(link.store, key.c_str(), &value, &size, &err) < 0)
            throw std::runtime_error(err.text);
        auto *bytes = static_cast<const char *>(value);
        return std::vector<char>(bytes, bytes + size);
    }
    void wait(const std::vector<std::string> &keys) override
    {
        for (const std::string &key : keys)
            get(key);
    }
    void wait(const std::vector<std::string> &keys, const std::chrono::milliseconds &) override
    {
        connecting = atoi(keys.back().c_str()); /* the key is the rank */
        wait(keys);
    }

    /* -- who cannot be reached
     * --------------------------------------------------------------------------- */
    /* A connection to where that rank waits for this one, under way; -1: there can be none. It
     * published an address for each of its pairs, in the order of ranks. */
    int call(int rank)
    {
        std::vector<char> published = get(std::to_string(rank)); /* it is there */
        size_t size = published.size() / (size_t)(options.world - 1);
        auto mine =
            published.begin() + (ptrdiff_t)size * (options.rank - (options.rank > rank ? 1 : 0));
        gloo::transport::tcp::Address address({mine, mine + (ptrdiff_t)size});
        sockaddr_storage to = address.getSockaddr();
        int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        auto *sa = reinterpret_cast<const sockaddr *>(&to);
        if (fd >= 0 && connect(fd, sa, sizeof to) != 0 && errno != EINPROGRESS) {
            close(fd);
            return -1;
        }
        return fd;
    }
    /* Tries all ranks at once that published their addresses. Gloo connects in the order of ranks, so
     * those before `connecting` are connected, and do not listen any more. */
    void find_unreached()
    {
        auto until =
            std::chrono::steady_clock::now() + std::chrono::milliseconds(options.connect_ms / 5);
        std::vector<std::pair<int, int>> calls; /* rank, descriptor */
        for (int rank = connecting; rank < options.world && !link.aborted(link.store); rank++)
            if (rank != options.rank && comm_store_has(link.store, std::to_string(rank).c_str()))
                calls.emplace_back(rank, call(rank));
        for (auto &[rank, fd] : calls) {
            auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                until - std::chrono::steady_clock::now());
            pollfd waiting = {fd, POLLOUT, 0};
            int error = 0;
            socklen_t size = sizeof error;
            bool answered = fd >= 0 && poll(&waiting, 1, std::max(0, (int)left.count())) == 1 &&
                            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
            if (!answered)
                comm_store_note_unreached(link.store, rank);
            if (fd >= 0)
                close(fd);
        }
    }

    /* -- pieces of a message
     * ------------------------------------------------------------------------------- */
    /* Waits for a buffer's transfer so that abort can wake it. */
    template <class Wait> void abortable(gloo::transport::UnboundBuffer *b, Wait wait_for_it)
    {
        {
            std::lock_guard<std::mutex> guard(lock);
            if (is_aborted)
                throw aborted();
            live.push_back(b);
        }
        bool ok = false;
        std::exception_ptr thrown;
        try {
            ok = wait_for_it();
        } catch (...) {
            thrown = std::current_exception();
        }
        {
            std::lock_guard<std::mutex> guard(lock);
            live.erase(std::find(live.begin(), live.end(), b));
        }
        if (thrown)
            std::rethrow_exception(thrown);
        if (!ok)
            throw aborted();
    }
    void wait_received(gloo::transport::UnboundBuffer *b)
    {
        abortable(b, [b] { return b->waitRecv(FOREVER); });
    }
    void wait_sent(gloo::transport::UnboundBuffer *b)
    {
        abortable(b, [b] { return b->waitSend(FOREVER); });
    }
    int right() const
    {
        return (options.rank + 1) % options.world;
    }
    int left() const
    {
        return (options.rank + options.world - 1) % options.world;
    }

    /* -- collectives
     * ----------------------------------------------------------------------------------------- */
    /* Sends [send, send + send_bytes) of `whole` to the right while receiving receive_bytes from
     * the left, which are added to (sum) or put at `target`. */
    void exchange(gloo::transport::UnboundBuffer *whole, size_t send, size_t send_bytes,
                  char *target, size_t target_offset, size_t receive_bytes, bool sum,
                  comm_type type)
    {
        int sends = 0;
        for (size_t at = 0; at < send_bytes; at += PIECE_BYTES, sends++)
            whole->send(right(), sent++, send + at, std::min(PIECE_BYTES, send_bytes - at));
        if (sum) {
            size_t pieces = (receive_bytes + PIECE_BYTES - 1) / PIECE_BYTES;
            auto size_of = [&](size_t p) {
                return std::min(PIECE_BYTES, receive_bytes - p * PIECE_BYTES);
            };
            if (pieces)
                piece_buffer[0]->recv(left(), received++, 0, size_of(0));
            for (size_t p = 0; p < pieces; p++) {
                wait_received(piece_buffer[p % 2].get());
                if (p + 1 < pieces)
                    piece_buffer[(p + 1) % 2]->recv(left(), received++, 0, size_of(p + 1));
                add(target + target_offset + p * PIECE_BYTES, piece[p % 2].data(), size_of(p),
                    type);
            }
        } else {
            int receives = 0;
            for (size_t at = 0; at < receive_bytes; at += PIECE_BYTES, receives++)
                whole->recv(left(), received++, target_offset + at,
                            std::min(PIECE_BYTES, receive_bytes - at));
            while (receives--)
                wait_received(whole);
        }
        while (sends--)
            wait_sent(whole);
    }
    void allreduce(const task &t, char *data)
    {
        int W = options.world;
        size_t es = element_bytes(t.type);
        auto whole = context->createUnboundBuffer(data, (size_t)t.count * es);
        auto offset = [&](int segment) {
            segment = (segment % W + W) % W;
            return (size_t)(t.count * segment / W) * es;
        };
        auto size = [&](int segment) {
            segment = (segment % W + W) % W;
            return (size_t)(t.count * (segment + 1) / W - t.count * segment / W) * es;
        };
        for (int round = 0, r = options.rank; round < W - 1; round++)
            exchange(whole.get(), offset(r - round), size(r - round), data, offset(r - round - 1),
                     size(r - round - 1), true, t.type);
        for (int round = 0, r = options.rank; round < W - 1; round++)
            exchange(whole.get(), offset(r - round + 1), size(r - round + 1), data,
                     offset(r - round), size(r - round), false, t.type);
    }
    /* Pieces walk round the ring from the root; every rank but the last passes each one on. */
    void broadcast(const task &t, char *data)
    {
        auto whole = context->createUnboundBuffer(data, (size_t)t.count);
        bool is_root = options.rank == t.root, is_last = right() == t.root;
        int sends = 0;
        for (size_t at = 0; at < (size_t)t.count; at += PIECE_BYTES) {
            size_t bytes = std::min(PIECE_BYTES, (size_t)t.count - at);
            if (!is_root) {
                whole->recv(left(), received++, at, bytes);
                wait_received(whole.get());
            }
            if (!is_last) {
                whole->send(right(), sent++, at, bytes);
                sends++;
            }
        }
        while (sends--)
            wait_sent(whole.get());
    }

    /* -- staging
     * ------------------------------------------------------------------------------------- */
    void check(bool copied)
    {
        if (!copied)
            throw std::runtime_error("the compute device failed");
    }
    char *staging_of(size_t bytes)
    {
        if (bytes > staging_bytes) {
            memory->release(options.device, staging);
            staging_bytes = 0;
            staging = static_cast<char *>(memory->alloc(options.device, bytes));
            if (!staging)
                throw std::runtime_error("no pinned memory to stage a collective");
            staging_bytes = bytes;
        }
        return staging;
    }
    void carry_out(const task &t)
    {
        size_t bytes = (size_t)t.count * (t.reduce ? element_bytes(t.type) : 1);
        char *data = memory ? staging_of(bytes) : static_cast<char *>(t.data);
        if (memory)
            check(memory->fetch(options.device, t.mark, data, t.data, bytes));
        t.reduce ? allreduce(t, data) : broadcast(t, data);
        if (memory)
            check(memory->put(options.device, t.data, data, bytes));
    }

    /* -- the thread
     * ---------------------------------------------------------------------------------------------
     */
    void fail(const char *what)
    {
        std::lock_guard<std::mutex> guard(lock);
        if (!failed)
            failure = what;
        failed = true;
    }
    void run()
    {
        std::unique_lock<std::mutex> guard(lock);
        for (;;) {
            changed.wait(guard, [&] { return stop || !queue.empty(); });
            if (stop)
                return;
            task t = queue.front();
            queue.pop_front();
            busy = true;
            bool usable = !failed && options.world > 1;
            guard.unlock();
            try {
                if (usable)
                    carry_out(t);
            } catch (const std::exception &e) {
                fail(e.what());
            }
            if (memory)
                memory->forget(options.device, t.mark);
            guard.lock();
            busy = false;
            changed.notify_all();
        }
    }
    void begin(task t)
    {
        t.mark = memory ? memory->mark(options.device) : nullptr;
        std::lock_guard<std::mutex> guard(lock);
        queue.push_back(t);
        changed.notify_all();
    }
};

ring *ring_of(void *self)
{
    return static_cast<ring *>(self);
}

void connect_peers(ring *r)
{
    auto device = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(r->host.c_str()));
    auto context = std::make_shared<gloo::rendezvous::Context>(r->options.rank, r->options.world);
    /* A rank that dies between publishing its address and connecting costs five of these time-outs. */
    context->setTimeout(std::chrono::milliseconds(std::max(1, r->options.connect_ms / 5)));
    context->connectFullMesh(*r, device);
    r->context = context;
    for (int i = 0; i < 2; i++) {
        r->piece[i].resize(PIECE_BYTES);
        r->piece_buffer[i] = context->createUnboundBuffer(r->piece[i].data(), PIECE_BYTES);
    }
}

int ring_connect(const comm_link *link, void **ret, bl_error *err)
{
    const comm_options *o = link->options;
    std::unique_ptr<ring> r;
    try {
        r = std::make_unique<ring>();
        r->link = *link;
        r->options = *o;
        r->memory = o->memory;
        r->host = o->host;
        if (o->world > 1)
            connect_peers(r.get());
        r->thread = std::thread([p = r.get()] { p->run(); });
        *ret = r.release();
        return 0;
    } catch (const std::exception &e) {
        try {
            if (r)
                r->find_unreached();
        } catch (const std::exception &) {
            /* what a peer published is no address: nobody is named */
        }
        return bl_fail(err, BL_EPEER, "rank %d of %d cannot connect with its peers: %s", o->rank,
                       o->world, e.what());
    }
}

void ring_allreduce(void *self, void *data, int64_t count, comm_type type)
{
    ring_of(self)->begin(task{true, data, count, type, 0, nullptr});
}

void ring_broadcast(void *self, void *data, size_t bytes, int root)
{
    ring_of(self)->begin(task{false, data, (int64_t)bytes, COMM_F32, root, nullptr});
}

int ring_wait(void *self, bl_error *err)
{
    ring *r = ring_of(self);
    std::unique_lock<std::mutex> guard(r->lock);
    r->changed.wait(guard, [&] { return r->queue.empty() && !r->busy; });
    if (r->failed || r->is_aborted)
        return bl_fail(err, BL_EPEER, "rank %d of %d: a collective failed: %s", r->options.rank,
                       r->options.world, r->failed ? r->failure.c_str() : "aborted");
    return 0;
}

void ring_abort(void *self)
{
    ring *r = ring_of(self);
    std::lock_guard<std::mutex> guard(r->lock);
    r->is_aborted = true;
    if (!r->failed)
        r->failure = "aborted";
    r->failed = true;
    for (auto *b : r->live) {
        b->abortWaitRecv();
        b->abortWaitSend();
    }
    r->changed.notify_all();
}

void ring_free(void *self)
{
    ring *r = ring_of(self);
    {
        std::lock_guard<std::mutex> guard(r->lock);
        r->stop = true;
        r->changed.notify_all();
    }
    r->thread.join();
    for (const task &t : r->queue)
        if (r->memory)
            r->memory->forget(r->options.device, t.mark);
    for (auto &b : r->piece_buffer)
        b.reset();
    r->context.reset();
    if (r->memory)
        r->memory->release(r->options.device, r->staging);
    delete r;
}

} // namespace

extern "C" const comm_backend comm_gloo = {"gloo",    ring_connect, ring_allreduce, ring_broadcast,
                                           ring_wait, ring_abort,   ring_free};

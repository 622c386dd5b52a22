/* worker/comm/gloo.cc - comm.h over Gloo's TCP connections and buffers. C++ ends at this file's
 * edge: no exception leaves.
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
#include "worker/comm/comm.h"

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
    void *data;
    int64_t count; /* elements of a reduction, bytes of a broadcast */
    comm_type type;
    int root;
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

} // namespace

/* The rendezvous store Gloo asks for is the communicator itself: what the control plane delivered.
 */
struct comm : gloo::rendezvous::Store {
    comm_options options;
    std::string host;
    std::shared_ptr<gloo::rendezvous::Context> context;

    std::mutex lock;
    std::condition_variable changed;
    std::map<std::string, std::vector<char>> store;
    std::deque<task> queue;
    bool busy = false, stop = false, is_aborted = false, failed = false;
    std::string failure;
    std::vector<gloo::transport::UnboundBuffer *> live; /* to be woken by abort */

    int connecting = 0;         /* the rank whose addresses Gloo asked for last */
    std::vector<int> unreached; /* after a failed comm_connect */

    std::thread thread;
    uint64_t sent = 0, received = 0;
    std::vector<char> piece[2];
    buffer piece_buffer[2];

    /* -- the store
     * --------------------------------------------------------------------------------------- */
    void set(const std::string &key, const std::vector<char> &value) override
    {
        options.publish(options.context, key.c_str(), value.data(), value.size());
    }
    std::vector<char> get(const std::string &key) override
    {
        wait({key});
        std::lock_guard<std::mutex> guard(lock);
        return store[key];
    }
    void wait(const std::vector<std::string> &keys) override
    {
        wait(keys, std::chrono::milliseconds(options.connect_ms));
    }
    void wait(const std::vector<std::string> &keys,
              const std::chrono::milliseconds &timeout) override
    {
        std::unique_lock<std::mutex> guard(lock);
        connecting = atoi(keys.back().c_str()); /* the key is the rank */
        auto there = [&] {
            return is_aborted || std::all_of(keys.begin(), keys.end(),
                                             [&](const std::string &k) { return store.count(k); });
        };
        if (!changed.wait_for(guard, timeout, there))
            throw std::runtime_error("a peer did not appear in time");
        if (is_aborted)
            throw aborted();
    }

    /* -- who cannot be reached
     * --------------------------------------------------------------------------- */
    /* A connection to where that rank waits for this one, under way; -1: there can be none. It
     * published an address for each of its pairs, in the order of ranks. Under the lock. */
    int call(int rank)
    {
        const std::vector<char> &published = store[std::to_string(rank)];
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
        {
            std::lock_guard<std::mutex> guard(lock);
            for (int rank = connecting; rank < options.world && !is_aborted; rank++)
                if (rank != options.rank && store.count(std::to_string(rank)))
                    calls.emplace_back(rank, call(rank));
        }
        for (auto &[rank, fd] : calls) {
            auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                until - std::chrono::steady_clock::now());
            pollfd waiting = {fd, POLLOUT, 0};
            int error = 0;
            socklen_t size = sizeof error;
            bool answered = fd >= 0 && poll(&waiting, 1, std::max(0, (int)left.count())) == 1 &&
                            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
            if (!answered)
                unreached.push_back(rank);
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
    void allreduce(const task &t)
    {
        int W = options.world;
        size_t es = element_bytes(t.type);
        auto *data = static_cast<char *>(t.data);
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
    void broadcast(const task &t)
    {
        auto whole = context->createUnboundBuffer(t.data, (size_t)t.count);
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
            if (!failed && options.world > 1 && t.count > 0) {
                guard.unlock();
                try {
                    t.reduce ? allreduce(t) : broadcast(t);
                } catch (const std::exception &e) {
                    fail(e.what());
                }
                guard.lock();
            }
            busy = false;
            changed.notify_all();
        }
    }
    void begin(const task &t)
    {
        std::lock_guard<std::mutex> guard(lock);
        queue.push_back(t);
        changed.notify_all();
    }
};

extern "C" int comm_open(const comm_options *options, comm **ret, bl_error *err)
{
    try {
        auto c = std::make_unique<comm>();
        c->options = *options;
        c->host = options->host;
        c->thread = std::thread([p = c.get()] { p->run(); });
        *ret = c.release();
        return 0;
    } catch (const std::exception &e) {
        return bl_fail(err, BL_ENOMEM, "no communicator can be made: %s", e.what());
    }
}

extern "C" void comm_deliver(comm *c, const char *key, const void *value, size_t size)
{
    std::lock_guard<std::mutex> guard(c->lock);
    auto *bytes = static_cast<const char *>(value);
    c->store[key] = std::vector<char>(bytes, bytes + size);
    c->changed.notify_all();
}

extern "C" int comm_connect(comm *c, bl_error *err)
{
    if (c->options.world == 1)
        return 0;
    try {
        auto device =
            gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(c->host.c_str()));
        auto context =
            std::make_shared<gloo::rendezvous::Context>(c->options.rank, c->options.world);
        /* A rank that dies between publishing its address and connecting costs five of these
         * time-outs. */
        context->setTimeout(std::chrono::milliseconds(std::max(1, c->options.connect_ms / 5)));
        context->connectFullMesh(*c, device);
        c->context = context;
        for (int i = 0; i < 2; i++) {
            c->piece[i].resize(PIECE_BYTES);
            c->piece_buffer[i] = context->createUnboundBuffer(c->piece[i].data(), PIECE_BYTES);
        }
        return 0;
    } catch (const std::exception &e) {
        c->fail(e.what());
        try {
            c->find_unreached();
        } catch (
            const std::exception &) { /* what a peer published is no address: nobody is named */
        }
        return bl_fail(err, BL_EPEER, "rank %d of %d cannot connect with its peers: %s",
                       c->options.rank, c->options.world, e.what());
    }
}

extern "C" int comm_unreached(const comm *c, int *ret_ranks, int most)
{
    int count = std::min(most, (int)c->unreached.size());
    std::copy_n(c->unreached.begin(), count, ret_ranks);
    return count;
}

extern "C" void comm_allreduce(comm *c, void *data, int64_t count, comm_type type)
{
    c->begin(task{true, data, count, type, 0});
}

extern "C" void comm_broadcast(comm *c, void *data, size_t bytes, int root)
{
    c->begin(task{false, data, (int64_t)bytes, COMM_F32, root});
}

extern "C" int comm_wait(comm *c, bl_error *err)
{
    std::unique_lock<std::mutex> guard(c->lock);
    c->changed.wait(guard, [&] { return c->queue.empty() && !c->busy; });
    if (c->failed || c->is_aborted)
        return bl_fail(err, BL_EPEER, "rank %d of %d: a collective failed: %s", c->options.rank,
                       c->options.world, c->failed ? c->failure.c_str() : "aborted");
    return 0;
}

extern "C" void comm_abort(comm *c)
{
    std::lock_guard<std::mutex> guard(c->lock);
    c->is_aborted = true;
    if (!c->failed)
        c->failure = "aborted";
    c->failed = true;
    for (auto *b : c->live) {
        b->abortWaitRecv();
        b->abortWaitSend();
    }
    c->changed.notify_all();
}

extern "C" void comm_free(comm **c)
{
    if (!*c)
        return;
    comm_abort(*c);
    {
        std::lock_guard<std::mutex> guard((*c)->lock);
        (*c)->stop = true;
        (*c)->changed.notify_all();
    }
    (*c)->thread.join();
    for (auto &b : (*c)->piece_buffer)
        b.reset();
    (*c)->context.reset();
    delete *c;
    *c = nullptr;
}

/* tests/cudasim/doubles/cudart.cc - the part of the CUDA runtime that worker/ops/cuda calls, on host memory.
 *
 * Streams    Work waits in its stream's queue and runs later, inside some other call of the runtime: a call
 *            runs a few operations, often none, of streams drawn at random, and a call that waits runs what
 *            it waits for and, in between, what others have. Only the order within a stream and events hold
 *            anything back. BLIPREN_CUDASIM_SEED draws other orders.
 * Memory     is closed to the host (PROT_NONE) but for the time in which work runs: who touches it ends the
 *            process with a message. It is full of NaN when it is handed out and when it is released, which
 *            waits for all work, as on a device; what was written behind a block is seen then.
 * Time       is told, not measured: an operation takes a microsecond, and what it says that it takes (double_spend).
 * Copies     must say their direction right. From pageable memory they have read their source when the call
 *            returns, to pageable memory they have arrived; pinned memory is read and written when the
 *            copy runs, and must still be there.
 * Graphs     Nothing runs while a stream is captured. What would then have to happen at once or to be waited for fails and
 *            invalidates the capture, and so do events. An operation keeps its arguments; what they point to is read each time
 *            that the graph runs. Launching a graph after memory was released that it may use ends the process.
 */
#include "tests/cudasim/doubles/queue.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

/* cudasim.h: where launches of kernels go. */
extern void (*cudasim_submit)(cudaStream_t stream, std::function<void()> work);
extern thread_local cudaError_t cudasim_last_error;

namespace
{
constexpr size_t DEVICE_BYTES = (size_t)16 << 30, GRAIN = 256, BEHIND = 256;
constexpr size_t HUGE_PAGE = 2 << 20;

[[noreturn]] void broken(const char *what)
{
    fprintf(stderr, "cudart double: %s\n", what);
    abort();
}

struct recording {
    uint64_t recorded = 0, done = 0; /* the event's last call to record it, and the last that ran */
    double ms = 0;                   /* when that was */
};
struct event {
    std::shared_ptr<recording> is = std::make_shared<recording>();
    bool times = false;
};

struct operation {
    std::function<void()> run;
    std::function<bool()> ready;             /* that it may run; null: it may */
    std::shared_ptr<recording> waits, tells; /* of an event, or null */
    uint64_t serial = 0;                     /* of that recording */
    const char *pinned = nullptr;            /* what a copy reads or writes */
    bool lazy = false;                       /* it knows what was put off */
};
/* Operations one behind the other. */
struct graph {
    std::vector<operation> nodes;
    std::map<char *, size_t> memory; /* blocks that there were, which it may use */
    bool outlived = false;           /* by it: one of them is released */
    size_t waiting = 0;              /* nodes in queues */
};
/* A graph in the making. */
struct capture {
    std::unique_ptr<graph> made = std::make_unique<graph>();
    std::thread::id by = std::this_thread::get_id();
    bool valid = true;
};
struct stream {
    std::deque<operation> queue;
    std::unique_ptr<capture> captured; /* or null */
    double ms = 0;                     /* when its last operation ended */
};

std::mutex lock; /* over all that follows, and while work runs */
std::vector<stream *> streams;
std::map<char *, size_t> blocks, pinned; /* beginning, bytes */
std::set<graph *> graphs;                /* executable ones */
char *arena;                             /* DEVICE_BYTES of addresses */
size_t used, reached;                    /* bytes handed out; of the arena, ever touched */
uint64_t random_state;
double spent_ms; /* by the operation that runs */
void (*flush)(); /* does what lazy operations put off; or null */
struct sigaction others;

/* -- memory -- */

void on_fault(int, siginfo_t *info, void *)
{
    const char *at = (const char *)info->si_addr;
    if (at >= arena && at < arena + DEVICE_BYTES)
        broken("the host touches device memory");
    sigaction(SIGSEGV, &others, nullptr); /* and it comes again */
}

void open_device()
{
    if (arena)
        return;
    void *p = mmap(nullptr, DEVICE_BYTES + HUGE_PAGE, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        broken("no addresses for device memory");
    arena = (char *)(((uintptr_t)p + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    /* Opening and closing takes a hundredth of the time that it takes page by page. */
    madvise(arena, DEVICE_BYTES, MADV_HUGEPAGE);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &others);
    const char *seed = getenv("BLIPREN_CUDASIM_SEED");
    random_state = (seed ? strtoull(seed, nullptr, 10) + 1 : 1) * 0x9E3779B97F4A7C15u;
}

/* Device memory is open while one of these lives. */
struct opened {
    opened()
    {
        protect(PROT_READ | PROT_WRITE);
    }
    ~opened()
    {
        protect(PROT_NONE);
    }
    void protect(int how)
    {
        if (reached && mprotect(arena, reached, how) != 0)
            broken("mprotect of device memory");
    }
};

size_t rounded(size_t bytes)
{
    return (bytes + GRAIN - 1) / GRAIN * GRAIN + BEHIND;
}

/* Where `bytes` fit, the first such place; NULL: nowhere. */
char *find_room(size_t bytes)
{
    char *at = arena;
    for (const auto &block : blocks) {
        if (block.first - at >= (ptrdiff_t)bytes)
            break;
        at = block.first + rounded(block.second);
    }
    return (size_t)(arena + DEVICE_BYTES - at) >= bytes ? at : nullptr;
}

/* The block of such a map that holds these bytes whole, or its end. */
std::map<char *, size_t>::iterator holder(std::map<char *, size_t> &map, const void *p,
                                          size_t bytes)
{
    auto after = map.upper_bound((char *)(uintptr_t)p);
    if (after == map.begin())
        return map.end();
    auto block = std::prev(after);
    return (const char *)p + bytes <= block->first + block->second ? block : map.end();
}

/* -- running -- */

uint64_t draw()
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 11;
}

bool may_run(const operation &o)
{
    return !(o.waits && o.waits->done < o.serial) && (!o.ready || o.ready());
}

/* Somebody outside may make an operation ready. */
bool may_become_ready()
{
    for (const stream *s : streams)
        if (!s->queue.empty() && s->queue.front().ready)
            return true;
    return false;
}

/* The next operation of a stream drawn from those whose next may run. False: there is none. */
bool run_one()
{
    std::vector<stream *> ready;
    for (stream *s : streams)
        if (!s->queue.empty() && may_run(s->queue.front()))
            ready.push_back(s);
    if (ready.empty())
        return false;
    stream *chosen = ready[draw() % ready.size()];
    operation next = std::move(chosen->queue.front());
    chosen->queue.pop_front();
    spent_ms = next.run ? 1e-3 : 0;
    if (next.run && !next.lazy && flush)
        flush();
    if (next.run)
        next.run();
    if (next.waits && next.waits->ms > chosen->ms)
        chosen->ms = next.waits->ms;
    chosen->ms += spent_ms;
    if (next.tells && next.tells->done < next.serial) {
        next.tells->done = next.serial;
        next.tells->ms = chosen->ms;
    }
    return true;
}

/* A few operations, or none. */
void run_some(uint64_t most)
{
    const uint64_t count = draw() % 4 == 0 ? draw() % (most + 1) : 0;
    if (count == 0)
        return;
    opened memory;
    for (uint64_t i = 0; i < count && run_one();)
        i++;
}

template <typename F> void run_until(F done)
{
    while (!done()) {
        bool ran = true;
        {
            opened memory;
            while (ran && !done())
                ran = run_one();
        }
        if (ran)
            continue;
        if (!may_become_ready())
            broken("a stream waits for an event that nothing will record");
        lock.unlock();
        usleep(50);
        lock.lock();
    }
}

bool idle()
{
    for (const stream *s : streams)
        if (!s->queue.empty())
            return false;
    return true;
}

stream *stream_of(cudaStream_t handle)
{
    for (stream *s : streams)
        if (s == (stream *)handle)
            return s;
    broken("a stream that there is not");
}

cudaError_t failed(cudaError_t rc)
{
    return cudasim_last_error = rc;
}

/* Into the stream's queue, or into the graph that is made of it. */
cudaError_t put(cudaStream_t handle, operation o)
{
    stream *s = stream_of(handle);
    if (!s->captured) {
        s->queue.push_back(std::move(o));
        run_some(8);
        return cudaSuccess;
    }
    if (!s->captured->valid)
        return failed(cudaErrorStreamCaptureInvalidated);
    s->captured->valid = o.run && !o.ready;
    if (!s->captured->valid)
        return failed(cudaErrorStreamCaptureUnsupported);
    s->captured->made->nodes.push_back(std::move(o));
    return cudaSuccess;
}

/* What neither a thread that captures may do, nor anybody with a stream that is captured: it invalidates the capture. */
bool forbidden(const stream *with = nullptr)
{
    bool found = false;
    for (stream *s : streams)
        if (s->captured && (s == with || s->captured->by == std::this_thread::get_id())) {
            s->captured->valid = false;
            found = true;
        }
    if (found)
        failed(cudaErrorStreamCaptureUnsupported);
    return found;
}

void put_work(cudaStream_t handle, std::function<void()> work)
{
    std::lock_guard<std::mutex> guard(lock);
    operation o;
    o.run = std::move(work);
    put(handle, std::move(o));
}

/* Launches come here from the module's loading on. */
__attribute__((constructor)) void take_launches()
{
    cudasim_submit = put_work;
}

bool is_pinned(const void *p, size_t bytes)
{
    return holder(pinned, p, bytes) != pinned.end();
}

bool is_device(const void *p, size_t bytes)
{
    return holder(blocks, p, bytes) != blocks.end();
}

cudaError_t copy_in(cudaStream_t handle, void *y, const void *x, size_t bytes)
{
    operation o;
    if (!is_pinned(x, bytes) && forbidden(stream_of(handle)))
        return cudaErrorStreamCaptureUnsupported;
    if (is_pinned(x, bytes)) {
        o.pinned = (const char *)x;
        o.run = [=] { memcpy(y, x, bytes); };
    } else {
        auto staged = std::make_shared<std::vector<char>>((const char *)x, (const char *)x + bytes);
        o.run = [=] { memcpy(y, staged->data(), bytes); };
    }
    return put(handle, std::move(o));
}

cudaError_t copy_out(cudaStream_t handle, void *y, const void *x, size_t bytes)
{
    auto arrived = std::make_shared<bool>(false);
    const bool waits = !is_pinned(y, bytes);
    if (waits && forbidden(stream_of(handle)))
        return cudaErrorStreamCaptureUnsupported;
    operation o;
    o.pinned = waits ? nullptr : (const char *)y;
    o.run = [=] {
        memcpy(y, x, bytes);
        *arrived = true;
    };
    const cudaError_t rc = put(handle, std::move(o));
    if (waits)
        run_until([&] { return *arrived; });
    return rc;
}

/* Such an operation as queue.h tells of. The context lives as long as a graph may run it. */
operation operation_of(void (*run)(void *context), void *context)
{
    const std::shared_ptr<void> owned(context, free);
    operation o;
    o.run = [=] { run(owned.get()); };
    return o;
}
} // namespace

extern "C" void double_spend(double ms)
{
    spent_ms += ms;
}

extern "C" cudaError_t double_queue_lazily(cudaStream_t stream, void (*run)(void *context),
                                           void *context, void (*how)(void))
{
    std::lock_guard<std::mutex> guard(lock);
    flush = how;
    operation o = operation_of(run, context);
    o.lazy = true;
    return put(stream, std::move(o));
}

extern "C" cudaError_t double_queue_when(cudaStream_t stream, bool (*ready)(void *context),
                                         void (*run)(void *context), void *context)
{
    std::lock_guard<std::mutex> guard(lock);
    operation o = operation_of(run, context);
    o.ready = [=] { return ready(context); };
    return put(stream, std::move(o));
}

/* -- the runtime -- */

cudaError_t cudaMalloc(void **ret, size_t bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    open_device();
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    const size_t size = rounded(bytes);
    char *at = used + size > DEVICE_BYTES ? nullptr : find_room(size);
    if (!at)
        return failed(cudaErrorMemoryAllocation);
    reached = (size_t)(at - arena) + size > reached ? (size_t)(at - arena) + size : reached;
    reached = (reached + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    opened memory;
    memset(at, 0xFF, size);
    blocks[at] = bytes;
    used += size;
    *ret = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    std::lock_guard<std::mutex> guard(lock);
    if (!p)
        return cudaSuccess;
    auto block = blocks.find((char *)p);
    if (block == blocks.end())
        broken("cudaFree of what cudaMalloc did not give");
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    for (graph *g : graphs)
        g->outlived = g->outlived || g->memory.count((char *)p);
    run_until(idle);
    opened memory;
    if (flush)
        flush();
    const size_t bytes = block->second, size = rounded(bytes);
    for (size_t i = bytes; i < size; i++)
        if ((unsigned char)block->first[i] != 0xFF)
            broken("something was written behind a block of device memory");
    memset(block->first, 0xFF, bytes);
    used -= size;
    blocks.erase(block);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
    std::lock_guard<std::mutex> guard(lock);
    *left = DEVICE_BYTES - used;
    *total = DEVICE_BYTES;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **ret, size_t bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    *ret = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*ret)
        return failed(cudaErrorMemoryAllocation);
    pinned[(char *)*ret] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    std::lock_guard<std::mutex> guard(lock);
    if (!p)
        return cudaSuccess;
    auto block = pinned.find((char *)p);
    if (block == pinned.end())
        broken("cudaFreeHost of what cudaMallocHost did not give");
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    for (const stream *s : streams)
        for (const operation &o : s->queue)
            if (o.pinned >= block->first && o.pinned < block->first + block->second)
                broken("pinned memory is released while a copy is under way");
    free(p);
    pinned.erase(block);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *y, const void *x, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    std::lock_guard<std::mutex> guard(lock);
    const bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (is_device(y, bytes) != to || is_device(x, bytes) != from)
        broken("cudaMemcpyAsync: a pointer is not on the side that the direction says");
    if (!to || !from)
        return (to ? copy_in : copy_out)(stream, y, x, bytes);
    operation o;
    o.run = [=] { memmove(y, x, bytes); };
    return put(stream, std::move(o));
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    std::lock_guard<std::mutex> guard(lock);
    if (!is_device(p, bytes))
        broken("cudaMemsetAsync beyond device memory");
    operation o;
    o.run = [=] { memset(p, value, bytes); };
    return put(stream, std::move(o));
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

/* A priority is a wish: any order remains legal. */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *ret, unsigned, int)
{
    std::lock_guard<std::mutex> guard(lock);
    open_device();
    streams.push_back(new stream());
    *ret = (cudaStream_t)streams.back();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    std::lock_guard<std::mutex> guard(lock);
    stream *s = stream_of(handle);
    if (forbidden(s))
        return cudaErrorStreamCaptureUnsupported;
    run_until([=] { return s->queue.empty(); });
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == s)
            streams.erase(streams.begin() + (ptrdiff_t)i);
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    std::lock_guard<std::mutex> guard(lock);
    const stream *s = stream_of(handle);
    if (forbidden(s))
        return cudaErrorStreamCaptureUnsupported;
    run_until([=] { return s->queue.empty(); });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned)
{
    std::lock_guard<std::mutex> guard(lock);
    operation o;
    o.waits = ((event *)handle)->is;
    o.serial = o.waits->recorded;
    return put(stream, std::move(o));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags)
{
    event *made = new event();
    made->times = !(flags & cudaEventDisableTiming);
    *ret = (cudaEvent_t)made;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begun, cudaEvent_t ended)
{
    std::lock_guard<std::mutex> guard(lock);
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    run_some(256);
    const event *from = (event *)begun, *to = (event *)ended;
    for (const event *e : {from, to})
        if (!e->times || e->is->recorded == 0)
            return cudaErrorInvalidResourceHandle;
    for (const event *e : {from, to})
        if (e->is->done < e->is->recorded)
            return cudaErrorNotReady;
    *ms = (float)(to->is->ms - from->is->ms);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    std::lock_guard<std::mutex> guard(lock);
    delete (event *)handle; /* what is in queues keeps its recording */
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream)
{
    std::lock_guard<std::mutex> guard(lock);
    operation o;
    o.tells = ((event *)handle)->is;
    o.serial = o.tells->recorded + 1;
    const cudaError_t rc = put(stream, std::move(o));
    if (rc == cudaSuccess)
        ((event *)handle)->is->recorded++;
    return rc;
}

cudaError_t cudaEventQuery(cudaEvent_t handle)
{
    std::lock_guard<std::mutex> guard(lock);
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    run_some(256); /* a device works on while the host looks */
    const recording &is = *((event *)handle)->is;
    return is.done >= is.recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    std::lock_guard<std::mutex> guard(lock);
    const std::shared_ptr<recording> is = ((event *)handle)->is;
    if (forbidden())
        return cudaErrorStreamCaptureUnsupported;
    run_until([=] { return is->done >= is->recorded; });
    return cudaSuccess;
}

/* -- graphs -- */

/* The mode is that of a thread alone: what others do meanwhile is no concern of the capture's. */
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    std::lock_guard<std::mutex> guard(lock);
    stream *s = stream_of(handle);
    if (mode != cudaStreamCaptureModeThreadLocal)
        return failed(cudaErrorInvalidValue);
    if (s->captured)
        return failed(cudaErrorIllegalState);
    s->captured = std::make_unique<capture>();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *ret)
{
    std::lock_guard<std::mutex> guard(lock);
    stream *s = stream_of(handle);
    *ret = nullptr;
    if (!s->captured)
        return failed(cudaErrorIllegalState);
    if (s->captured->by != std::this_thread::get_id()) {
        s->captured->valid = false;
        return failed(cudaErrorStreamCaptureWrongThread);
    }
    const std::unique_ptr<capture> ended = std::move(s->captured);
    if (!ended->valid)
        return failed(cudaErrorStreamCaptureInvalidated);
    *ret = (cudaGraph_t)ended->made.release();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle)
{
    delete (graph *)handle;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t handle, unsigned long long)
{
    std::lock_guard<std::mutex> guard(lock);
    graph *made = new graph(*(const graph *)handle);
    made->memory = blocks;
    graphs.insert(made);
    *ret = (cudaGraphExec_t)made;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle)
{
    std::lock_guard<std::mutex> guard(lock);
    graph *g = (graph *)handle;
    if (!graphs.erase(g))
        broken("a graph that there is not");
    if (g->waiting)
        broken("a graph is destroyed while it runs");
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t on)
{
    std::lock_guard<std::mutex> guard(lock);
    graph *g = (graph *)handle;
    stream *s = stream_of(on);
    if (!graphs.count(g))
        broken("a graph that there is not");
    if (g->outlived)
        broken("a graph is launched that may use memory which was released");
    if (forbidden(s))
        return cudaErrorStreamCaptureUnsupported;
    for (const operation &node : g->nodes) {
        if (node.pinned && !is_pinned(node.pinned, 1))
            broken("a graph reads or writes pinned memory that was released");
        operation o = node;
        o.run = [g, run = node.run] {
            run();
            g->waiting--;
        };
        g->waiting++;
        s->queue.push_back(std::move(o));
    }
    run_some(64);
    return cudaSuccess;
}

/* -- the device -- */

cudaError_t cudaGetDeviceCount(int *ret)
{
    *ret = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDriverGetVersion(int *ret)
{
    *ret = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *ret, int device)
{
    if (device != 0)
        return cudaErrorInvalidDevice;
    *ret = cudaDeviceProp();
    strcpy(ret->name, "shim");
    ret->multiProcessorCount = 1;
    ret->major = 9;
    memcpy(ret->uuid.bytes, "shim of the host", 16);
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t rc)
{
    return rc == cudaErrorMemoryAllocation ? "out of memory" : "an error of the double";
}

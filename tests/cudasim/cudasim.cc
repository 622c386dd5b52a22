/* tests/cudasim/cudasim.cc - fibers, barriers and shared memory of the host shim (cudasim.h). */
#include <cudasim.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

namespace
{
enum { THREADS_MAX = 1024, LANES = 32, STACK_BYTES = 256 << 10, EXCHANGE_BYTES = 64 };
enum state { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct fiber {
    void *stack, *stack_pointer;
    enum state state;
    const char *file; /* where it waits */
    int line;
    struct cudasim_place at;
    int exchanges;
    std::vector<std::vector<copy>> copies; /* groups, the last one open */
};

struct shared_array {
    const void *key;
    void *memory;
};

struct block {
    fiber fibers[THREADS_MAX];
    int count, current;
    void *scheduler; /* its stack pointer while a fiber runs */
    void (*body)(void *);
    void *context;
    std::vector<shared_array> arrays;
    void *dynamic;
    uint64_t random;
    unsigned char exchange[THREADS_MAX / LANES][2][LANES][EXCHANGE_BYTES];
};

thread_local block *the_block; /* one for all launches: it keeps the stacks */

[[noreturn]] void die(const char *what, const fiber *a, const fiber *b)
{
    fprintf(stderr, "cudasim: %s: thread %u of block %u at %s:%d, thread %u at %s:%d\n", what,
            a->at.thread.x, a->at.block.x, a->file ? a->file : "end", a->line, b->at.thread.x,
            b->file ? b->file : "end", b->line);
    abort();
}

uint64_t draw(block *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random;
}
} // namespace

thread_local struct cudasim_place cudasim_at;
void (*cudasim_submit)(cudaStream_t stream, std::function<void()> work);

/* Saves the callee-saved registers and the stack pointer, and goes on where `to` was saved. */
extern "C" void cudasim_switch(void **save, void *to);
#if defined __x86_64__
asm(R"(
.text
.globl cudasim_switch
.hidden cudasim_switch
.type cudasim_switch, @function
cudasim_switch:
    endbr64
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cudasim_switch, .-cudasim_switch
)");
enum { SAVED_WORDS = 6 };

static void *first_frame(char *top, void (*entry)())
{
    void **frame = (void **)top - 2; /* as after a call: the stack is 16-byte aligned plus 8 */
    frame[1] = nullptr;
    frame[0] = (void *)entry;
    return frame - SAVED_WORDS;
}
#elif defined __aarch64__
asm(R"(
.text
.globl cudasim_switch
.hidden cudasim_switch
.type cudasim_switch, %function
cudasim_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size cudasim_switch, .-cudasim_switch
)");
static void *first_frame(char *top, void (*entry)())
{
    void **frame = (void **)(top - 160);
    memset(frame, 0, 160);
    frame[11] = (void *)entry; /* x30 */
    return frame;
}
#else
#error "cudasim knows how to switch fibers on x86-64 and AArch64"
#endif

/* Back to the scheduler until this fiber is ready again. */
static void wait_as(enum state state, const char *file, int line)
{
    block *b = the_block;
    fiber *f = &b->fibers[b->current];
    f->state = state;
    f->file = file;
    f->line = line;
    cudasim_switch(&f->stack_pointer, b->scheduler);
}

static void fiber_main()
{
    the_block->body(the_block->context);
    wait_as(ENDED, nullptr, 0);
    abort();
}

/* All that wait at the block's barrier go on, if all that have not ended do. */
static bool release_block(block *b)
{
    const fiber *first = nullptr;
    for (int i = 0; i < b->count; i++) {
        fiber *f = &b->fibers[i];
        if (f->state == ENDED)
            continue;
        if (f->state != AT_BLOCK_BARRIER)
            return false;
        first = first ? first : f;
        if (f->file != first->file || f->line != first->line)
            die("divergent barriers", first, f);
    }
    for (int i = 0; i < b->count; i++)
        if (b->fibers[i].state == AT_BLOCK_BARRIER)
            b->fibers[i].state = READY;
    return true;
}

/* The lanes of a warp go on if all of them wait at one place. */
static bool release_warp(block *b, int first)
{
    const int end = first + LANES < b->count ? first + LANES : b->count;
    int waiting = 0;
    for (int i = first; i < end; i++)
        waiting += b->fibers[i].state == AT_WARP_BARRIER;
    if (waiting < end - first)
        return false;
    for (int i = first; i < end; i++)
        if (b->fibers[i].file != b->fibers[first].file ||
            b->fibers[i].line != b->fibers[first].line)
            die("a warp's lanes wait at different places", &b->fibers[first], &b->fibers[i]);
    for (int i = first; i < end; i++)
        b->fibers[i].state = READY;
    return true;
}

/* Nothing is ready: frees those whose barrier is complete. False: all have ended. */
static bool release(block *b)
{
    bool freed = false;
    int ended = 0;
    for (int i = 0; i < b->count; i += LANES)
        freed |= release_warp(b, i);
    freed = freed || release_block(b);
    for (int i = 0; i < b->count; i++)
        ended += b->fibers[i].state == ENDED;
    if (ended == b->count)
        return false;
    for (int i = 0; !freed && i < b->count; i++)
        for (int j = 0; j < i; j++)
            if (b->fibers[i].state != b->fibers[j].state)
                die("threads wait for each other", &b->fibers[j], &b->fibers[i]);
    return true;
}

static void start(block *b, dim3 size)
{
    b->count = (int)(size.x * size.y * size.z);
    for (int i = 0; i < b->count; i++) {
        fiber *f = &b->fibers[i];
        if (!f->stack)
            f->stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        /* not all at one place of a page: their tops would share few sets of the caches */
        char *top = (char *)f->stack + STACK_BYTES - i % 64 * 320;
        f->stack_pointer = first_frame(top, fiber_main);
        f->state = READY;
        f->at = cudasim_at;
        f->at.thread = dim3((unsigned)i % size.x, (unsigned)i / size.x % size.y,
                            (unsigned)i / (size.x * size.y));
        f->copies.assign(1, {});
        f->exchanges = 0;
    }
}

/* The block whose place, but for the thread, is in cudasim_at. */
static void run_block(block *b, dim3 size, size_t dynamic_bytes)
{
    start(b, size);
    b->dynamic = malloc(dynamic_bytes + 1);
    memset(b->dynamic, 0xCD, dynamic_bytes);
    int order[THREADS_MAX];
    for (int i = 0; i < b->count; i++)
        order[i] = i;
    do {
        for (int i = b->count - 1; i > 0; i--) {
            const int other = (int)(draw(b) % (uint64_t)(i + 1)), kept = order[i];
            order[i] = order[other];
            order[other] = kept;
        }
        for (int i = 0; i < b->count; i++) {
            fiber *f = &b->fibers[order[i]];
            if (f->state != READY)
                continue;
            b->current = order[i];
            cudasim_at = f->at;
            cudasim_switch(&b->scheduler, f->stack_pointer);
        }
    } while (release(b));
    for (const shared_array &array : b->arrays)
        free(array.memory);
    b->arrays.clear();
    free(b->dynamic);
}

void cudasim_seed(unsigned long long seed)
{
    if (!the_block)
        the_block = new block();
    the_block->random = (seed + 1) * 0x9E3779B97F4A7C15u;
}

void cudasim_run(dim3 grid, dim3 size, size_t dynamic_bytes, void (*body)(void *), void *context)
{
    if (!the_block)
        cudasim_seed(0);
    block *b = the_block;
    b->body = body;
    b->context = context;
    if (grid.y > 65535 || grid.z > 65535 || size.x * size.y * size.z > THREADS_MAX) {
        fprintf(stderr, "cudasim: a grid of (%u,%u,%u) blocks of (%u,%u,%u) is too large\n", grid.x,
                grid.y, grid.z, size.x, size.y, size.z);
        abort();
    }
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                cudasim_at.block = dim3(x, y, z);
                cudasim_at.block_size = size;
                cudasim_at.grid_size = grid;
                run_block(b, size, dynamic_bytes);
            }
}

thread_local cudaError_t cudasim_last_error = cudaSuccess;

cudaError_t cudaGetLastError(void)
{
    const cudaError_t last = cudasim_last_error;
    cudasim_last_error = cudaSuccess;
    return last;
}

void *cudasim_shared(const void *key, size_t bytes)
{
    for (const shared_array &array : the_block->arrays)
        if (array.key == key)
            return array.memory;
    void *memory = aligned_alloc(128, (bytes + 127) / 128 * 128);
    memset(memory, 0xCD, bytes);
    the_block->arrays.push_back({key, memory});
    return memory;
}

void *cudasim_dynamic(void)
{
    return the_block->dynamic;
}

void cudasim_block_barrier(const char *file, int line)
{
    wait_as(AT_BLOCK_BARRIER, file, line);
}

void cudasim_warp_barrier(const char *file, int line)
{
    wait_as(AT_WARP_BARRIER, file, line);
}

/* Two buffers in turn: a lane writes one again after a barrier that all pass when they have read it. */
const unsigned char *cudasim_exchange(const void *given, size_t bytes, const char *file, int line)
{
    block *b = the_block;
    const int thread = b->current;
    unsigned char(*buffer)[EXCHANGE_BYTES] =
        b->exchange[thread / LANES][b->fibers[thread].exchanges++ % 2];
    memcpy(buffer[thread % LANES], given, bytes);
    cudasim_warp_barrier(file, line);
    return buffer[0];
}

void cudasim_copy_async(void *shared, const void *global, size_t bytes)
{
    fiber *f = &the_block->fibers[the_block->current];
    memset(shared, 0xCD, bytes);
    f->copies.back().push_back({shared, global, bytes});
}

void cudasim_copy_commit(void)
{
    the_block->fibers[the_block->current].copies.emplace_back();
}

void cudasim_copy_wait(int groups_left)
{
    auto &groups = the_block->fibers[the_block->current].copies;
    while ((int)groups.size() - 1 > groups_left) {
        for (const copy &c : groups.front())
            c.from ? memcpy(c.to, c.from, c.bytes) : memset(c.to, 0, c.bytes);
        groups.erase(groups.begin());
    }
}

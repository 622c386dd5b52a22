/* worker/ops/cpu/cpu.h - what the files of the CPU backend share.
 *
 * Variants   every kernel file is compiled once per instruction set (plain, AVX2, AVX-512), its
 *            functions static, and ends with a function that enters them into a struct ops. So the
 *            table of operations itself is the choice of the instruction set, made once at open.
 * Threads    no result may depend on their number. A library matmul does (it splits the sum), so
 *            each library call is single-threaded on a tile that is a function of the shape alone:
 *            ops_cpu_open sets the calling thread's OpenMP default to one, and every parallel region
 *            of ours says num_threads(cpu_threads(...)). Sums over rows run over fixed row blocks
 *            (cpu_row_blocks), then over the blocks in order.
 * Scratch    one growing buffer per slot; an operation takes its slot before its parallel region.
 * Rates      in the files' heads: tests/bench/ops_bench on one core of a Xeon at 2.6 GHz (AVX-512,
 *            AMX; docs/performance.md) that others used too. Its f32 peak is 190 GFLOP/s.
 */
#pragma once

#include "worker/ops/dry.h"

#include <oneapi/dnnl/dnnl.h>

#include "common/cleanup.h"
#include "common/size.h"

enum cpu_isa { CPU_PLAIN, CPU_AVX2, CPU_AVX512, CPU_ISA_COUNT };

/* Operations that call others hold CPU_SCRATCH_OUTER, all others CPU_SCRATCH_INNER. */
enum cpu_scratch_slot { CPU_SCRATCH_OUTER, CPU_SCRATCH_INNER, CPU_SCRATCH_COUNT };

struct cpu {
    struct ops ops; /* first: every operation's self is the struct cpu */
    enum cpu_isa isa;
    int threads;
    int64_t serial_work, wide_max, panels_min; /* see struct cpu_options */
    const struct panels_form *form;            /* likewise */
    char name[64];
    struct ops_dry *dry;     /* NULL, or memory is counted and operations compute nothing: dry.c */
    struct bl_error failure; /* the first one; sticks */
    struct {
        void *memory;
        size_t bytes;
    } scratch[CPU_SCRATCH_COUNT];
};

static inline struct cpu *cpu_of(struct ops *self)
{
    return (struct cpu *)self;
}

/* act is f32 on this device. */
static inline float *cpu_f32(act *p)
{
    return (float *)p;
}
static inline const float *cpu_const_f32(const act *p)
{
    return (const float *)p;
}

/* Records a device failure, unless there is one already. */
void cpu_failed(struct cpu *cpu, const struct bl_error *err);

/* 64-byte aligned memory of at least `bytes`, valid until the slot's next use; with cpu->dry not to be
 * touched. NULL: memory ran
 * out, which is recorded as the device's failure; the operation returns without a result. */
void *cpu_scratch(struct cpu *cpu, enum cpu_scratch_slot slot, size_t bytes);
/* The same with a part of `bytes` (rounded up to cache lines, the result in *stride) per thread. */
void *cpu_scratch_threads(struct cpu *cpu, enum cpu_scratch_slot slot, size_t bytes,
                          size_t *stride);

/* 64-byte aligned memory, to be freed with cpu_free; NULL when there is none. */
void *cpu_alloc(struct cpu *cpu, enum ops_use use, size_t bytes);
void cpu_free(struct cpu *cpu, void *memory); /* NULL is fine */

/* Threads for an operation of about `work` simple operations: waking a thread costs some
 * microseconds, so small ones stay on the caller. Never changes a result. */
enum { CPU_SERIAL_WORK = 1 << 17 };
/* Matrices with a narrower side gain little, or lose (the demo's step would take a quarter longer on AMX in f32), and small models
 * keep f32's results. A head's part of the folded cross-attention at
 * width 2048 has a side of so many: two of its products follow each other, so that their errors would add up
 * (tests/evidence/algebra). */
enum { CPU_PANELS_MIN = 256 };
static inline int cpu_threads(const struct cpu *cpu, int64_t work)
{
    return work < cpu->serial_work ? 1 : cpu->threads;
}

/* Is a matrix (N,K) multiplied by panels? */
static inline bool cpu_by_panels(const struct cpu *cpu, int64_t N, int64_t K)
{
    return cpu->form && bl_min(N, K) > cpu->panels_min;
}

/* R rows in at most 64 blocks of equal size, a function of R alone. */
struct cpu_row_blocks {
    int64_t rows, count;
};
static inline struct cpu_row_blocks cpu_row_blocks(int64_t R)
{
    int64_t rows = bl_max(16, bl_ceil_div(R, 64));
    return (struct cpu_row_blocks){rows, bl_ceil_div(R, rows)};
}

/* The variant's name of a function: cpu_fill_norms becomes cpu_fill_norms_avx2. */
#define CPU_PASTE_(name, isa) name##_##isa
#define CPU_PASTE(name, isa) CPU_PASTE_(name, isa)
#define CPU_VARIANT(name) CPU_PASTE(name, CPU_ISA)

/* Each enters its file's operations into the table. */
#ifdef CPU_ISA
void CPU_VARIANT(cpu_fill_affine)(struct ops *table);
void CPU_VARIANT(cpu_fill_attention)(struct ops *table);
void CPU_VARIANT(cpu_fill_elementwise)(struct ops *table);
void CPU_VARIANT(cpu_fill_layernorm)(struct ops *table);
void CPU_VARIANT(cpu_fill_loss)(struct ops *table);
void CPU_VARIANT(cpu_fill_linear)(struct ops *table);
void CPU_VARIANT(cpu_fill_linear_gradient)(struct ops *table);
void CPU_VARIANT(cpu_fill_matrix)(struct ops *table);
void CPU_VARIANT(cpu_fill_operand)(struct ops *table);
void CPU_VARIANT(cpu_fill_optimizer)(struct ops *table);
void CPU_VARIANT(cpu_fill_rmsnorm)(struct ops *table);
void CPU_VARIANT(cpu_fill_router)(struct ops *table);
void CPU_VARIANT(cpu_fill_rows)(struct ops *table);
void CPU_VARIANT(cpu_fill_softmax)(struct ops *table);
void CPU_VARIANT(cpu_fill_top_k)(struct ops *table);
void CPU_VARIANT(cpu_fill)(struct ops *table); /* all of the above */
#endif

/* ops_cpu_open with every choice open to tests. */
struct cpu_options {
    enum ops_precision precision;
    int threads;         /* 0 = all cores */
    enum cpu_isa isa;    /* at most what the processor has: cpu_isa_best() */
    int64_t serial_work; /* operations of less stay on the caller; CPU_SERIAL_WORK */
    int64_t wide_max;    /* 16-bit matrices of at most so many elements are kept as f32 */
    /* How products are made where both sides of a matrix are more than panels_min (panels.h), of the precision's values;
     * NULL: by the library, in f32. */
    const struct panels_form *form;
    int64_t panels_min; /* CPU_PANELS_MIN */
};
/* Whether the matmul library uses an instruction set. It asks the processor, the system (AMX needs its leave) and
 * DNNL_MAX_CPU_ISA: one limit for it and for us. */
bool cpu_library_uses(dnnl_cpu_isa_t isa);
enum cpu_isa cpu_isa_best(void);
int cpu_open(const struct cpu_options *options, struct ops **ret, struct bl_error *err);

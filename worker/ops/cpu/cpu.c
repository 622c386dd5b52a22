/* worker/ops/cpu/cpu.c - opening the CPU backend, its memory, and the choice of instruction set. */
#include "worker/ops/cpu/cpu.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef CPU_X86
#include <immintrin.h>
#endif

#include "common/limits.h"
#include "worker/ops/cpu/panels.h"

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20, HUGE_FROM = 32 << 20 };

/* Large buffers lie on huge pages where the kernel gives some: clearing and mapping gigabytes 4 KiB at a
 * time took a third of a worker's start. */
void *cpu_alloc(struct cpu *cpu, enum ops_use use, size_t bytes)
{
    if (cpu->dry)
        return ops_dry_alloc(cpu->dry, use, bytes);
    size_t rounded, unit = bytes >= HUGE_FROM ? HUGE_PAGE : CACHE_LINE;
    if (!bl_add(bytes, unit, &rounded))
        return NULL;
    rounded &= ~(unit - 1);
    void *p = aligned_alloc(unit, rounded);
    if (p && unit == HUGE_PAGE)
        madvise(p, rounded, MADV_HUGEPAGE); /* a request: without it all works as well */
    return p;
}

void cpu_free(struct cpu *cpu, void *memory)
{
    if (cpu->dry)
        ops_dry_free(cpu->dry, memory);
    else
        free(memory);
}

void cpu_failed(struct cpu *cpu, const struct bl_error *err)
{
    if (!cpu->failure.code)
        cpu->failure = *err;
}

void *cpu_scratch(struct cpu *cpu, enum cpu_scratch_slot slot, size_t bytes)
{
    if (bytes <= cpu->scratch[slot].bytes)
        return cpu->scratch[slot].memory;
    cpu_free(cpu, cpu->scratch[slot].memory);
    cpu->scratch[slot].bytes = 0;
    cpu->scratch[slot].memory = cpu_alloc(cpu, OPS_SCRATCH, bytes);
    if (cpu->scratch[slot].memory) {
        cpu->scratch[slot].bytes = bytes;
    } else {
        struct bl_error err;
        bl_fail(&err, BL_ENOMEM, "no memory for %zu bytes of scratch", bytes);
        cpu_failed(cpu, &err);
    }
    return cpu->scratch[slot].memory;
}

void *cpu_scratch_threads(struct cpu *cpu, enum cpu_scratch_slot slot, size_t bytes, size_t *stride)
{
    *stride = (bytes + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1);
    return cpu_scratch(cpu, slot, *stride * (size_t)cpu->threads);
}

static int cpu_ops_alloc(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    void *p = cpu_alloc(cpu_of(self), OPS_ARRAYS, bytes);
    if (!p)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes on the device", bytes);
    *ret = p;
    return 0;
}

/* Large buffers are pages of their own: given back to the kernel, they are zero when they are touched
 * next, which for gigabytes is later and cheaper than writing zeros. */
static int cpu_ops_alloc_zero(struct ops *self, size_t bytes, void **ret, struct bl_error *err)
{
    BL_TRY(cpu_ops_alloc(self, bytes, ret, err));
    if (self->dry) /* nothing is there to be written to */
        return 0;
    size_t pages = bytes & ~(size_t)(HUGE_PAGE - 1);
    char *p = *ret;
    if (bytes < HUGE_FROM || madvise(p, pages, MADV_DONTNEED) < 0)
        pages = 0;
    memset(p + pages, 0, bytes - pages);
    return 0;
}

static void cpu_release(struct ops *self, void *p)
{
    cpu_free(cpu_of(self), p);
}

/* By several threads where memory is touched for the first time: mapping it takes longer than copying. */
static void cpu_copy(struct ops *self, void *y, const void *x, size_t bytes)
{
    enum { PIECE = 1 << 20 };
    int threads = bytes > 2 * PIECE ? cpu_of(self)->threads : 1;
#pragma omp parallel for num_threads(threads)
    for (size_t at = 0; at < bytes; at += PIECE)
        memcpy((char *)y + at, (const char *)x + at, bytes - at < PIECE ? bytes - at : PIECE);
}

/* Past the caches: reading what is overwritten would take most of the time. p: 16-byte aligned. */
static void clear_piece(char *p, size_t bytes)
{
    size_t at = 0;
#ifdef CPU_X86
    for (; at + 16 <= bytes; at += 16)
        _mm_stream_si128((__m128i *)(void *)(p + at), _mm_setzero_si128());
    _mm_sfence();
#endif
    memset(p + at, 0, bytes - at);
}

static void cpu_zero(struct ops *self, void *p, size_t bytes)
{
    enum { PIECE = 1 << 20, MUCH = 16 << 20 };
    if (bytes < MUCH || (uintptr_t)p % 16) {
        if (bytes)
            memset(p, 0, bytes);
        return;
    }
#pragma omp parallel for num_threads(cpu_of(self)->threads)
    for (size_t at = 0; at < bytes; at += PIECE)
        clear_piece((char *)p + at, bytes - at < PIECE ? bytes - at : PIECE);
}

static int cpu_sync(struct ops *self, struct bl_error *err)
{
    const struct bl_error *failure = &cpu_of(self)->failure;
    if (failure->code && err)
        *err = *failure;
    return -failure->code;
}

static void cpu_act_from_f32(struct ops *self, act *y, const float *x, int64_t count)
{
    cpu_copy(self, y, x, (size_t)count * sizeof(float));
}

static void cpu_act_to_f32(struct ops *self, float *y, const act *x, int64_t count)
{
    cpu_copy(self, y, x, (size_t)count * sizeof(float));
}

static void cpu_close(struct ops *self)
{
    struct cpu *cpu = cpu_of(self);
    for (int i = 0; i < CPU_SCRATCH_COUNT; i++)
        cpu_free(cpu, cpu->scratch[i].memory);
    if (cpu->dry)
        ops_dry_destroy(cpu->dry);
    free(cpu);
}

void cpu_fill_plain(struct ops *table);
#ifdef CPU_X86
void cpu_fill_avx2(struct ops *table);
void cpu_fill_avx512(struct ops *table);
#endif

static const struct {
    const char *name;
    void (*fill)(struct ops *table);
} isas[CPU_ISA_COUNT] = {
    [CPU_PLAIN] = {"plain", cpu_fill_plain},
#ifdef CPU_X86
    [CPU_AVX2] = {"avx2", cpu_fill_avx2},
    [CPU_AVX512] = {"avx512", cpu_fill_avx512},
#endif
};

bool cpu_library_uses(dnnl_cpu_isa_t isa)
{
    return (dnnl_get_effective_cpu_isa() & isa) == isa;
}

enum cpu_isa cpu_isa_best(void)
{
#ifdef CPU_X86
    __builtin_cpu_init();
    if (!cpu_library_uses(dnnl_cpu_isa_avx2) || !__builtin_cpu_supports("fma"))
        return CPU_PLAIN;
    return cpu_library_uses(dnnl_cpu_isa_avx512_core) ? CPU_AVX512 : CPU_AVX2;
#else
    return CPU_PLAIN;
#endif
}

/* How large products are made: what multiplies fastest here. NULL: by the library, in f32. A function of the
 * processor and the system alone, so that equal ones give equal results. */
static const struct panels_form *form_here(enum ops_precision precision)
{
    if (precision == OPS_F32)
        return amx_f32_form();
    const struct panels_form *amx = amx_form();
    return amx ? amx : bfp_form();
}

void ops_cpu_kind(char *ret, size_t size)
{
    static const struct {
        dnnl_cpu_isa_t isa;
        const char *name;
    } names[] = {{dnnl_cpu_isa_avx512_core_amx, "amx"},
                 {dnnl_cpu_isa_avx512_core_bf16, "avx512-bf16"},
                 {dnnl_cpu_isa_avx512_core_vnni, "avx512-vnni"},
                 {dnnl_cpu_isa_avx512_core, "avx512"},
                 {dnnl_cpu_isa_avx2_vnni, "avx2-vnni"},
                 {dnnl_cpu_isa_avx2, "avx2"},
                 {dnnl_cpu_isa_avx, "avx"},
                 {dnnl_cpu_isa_all, "any"}};
    const dnnl_version_t *version = dnnl_version();
    const struct panels_form *form = form_here(OPS_BF16);
    int i = 0;
    while (!cpu_library_uses(names[i].isa))
        i++;
    snprintf(ret, size, "%s, oneDNN %d.%d.%d %s%s%s, L1 %ld, L2 %ld KiB", isas[cpu_isa_best()].name,
             version->major, version->minor, version->patch, names[i].name, form ? ", " : "",
             form ? form->name : "", sysconf(_SC_LEVEL1_DCACHE_SIZE) / 1024,
             sysconf(_SC_LEVEL2_CACHE_SIZE) / 1024);
}

int cpu_open(const struct cpu_options *options, struct ops **ret, struct bl_error *err)
{
    BL_ASSERT(options->threads >= 0 && options->isa <= cpu_isa_best());
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return bl_fail(err, BL_ENOMEM, "no memory for the CPU backend");
    cpu->isa = options->isa;
    cpu->serial_work = options->serial_work;
    cpu->wide_max = options->wide_max;
    cpu->form = options->form;
    cpu->panels_min = options->panels_min;
    cpu->threads = options->threads ? options->threads : omp_get_num_procs();
    snprintf(cpu->name, sizeof cpu->name, "cpu: %s, %s%s%s", isas[options->isa].name,
             options->precision == OPS_F32 ? "f32" : "bf16 weights", cpu->form ? ", " : "",
             cpu->form ? cpu->form->name : "");
    cpu->ops = (struct ops){.name = cpu->name,
                            .precision = options->precision,
                            .act_bytes = sizeof(float),
                            .score_multiple = 1,
                            .rows_at_once = 4096,
                            .close = cpu_close,
                            .alloc = cpu_ops_alloc,
                            .alloc_zero = cpu_ops_alloc_zero,
                            .release = cpu_release,
                            .copy_in = cpu_copy,
                            .copy_out = cpu_copy,
                            .copy = cpu_copy,
                            .zero = cpu_zero,
                            .sync = cpu_sync,
                            .act_from_f32 = cpu_act_from_f32,
                            .act_to_f32 = cpu_act_to_f32};
    isas[options->isa].fill(&cpu->ops);
    omp_set_num_threads(1); /* of this thread: see Threads in cpu.h */
    *ret = &cpu->ops;
    return 0;
}

int ops_cpu_open(enum ops_precision precision, int threads, struct ops **ret, struct bl_error *err)
{
    const struct cpu_options options = {.precision = precision,
                                        .threads = threads,
                                        .isa = cpu_isa_best(),
                                        .serial_work = CPU_SERIAL_WORK,
                                        .wide_max = BL_OPS_WIDE_MAX,
                                        .form = form_here(precision),
                                        .panels_min = CPU_PANELS_MIN};
    return cpu_open(&options, ret, err);
}

/* tests/unit/ops_cpu.c - the CPU as the backend under test: each instruction set of this processor, with
 * several numbers of threads. */
#include "tests/unit/ops.h"

static const int threads[] = {1, 2, 3, 2};

static int open_cpu(struct cpu_options options, int variant, int repeat, struct ops **ret,
                    struct bl_error *err)
{
    options.isa = (enum cpu_isa)variant;
    options.threads = threads[repeat];
    return cpu_open(&options, ret, err);
}

/* The forms are asked for once: each time, they ask the library and the system. */
struct ops_backend ops_backend(void)
{
    static struct ops_backend backend;
    if (!backend.open)
        backend = (struct ops_backend){.variants = (int)cpu_isa_best() + 1,
                                       .repeats = (int)COUNT(threads),
                                       .bfp = bfp_form(),
                                       .amx = amx_form(),
                                       .amx_f32 = amx_f32_form(),
                                       .open = open_cpu};
    return backend;
}

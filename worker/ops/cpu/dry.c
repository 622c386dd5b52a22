/* worker/ops/cpu/dry.c - the CPU backend without its arithmetic (worker/ops/dry.h): operations that need working memory ask for
 * it and return, all others do nothing. */
#include "worker/ops/cpu/cpu.h"

int ops_cpu_dry_open(enum ops_precision precision, int threads, struct ops **ret,
                     struct bl_error *err)
{
    struct ops *ops = NULL;
    BL_TRY(ops_cpu_open(precision, threads, &ops, err));
    cpu_of(ops)->dry = ops->dry = ops_dry_create();
    if (!ops->dry) {
        ops_free(&ops);
        return bl_fail(err, BL_ENOMEM, "no memory to count memory");
    }
    ops_dry_fill(ops);
    *ret = ops;
    return 0;
}

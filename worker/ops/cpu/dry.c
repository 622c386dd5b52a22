/* worker/ops/cpu/dry.c - the CPU backend without its arithmetic (worker/ops/dry.h): operations that need working memory ask for
 * it and return, all others do nothing. */
#include "worker/ops/cpu/cpu.h"

int ops_cpu_dry_open(enum ops_precision precision, int threads, struct ops **ret,
                     struct bl_error *err)
{
    struct ops_dry *dry = ops_dry_create();
    if (!dry)
        return bl_fail(err, BL_ENOMEM, "no memory to count memory");
    int rc = ops_cpu_open(precision, threads, ret, err);
    if (rc < 0) {
        ops_dry_destroy(dry);
        return rc;
    }
    cpu_of(*ret)->dry = (*ret)->dry = dry;
    ops_dry_fill(*ret);
    return 0;
}

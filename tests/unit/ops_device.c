/* tests/unit/ops_device.c - the device that BLIPREN_OPS names (cuda:0) as the backend under test: f32, then
 * bf16, each case twice, with inputs drawn from the seed BLIPREN_SEED. */
#include "tests/unit/ops.h"

/* A device takes long to open: it stays open, and closing it does nothing. */
static void keep(struct ops *ops)
{
}

static int open_device(struct cpu_options options, int variant, int repeat, struct ops **ret,
                       struct bl_error *err)
{
    static struct ops *opened[2];
    /* References of the bf16 precision have rounded weights. */
    const bool narrow = variant == 1 || options.precision == OPS_BF16;
    struct ops_device device;
    if (!opened[narrow]) {
        BL_TRY(ops_device_choose(getenv("BLIPREN_OPS"), &device, err));
        BL_TRY(ops_open(&device, narrow ? OPS_BF16 : OPS_F32, 1, &opened[narrow], err));
        opened[narrow]->close = keep;
    }
    *ret = opened[narrow];
    return 0;
}

struct ops_backend ops_backend(void)
{
    const char *seed = getenv("BLIPREN_SEED");
    return (struct ops_backend){.variants = 2,
                                .repeats = 2,
                                .short_values = true,
                                .seed = seed ? strtoull(seed, NULL, 10) : 0,
                                .open = open_device};
}

/* tests/unit/engine_digest_test.c - the computing thread on a device that fails when it is told to. */
#include "tests/unit/unit.h"

#include <sys/stat.h>
#include <unistd.h>

#include "common/data/dataset.h"
#include "tests/unit/folder.h"
#include "worker/engine.h"
#include "worker/ops/plugin.h"

/* -- the CPU, whose sync fails ---------------------------------------------------------------- */

static bool sync_fails; /* set while the engine's thread waits */
static int (*cpu_sync)(struct ops *, struct bl_error *);

static int sync_or_fail(struct ops *self, struct bl_error *err)
{
    if (__atomic_load_n(&sync_fails, __ATOMIC_SEQ_CST))
        return bl_fail(err, BL_EDEVICE, "the device is gone");
    return cpu_sync(self, err);
}

static int open_failing(int index, enum ops_precision precision, struct ops **ret,
                        struct bl_error *err)
{
    BL_TRY(ops_open(&(struct ops_device){0}, precision, 1, ret, err));
    cpu_sync = (*ret)->sync;
    (*ret)->sync = sync_or_fail;
    return 0;
}

static void name_kind(int index, char *ret, size_t size)
{
    snprintf(ret, size, "failing");
}

static const struct ops_plugin failing = {.kind = name_kind, .open = open_failing};
static const struct ops_device device = {.plugin = &failing};

/* -- the engine of a run ---------------------------------------------------------------------- */

static struct config *config;
static struct dataset *dataset;
static struct engine *engine;
static int published;

static void publish(void *context, uint64_t generation, const char *key, const void *value,
                    size_t size)
{
    __atomic_add_fetch(&published, 1, __ATOMIC_SEQ_CST);
}

static void wake(void *context)
{
}

static struct engine_event next_event(void)
{
    struct engine_event event;
    while (!engine_next(engine, &event))
        usleep(1000);
    return event;
}

static void make_dataset(void)
{
    struct bl_error err;
    assert_int_equal(mkdir(inside("data"), 0777), 0);
    assert_ok(bl_file_write(inside("data/0.jpg"), "no image", 8, &err), err);
    assert_ok(bl_file_write(inside("data/0.txt"), "a ball", 6, &err), err);
    assert_ok(dataset_prepare(config, NULL, NULL, &dataset, NULL, &err), err);
}

static int begin(void **state)
{
    struct bl_error err = {0};
    char yaml[1024];
    const char *source = getenv("BLIPREN_SOURCE");
    make_folder(state);
    int size = snprintf(yaml, sizeof yaml,
                        "run_dir: run\nvision: {path: %s/deploy/demo/models/vision}\n"
                        "llm: {path: %s/deploy/demo/models/llm}\ntrain: {steps: 1}\n"
                        "data: {source: data}\n",
                        source, source);
    assert_ok(config_parse(yaml, (size_t)size, "run.yaml", folder, &config, &err), err);
    make_dataset();
    struct engine_options options = {.kind = BL_KIND_TRAIN,
                                     .config = config,
                                     .dataset = dataset,
                                     .cache_tower = "",
                                     .data_fingerprint = "",
                                     .device = &device,
                                     .threads = 1,
                                     .comm_host = "127.0.0.1",
                                     .patience_ms = 60000,
                                     .publish = publish,
                                     .wake = wake};
    sync_fails = false;
    published = 0;
    assert_ok(engine_open(&options, &engine, &err), err);
    struct engine_event event = next_event();
    assert_ok(event.kind == ENGINE_OPENED ? 0 : -1, event.error);
    return 0;
}

static int end(void **state)
{
    engine_close(&engine);
    dataset_free(&dataset);
    config_free(&config);
    return remove_folder(state);
}

/* -- a digest that cannot be computed --------------------------------------------------------- */

static void a_state_without_a_digest_is_not_reported_as_a_state(void **state)
{
    engine_form(engine, 1,
                &(struct engine_forming){
                    .world = 2, .source = -1, .checkpoint = ""}); /* the other rank never comes */
    while (!__atomic_load_n(&published, __ATOMIC_SEQ_CST))
        usleep(1000);
    __atomic_store_n(&sync_fails, true, __ATOMIC_SEQ_CST);
    engine_abort(engine, 1);
    struct engine_event event = next_event();
    if (event.kind == ENGINE_FAILED) /* of FORM, if it was told before the abort */
        event = next_event();
    assert_int_equal(event.kind, ENGINE_BROKEN);
    assert_string_equal(event.error.text, "the device is gone");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, end)
UNIT_MAIN(CASE(a_state_without_a_digest_is_not_reported_as_a_state))

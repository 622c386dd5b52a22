/* worker/ops/device.c - which device computes, and the module that drives it. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/ops/dry.h"
#include "worker/ops/plugin.h"

/* The module that BLIPREN_CUDA names, where tests put one without a GPU; else the one beside this
 * program, as in a build folder or one made to be carried; else the installed one. */
static void find_module(char *ret, size_t size)
{
    const char *named = getenv("BLIPREN_CUDA");
    if (named) {
        snprintf(ret, size, "%s", named);
        return;
    }
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program);
    if (length > 0 && length < (ssize_t)sizeof program) {
        program[length] = 0;
        snprintf(ret, size, "%.*s/%s", (int)(strrchr(program, '/') - program), program,
                 OPS_PLUGIN_FILE);
        if (access(ret, R_OK) == 0)
            return;
    }
    snprintf(ret, size, "%s/%s", OPS_PLUGIN_FOLDER, OPS_PLUGIN_FILE);
}

static void *open_module(struct bl_error *err)
{
    char path[PATH_MAX + sizeof OPS_PLUGIN_FILE];
    find_module(path, sizeof path);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module)
        return module;
    bl_fail(err, BL_EDEVICE, "the CUDA backend cannot be loaded: %s", dlerror());
    bl_error_remedy(err, "install the CUDA 13 runtime libraries, or use --device cpu");
    return NULL;
}

/* Never closed: CUDA registers exit handlers. */
static int load(const struct ops_plugin **ret, struct bl_error *err)
{
    static const struct ops_plugin *loaded;
    if (!loaded) {
        void *module = open_module(err);
        if (!module)
            return -BL_EDEVICE;
        const struct ops_plugin *(*get)(void) = NULL;
        *(void **)(&get) = dlsym(module, OPS_PLUGIN_FUNCTION);
        const struct ops_plugin *plugin = get ? get() : NULL;
        if (!plugin || strcmp(plugin->version, BLIPREN_VERSION) != 0 ||
            plugin->ops_size != sizeof(struct ops)) {
            bl_fail(err, BL_EDEVICE, "%s is of another version than this program, " BLIPREN_VERSION,
                    OPS_PLUGIN_FILE);
            return bl_error_remedy(err, "install both from one build");
        }
        loaded = plugin;
    }
    *ret = loaded;
    return 0;
}

static int find_device(int index, struct ops_device *ret, struct bl_error *err)
{
    int count = 0;
    struct ops_device device = {.index = index};
    BL_TRY(load(&device.plugin, err));
    BL_TRY(device.plugin->count(&count, err));
    if (index >= count) {
        bl_fail(err, BL_EDEVICE, "cuda:%d does not exist: this machine has %d", index, count);
        return bl_error_remedy(err, "devices are numbered from 0 (nvidia-smi lists them)");
    }
    *ret = device;
    return 0;
}

/* Launchers of one process per GPU number the processes of a host. */
static int local_rank(void)
{
    static const char *const names[] = {"LOCAL_RANK", "SLURM_LOCALID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *text = getenv(names[i]);
        if (text && *text)
            return atoi(text);
    }
    return 0;
}

int ops_device_count(void)
{
    const struct ops_plugin *plugin = NULL;
    int count = 0;
    if (load(&plugin, NULL) < 0 || plugin->count(&count, NULL) < 0)
        return 0;
    return count;
}

int ops_device_choose(const char *text, struct ops_device *ret, struct bl_error *err)
{
    int index, end = 0;
    *ret = (struct ops_device){0};
    if (!text || strcmp(text, "auto") == 0) {
        struct bl_error why;
        int count = ops_device_count();
        if (find_device(count ? local_rank() % count : 0, ret, &why) < 0)
            snprintf(ret->fallback, sizeof ret->fallback, "%.255s", why.text);
        return 0;
    }
    if (strcmp(text, "cpu") == 0)
        return 0;
    if (sscanf(text, "cuda:%4d%n", &index, &end) == 1 && index >= 0 && !text[end])
        return find_device(index, ret, err);
    bl_fail(err, BL_EUSAGE, "expected auto, cpu or cuda:N, found \"%.50s\"", text);
    return bl_error_key(err, "--device");
}

void ops_device_kind(const struct ops_device *device, char *ret, size_t size)
{
    if (device->plugin)
        device->plugin->kind(device->index, ret, size);
    else
        ops_cpu_kind(ret, size);
}

int ops_open(const struct ops_device *device, enum ops_precision precision, int threads,
             struct ops **ret, struct bl_error *err)
{
    if (device->plugin)
        return device->plugin->open(device->index, precision, ret, err);
    return ops_cpu_open(precision, threads, ret, err);
}

int ops_dry_open(const char *text, enum ops_precision precision, int threads, struct ops **ret,
                 int64_t *ret_total, struct bl_error *err)
{
    struct ops_device device = {0};
    bool any_gpu = text && strcmp(text, "cuda") == 0;
    *ret_total = 0;
    if (any_gpu)
        BL_TRY(load(&device.plugin, err));
    else
        BL_TRY(ops_device_choose(text, &device, err));
    if (!device.plugin)
        return ops_cpu_dry_open(precision, threads, ret, err);
    if (!any_gpu)
        *ret_total = device.plugin->memory(device.index);
    return device.plugin->open_dry(precision, ret, err);
}

void ops_free(struct ops **ops)
{
    if (*ops)
        (*ops)->close(*ops);
    *ops = NULL;
}

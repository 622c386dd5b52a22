/* coordinator/loop_embed_plan.c - what `embed --plan` shows: images, bytes, how long embedding takes, and what will bound a
 * training from the cache. Rates are measured here and now. */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/file.h"
#include "common/program.h"
#include "common/log.h"
#include "coordinator/estimate.h"
#include "coordinator/loop_state.h"
#include "coordinator/progress.h"

#define READ_BYTES (64 << 20)

/* Writes a file of READ_BYTES to its disk, drops it from memory, and reads it. */
static bool read_rate_of(int fd, char *buffer, double *ret)
{
    for (size_t at = 0; at < READ_BYTES; at++)
        buffer[at] = (char)(at * 2654435761u >> 24);
    for (size_t at = 0; at < READ_BYTES;) {
        ssize_t n = write(fd, buffer + at, READ_BYTES - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    if (fsync(fd) < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0 ||
        lseek(fd, 0, SEEK_SET) < 0)
        return false;
    double began = bl_now_s();
    for (size_t at = 0; at < READ_BYTES;) {
        ssize_t n = read(fd, buffer + at, READ_BYTES - at);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    *ret = READ_BYTES / (bl_now_s() - began);
    return true;
}

/* Bytes a second that the folder's file system gives beyond the page cache; 0: unknown. */
static double read_rate(const char *folder)
{
    char path[4096];
    double rate = 0;
    bl_autofree char *buffer = malloc(READ_BYTES);
    if (!buffer || bl_path_join(path, sizeof path, folder, "measure.tmp", NULL) < 0)
        return 0;
    bl_autofd int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return 0;
    unlink(path);
    return read_rate_of(fd, buffer, &rate) ? rate : 0;
}

/* Whether what is read there comes over a network. */
static bool is_remote(const char *folder)
{
    static const uint32_t magic[] = {0x6969 /* NFS */,       0xFF534D42 /* CIFS */,
                                     0xFE534D42 /* SMB 2 */, 0x0BD00BD0 /* Lustre */,
                                     0x00C36400 /* Ceph */,  0x47504653 /* GPFS */};
    struct statfs fs;
    if (statfs(folder, &fs) < 0)
        return false;
    for (size_t i = 0; i < sizeof magic / sizeof *magic; i++)
        if ((uint32_t)fs.f_type == magic[i])
            return true;
    return false;
}

static void show_rates(const struct loop *l, uint64_t missing, uint64_t image_bytes,
                       const struct estimate_rates *rates)
{
    char time[32];
    double disk = read_rate(l->config->cache.path) / (double)image_bytes;
    const char *from = is_remote(l->config->cache.path) ? "wire" : "disk";
    progress_duration(time, sizeof time, (double)missing / rates->tower);
    printf("time      %s with one worker like this machine: its vision tower gives %.3g images/s\n",
           time, rates->tower);
    if (disk <= 0) {
        printf("bound     unknown: what %s gives could not be measured\n", from);
        return;
    }
    printf(
        "bound     by %s: one worker's steps take %.3g images/s, %s gives %.3g to all workers that "
        "read here; what\n          memory holds is not read again, and ids alone go from loaders "
        "to workers\n",
        disk < rates->step ? from : "compute", rates->step, from, disk);
}

int loop_embed_show_plan(const struct loop *l, uint64_t image_bytes, uint64_t free_bytes,
                         struct bl_error *err)
{
    uint64_t missing = l->embed.total - l->embed.found;
    char programs[4096], worker[4096];
    struct estimate_rates rates;
    printf("images    %" PRIu64 " distinct, %" PRIu64 " embedded already\n", l->embed.total,
           l->embed.found);
    printf("files     %u of at most %lld images, %.3g MB each\n",
           bl_plan_micro_batches(&l->plan, BL_KIND_EMBED), (long long)l->config->cache.shard_images,
           (double)image_bytes * (double)l->config->cache.shard_images / 1e6);
    printf("bytes     %.3g GB, of which %.3g GB are to be written; %.3g GB are free in %s\n",
           (double)(l->embed.total * image_bytes) / 1e9, (double)(missing * image_bytes) / 1e9,
           (double)free_bytes / 1e9, l->config->cache.path);
    printf("training  reads %.3g MB an image, %.3g MB a step of %lld, from %s unless memory "
           "holds it\n",
           (double)image_bytes / 1e6,
           (double)image_bytes * (double)l->config->train.global_batch / 1e6,
           (long long)l->config->train.global_batch,
           is_remote(l->config->cache.path) ? "the network" : "disk");
    fflush(stdout);
    BL_TRY(program_folder(programs, sizeof programs, err));
    BL_TRY(bl_path_join(worker, sizeof worker, programs, "blipren-worker", err));
    BL_TRY(estimate_measure(worker, l->options->yaml, dataset_mean_length(l->dataset),
                            l->config->threads, &rates, err));
    show_rates(l, missing, image_bytes, &rates);
    return 0;
}

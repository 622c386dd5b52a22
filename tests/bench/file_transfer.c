/* tests/bench/file_transfer.c - a checkpoint of gigabytes to and from a coordinator's file service, as a worker that does not see the run
 * folder sends and fetches it.
 *
 *   file_transfer make FROM TO MB                       a copy of the checkpoint FROM whose Q-Former has MB megabytes of noise
 *   file_transfer put|get ENDPOINT TOKEN RUN PEER PATIENCE_MS CHECKPOINT FOLDER [KEYS]
 *                                                       TOKEN, RUN, PEER: hexadecimal; FOLDER: to send, or (get) to compare with
 *
 * put and get print one line of JSON: seconds, megabytes and megabytes a second, processor seconds, and the process's highest memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/file.h"
#include "common/file_hash.h"
#include "common/models/checkpoint.h"
#include "common/random.h"
#include "proto/files.h"

#define LARGE "qformer.safetensors"

static int write_noise(const char *path, uint64_t megabytes, char ret_hex[65], struct bl_error *err)
{
    bl_autowriter struct bl_file_writer writer = {.fd = -1};
    bl_autofree uint64_t *piece = malloc(1 << 20);
    uint8_t hash[32];
    BL_ASSERT(piece != NULL);
    BL_TRY(bl_file_writer_open(&writer, path, err));
    bl_file_writer_hash(&writer);
    for (uint64_t n = 0; n < megabytes; n++) {
        for (uint64_t i = 0; i < (1 << 20) / sizeof *piece; i++)
            piece[i] = bl_mix64(n, i);
        BL_TRY(bl_file_writer_write(&writer, piece, 1 << 20, err));
    }
    bl_sha256_end(&writer.hash, hash);
    bl_hex(hash, sizeof hash, ret_hex);
    return bl_file_writer_commit(&writer, err);
}

static int make(const char *from, const char *to, uint64_t megabytes, struct bl_error *err)
{
    struct checkpoint_state state;
    char path[4096], other[4096];
    BL_TRY(checkpoint_state_read(from, &state, err));
    BL_TRY(bl_folder_make(to, err));
    for (int i = 0; i < state.file_count; i++) {
        bl_autofree char *data = NULL;
        size_t size;
        BL_TRY(bl_path_join(path, sizeof path, to, state.files[i].name, err));
        if (!strcmp(state.files[i].name, LARGE)) {
            BL_TRY(write_noise(path, megabytes, state.files[i].sha256, err));
            continue;
        }
        BL_TRY(bl_path_join(other, sizeof other, from, state.files[i].name, err));
        BL_TRY(bl_file_read(other, 1 << 30, &data, &size, err));
        BL_TRY(bl_file_write(path, data, size, err));
    }
    BL_TRY(checkpoint_state_write(to, &state, err));
    checkpoint_state_release(&state);
    return 0;
}

static void unhex(const char *hex, uint8_t *ret, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned byte = 0;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            exit(2);
        ret[i] = (uint8_t)byte;
    }
}

static int compare(const char *fetched, const char *folder, struct bl_error *err)
{
    char path[4096], own[65], theirs[65];
    BL_TRY(bl_path_join(path, sizeof path, fetched, LARGE, err));
    BL_TRY(bl_file_sha256(path, own, err));
    BL_TRY(bl_path_join(path, sizeof path, folder, LARGE, err));
    BL_TRY(bl_file_sha256(path, theirs, err));
    return strcmp(own, theirs) == 0 ? 0 : bl_fail(err, BL_EFORMAT, "it came with other bytes");
}

static void print(double seconds, const char *folder)
{
    struct rusage u;
    struct bl_stamp stamp = {0};
    char path[4096];
    if (bl_path_join(path, sizeof path, folder, LARGE, NULL) == 0)
        bl_file_stamp(path, &stamp, NULL);
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
    double megabytes = (double)stamp.size / 1e6;
    printf("{\"s\": %.2f, \"mb\": %.0f, \"mb_per_s\": %.0f, \"cpu_s\": %.2f, \"peak_mb\": %.1f}\n",
           seconds, megabytes, megabytes / seconds, cpu, (double)u.ru_maxrss / 1024);
}

/* The checkpoint is to be of the step that its name says. */
static int set_step(const char *folder, const char *checkpoint, struct bl_error *err)
{
    struct checkpoint_state state;
    BL_TRY(checkpoint_state_read(folder, &state, err));
    state.step = strtoll(checkpoint + strlen("step-"), NULL, 10);
    int rc = checkpoint_state_write(folder, &state, err);
    checkpoint_state_release(&state);
    return rc;
}

static int transfer(char **arguments, const char *keys, bool put, struct bl_error *err)
{
    struct wire_context *context = NULL;
    struct files *files = NULL;
    struct files_place place = {.peer = strtoull(arguments[3], NULL, 16),
                                .patience_ms = (uint32_t)atoi(arguments[4])};
    const char *checkpoint = arguments[5], *folder = arguments[6];
    char fetched[4096];
    snprintf(place.endpoint, sizeof place.endpoint, "%s", arguments[0]);
    unhex(arguments[1], place.token, sizeof place.token);
    unhex(arguments[2], place.run, sizeof place.run);
    if (put)
        BL_TRY(set_step(folder, checkpoint, err));
    BL_TRY(wire_context_open(keys, &context, err));
    BL_TRY(files_new(context, &files, err));
    files_point(files, &place);
    double begun = bl_now_s();
    int rc = put ? files_put(files, checkpoint, folder, err)
                 : files_get_checkpoint(files, checkpoint, fetched, NULL, err);
    if (rc == 0) {
        print(bl_now_s() - begun, folder);
        rc = put ? 0 : compare(fetched, folder, err);
    }
    files_free(&files);
    wire_context_close(&context);
    return rc;
}

int main(int argc, char **argv)
{
    struct bl_error err = {0};
    int rc = -BL_EUSAGE;
    if (argc == 5 && !strcmp(argv[1], "make"))
        rc = make(argv[2], argv[3], strtoull(argv[4], NULL, 10), &err);
    else if ((argc == 9 || argc == 10) && (!strcmp(argv[1], "put") || !strcmp(argv[1], "get")))
        rc = transfer(argv + 2, argc == 10 ? argv[9] : NULL, !strcmp(argv[1], "put"), &err);
    if (rc < 0)
        fprintf(stderr, "file_transfer: %s: %s\n", err.file, err.text);
    return rc < 0;
}

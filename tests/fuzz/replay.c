/* tests/fuzz/replay.c - runs a fuzz target once on each file named, and on each file of each folder
 * named: the seeds, and every input that once broke it. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "tests/fuzz/fuzz.h"

static int replay_file(const char *path, struct bl_error *err)
{
    bl_autofree char *data = NULL;
    size_t size = 0;
    BL_TRY(bl_file_read(path, 64 << 20, &data, &size, err));
    /* A copy of exactly that size: bl_file_read's NUL behind the end would hide a read beyond it. */
    bl_autofree uint8_t *exact = malloc(size ? size : 1);
    if (!exact)
        return bl_fail(err, BL_ENOMEM, "no memory for %zu bytes", size);
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    return 1;
}

static void close_folder(DIR **folder)
{
    if (*folder)
        closedir(*folder);
}

/* Returns the number of inputs. */
static int replay(const char *path, struct bl_error *err)
{
    if (!bl_path_is_folder(path))
        return replay_file(path, err);
    int count = 0;
    __attribute__((cleanup(close_folder))) DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char inner[4096];
        BL_TRY(bl_path_join(inner, sizeof inner, path, entry->d_name, err));
        if (!bl_path_is_file(inner))
            continue;
        BL_TRY(replay_file(inner, err));
        count++;
    }
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        struct bl_error err = {0};
        int replayed = replay(argv[i], &err);
        if (replayed < 0) {
            char line[1600];
            bl_error_format(&err, line, sizeof line);
            fprintf(stderr, "replay: %s\n", line);
            return 1;
        }
        count += replayed;
    }
    printf("replayed %d inputs\n", count);
    return count > 0 ? 0 : 1;
}

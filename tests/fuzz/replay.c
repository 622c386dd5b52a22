/* tests/fuzz/replay.c - gives each file of the folders named to a fuzz target, once. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "tests/fuzz/fuzz.h"

static int is_file_name(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int replay_file(const char *folder, const char *name, struct bl_error *err)
{
    char path[4096];
    bl_autofree char *data = NULL;
    size_t size;
    BL_TRY(bl_path_join(path, sizeof path, folder, name, err));
    BL_TRY(bl_file_read(path, 64 << 20, &data, &size, err));
    /* A copy of exactly that size, so that a sanitizer sees every byte read beyond it. */
    bl_autofree uint8_t *exact = malloc(size > 0 ? size : 1);
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    return 0;
}

int main(int argc, char **argv)
{
    int replayed = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        int count = scandir(argv[i], &entries, is_file_name, alphasort);
        for (int e = 0; e < count; e++) {
            struct bl_error err;
            if (replay_file(argv[i], entries[e]->d_name, &err) < 0) {
                fprintf(stderr, "%s: %s: %s\n", argv[i], entries[e]->d_name, err.text);
                return 1;
            }
            replayed++;
            free(entries[e]);
        }
        if (count >= 0)
            free(entries);
    }
    printf("%d inputs replayed\n", replayed);
    return replayed > 0 ? 0 : 1;
}

/* common/data/split.c - see split.h. */
#include "common/data/split.h"

#include <string.h>

static const struct {
    enum split_name split;
    const char *word;
} words[] = {
    {SPLIT_TRAIN, "train"},      {SPLIT_TRAIN, "training"}, {SPLIT_VALIDATION, "validation"},
    {SPLIT_VALIDATION, "valid"}, {SPLIT_VALIDATION, "dev"}, {SPLIT_VALIDATION, "val"},
    {SPLIT_TEST, "test"},        {SPLIT_TEST, "testing"},   {SPLIT_TEST, "eval"},
    {SPLIT_TEST, "evaluation"},
};

static bool sets_off(char c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == ' ';
}

/* Whether the folder's name, `size` bytes, has the word with nothing or a separator on each side. */
static bool has_word(const char *name, size_t size, const char *word)
{
    size_t length = strlen(word);
    for (size_t at = 0; at + length <= size; at++)
        if (!memcmp(name + at, word, length) && (at == 0 || sets_off(name[at - 1])) &&
            (at + length == size || sets_off(name[at + length])))
            return true;
    return false;
}

/* The later of `split` and what a part of a path names. */
static enum split_name with_part(enum split_name split, const char *part, size_t size)
{
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].split > split && has_word(part, size, words[i].word))
            split = words[i].split;
    return split;
}

enum split_name split_of_path(const char *path)
{
    enum split_name split = SPLIT_NONE;
    if (strstr(path, "://"))
        return SPLIT_NONE; /* what an address's parts mean is its server's affair */
    for (const char *slash; (slash = strchr(path, '/')); path = slash + 1)
        split = with_part(split, path, (size_t)(slash - path));
    return split;
}

enum split_name split_of_sample(const struct source_sample *sample)
{
    if (!source_is_parquet(sample->file) && !source_is_tar(sample->file))
        return split_of_path(sample->image);
    const char *slash = strrchr(sample->file, '/'), *name = slash ? slash + 1 : sample->file;
    return with_part(split_of_path(sample->file), name, strlen(name));
}

void split_count(const struct source *source, struct split_counts *ret)
{
    *ret = (struct split_counts){0};
    if (!source_in_folders(source)) {
        ret->at[SPLIT_NONE] = source_count(source);
        return;
    }
    for (uint64_t id = 0; id < source_count(source); id++) {
        struct source_sample sample;
        source_place(source, id, &sample);
        ret->at[split_of_sample(&sample)]++;
    }
}

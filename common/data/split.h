/* common/data/split.h - which part of a data set a path belongs to by its folders, as Hugging Face's `datasets` reads them
 * (data_files.py): a folder is named by one of the words, alone or set off by - . _ a blank or a digit, as in val2014. */
#pragma once

#include "common/data/source.h"

enum split_name { SPLIT_NONE, SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLIT_NAMES };

/* By the folders of `path`, not by the file's own name. Where several are named, test comes before validation and that
 * before train, so that nothing is trained on that was set aside. */
enum split_name split_of_path(const char *path);
/* Of an image by its path; of a Parquet file's row by the path and name of that file, such as data/train-00000-of-00004.parquet. */
enum split_name split_of_sample(const struct source_sample *sample);

/* How many samples of a source each split names. */
struct split_counts {
    uint64_t at[SPLIT_NAMES];
};
void split_count(const struct source *source, struct split_counts *ret);

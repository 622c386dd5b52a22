/* common/config/schema_data.c - keys of data: where images and captions are, and which of them are taken. */
#include "common/config/parts.h"

#include <math.h>
#include <string.h>

#include "common/config/schema_rows.h"
#include "common/limits.h"

/* clang-format off */
static const struct config_key keys[] = {
    KEY("data.source", CONFIG_PATH, data.source, NULL,
        "Folder with images and captions; or a Parquet file, or several by a pattern such as data/train-*.parquet. Required unless data.sources is given.", FREE),
    KEY("data.sources", CONFIG_SOURCES, data.sources, "",
        "Several sources, instead of data.source: a list of {source, weight, format, image_column, captions, validation, validation_source}. With weight w (0.000001 to 1000, 1 where not given) an epoch takes round(w n) draws of the source's n training samples: docs/data.md. What an entry does not say is as data.format, data.image_column, data.captions and data.validation say. Folders may move on resume; their number, order, weights and the rest may not change.", INDEX),
    CHOICE("data.format", data.format, LIST("auto", "imagefolder", "pairs", "annotations", "parquet"), "auto",
        "imagefolder: metadata.jsonl or metadata.csv with a file_name column beside or above the images. pairs: NAME.jpg (or another image) beside NAME.txt. annotations: captions_*.json of COCO, captions.txt or *.token.txt of Flickr8k, with the images in folders below. parquet: *.parquet, each row a sample. auto takes what it finds, in this order.", INDEX),
    KEY("data.image_column", CONFIG_TEXT, data.image_column, "auto",
        "Of Parquet: the column of images (bytes, or a struct with bytes and path inside), of their http, https or file URLs, or of their paths below the folder. auto: the first there is of image, img, jpg, url, URL, image_url, file_name.", AUTO, INDEX),
    KEY("data.cache", CONFIG_PATH, data.cache, "auto",
        "Folder in which images from URLs are kept, on each host by itself or shared by all. Several runs may have the same. auto: images in run_dir.", AUTO, FREE),
    INT("data.cache_bytes", data.cache_bytes, 0, 9007199254740991.0, "bytes", "0",
        "Size above which the images in data.cache that were not used for longest are removed, until a tenth is free; 0: never. Runs that share a cache should give the same.", FREE),
    INT("data.host_connections", data.host_connections, 1, 64, "connections", "8",
        "Images that each loader fetches from one host at the same time.", FREE),
    REAL("data.download_timeout_s", data.download_timeout_s, 1, 3600, "seconds", "20",
        "A server that cannot be reached, sends nothing or less than 1 kB/s for so long is given up for this time.", FREE),
    REAL("data.download_patience_s", data.download_patience_s, 0, 1000000, "seconds", "600",
        "A fetch that fails for a passing reason (time-out, no connection, 408, 425, 429, 5xx, cut off) is tried again for so long, with growing pauses and after Retry-After; then the loader ends with an error that names the URL. Such a failure never voids a sample.", FREE),
    BOOL("data.private_redirects", data.private_redirects, "false",
        "Allows servers to redirect to private addresses (this host, its network). Redirects to other schemes than http and https are refused either way.", FREE),
    KEY("data.captions", CONFIG_CAPTIONS, data.captions, "text",
        "List of {column, prefix, join}: columns of the metadata in order of preference, each with the text that comes before its captions; column text without a prefix where not given. join is what stands between prefix and caption: \" \" (the default; white space at the prefix's end is dropped) or \"\" (the prefix counts as it is written, so that it may end in line breaks: \"...\\n\\n\"). A column may hold a text or a list of texts. pairs has that one column.", INDEX),
    CHOICE("data.caption_choice", data.caption_choice, LIST("first", "any"), "first",
        "first: captions of the first column that is not empty. any: captions of all columns. Of several, training draws one anew each epoch; validation takes the first.", INDEX),
    BOOL("data.train_prefix", data.train_prefix, "false",
        "Whether the prefix's tokens are labels too. Otherwise only caption and EOS are."),
    INT("data.min_tokens", data.min_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "1",
        "Captions with fewer tokens (prefix and EOS not counted) are dropped.", INDEX),
    INT("data.max_tokens", data.max_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "128",
        "Captions with more tokens (prefix and EOS not counted) are dropped, never cut.", INDEX),
    KEY("data.keep", CONFIG_PATTERNS, data.keep, "",
        "List of PCRE2 patterns; a caption must match every one of them.", INDEX),
    KEY("data.drop", CONFIG_PATTERNS, data.drop, "",
        "List of PCRE2 patterns; a caption that matches any of them is dropped.", INDEX),
    BOOL("data.deduplicate", data.deduplicate, "true",
        "Drops a caption that the same image (by content) has already had under the same prefix.", INDEX),
    REAL("data.validation", data.validation, 0, 1000000000, NULL, "0.05",
        "Below 1: fraction of the images held out for validation. From 1: their number. Split by image content, so that no image is in both. Unused where data.source has folders of splits, or data.validation_source is given.", INDEX),
    KEY("data.validation_source", CONFIG_PATH, data.validation_source, "",
        "Second folder, of the same format, wholly for validation. Its images are left out of training.", FREE),
    KEY("data.eos", CONFIG_TEXT, data.eos, "auto",
        "Token that ends a caption, appended and trained. auto: eos_token_id of the language model's config.json (of a list, the first).", AUTO, INDEX),
    INT("data.max_pixels", data.max_pixels, 1, 4294836225.0, "pixels", "100000000",
        "Larger pictures are not decoded; their samples are void."),
    INT("data.max_image_bytes", data.max_image_bytes, 1, BL_IMAGE_FILE_BYTES_MAX, "bytes", "134217728",
        "Larger image files are left out. A loader's thread holds one file in memory while it decodes it.", INDEX),
    REAL("data.max_bad_fraction", data.max_bad_fraction, 0, 1, NULL, "0.05",
        "The run does not start when more than this fraction of the samples is lost (no image, no caption, captions that are empty, too long or merge with the prefix), and stops when more than this fraction of those it asked for since it was started could not be read.", FREE),
};
/* clang-format on */

/* Training would write among the images. */
static int check_run_dir(struct reader *r)
{
    const struct config_sources *sources = &r->config->data.sources;
    for (size_t i = 0; i < sources->count; i++)
        if (!strcmp(r->config->run_dir, sources->at[i].source)) {
            FAIL_KEY(r, "run_dir", "expected a folder of its own, found that of data.source%s",
                     sources->written ? "s" : "");
            return bl_error_remedy(r->err, "choose another folder");
        }
    return 0;
}

static int check_data(struct reader *r)
{
    struct config_data *data = &r->config->data;
    if (data->min_tokens > data->max_tokens)
        return FAIL_KEY(r, "data.min_tokens", "expected at most data.max_tokens (%lld), found %lld",
                        (long long)data->max_tokens, (long long)data->min_tokens);
    if (data->validation_source) {
        if (config_given(r, "data.validation") && data->validation != 0) {
            FAIL_KEY(r, "data.validation", "data.validation_source is given as well");
            return bl_error_remedy(r->err, "remove one of them");
        }
        data->validation = 0;
    }
    if (data->validation >= 1 && data->validation != floor(data->validation))
        return FAIL_KEY(r, "data.validation",
                        "expected a fraction below 1 or a whole number of images, found %g",
                        data->validation);
    BL_TRY(config_resolve_sources(r));
    return check_run_dir(r);
}

/* Replaces auto. */
static int resolve_data(struct reader *r)
{
    struct config *config = r->config;
    if (config->data.cache || asprintf(&config->data.cache, "%s/images", config->run_dir) >= 0)
        return 0;
    config->data.cache = NULL;
    return bl_fail(r->err, BL_ENOMEM, "out of memory");
}

const struct config_room config_room_data = {
    .keys = keys,
    .count = sizeof keys / sizeof *keys,
    .check = check_data,
    .resolve = resolve_data,
};

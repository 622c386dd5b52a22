/* common/config/schema_data.c - keys of data: where images and captions are, and which of them are taken. */
#include "common/config/parts.h"

#include <math.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/config/schema_rows.h"
#include "common/limits.h"
#include "common/pattern.h"

/* clang-format off */
static const struct config_key keys[] = {
    KEY("data.source", CONFIG_PATH, data.source, NULL,
        "Folder with images and captions; or a Parquet file, or several by a pattern such as data/train-*.parquet; or WebDataset shards (.tar), likewise; or a data set's name on the Hub: owner/name or owner/name@revision (docs/hub.md).", FREE, DATASET),
    CHOICE("data.format", data.format, LIST("auto", "imagefolder", "pairs", "annotations", "parquet", "webdataset"), "auto",
        "imagefolder: metadata.jsonl or metadata.csv with a file_name column beside or above the images. pairs: NAME.jpg (or another image) beside NAME.txt. annotations: captions_*.json of COCO, captions.txt or *.token.txt of Flickr8k, with the images in folders below. parquet: *.parquet, each row a sample. webdataset: *.tar, in the folder or folders below, the files of one key a sample. auto takes what it finds, in this order.", INDEX),
    KEY("data.image_column", CONFIG_TEXT, data.image_column, "auto",
        "Of Parquet: the column of images (bytes, or a struct with bytes and path inside), of their http, https or file URLs, or of their paths below the folder. auto: the first there is of image, img, jpg, url, URL, image_url, file_name. Of WebDataset: the ending of the file that is the image, such as jpg; auto: the first of a type that is read.", AUTO, INDEX),
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
        "List of {column, prefix, join}: columns of the metadata in order of preference, each with the text that comes before its captions; column text without a prefix where not given. join is what stands between prefix and caption: \" \" (the default; white space at the prefix's end is dropped) or \"\" (the prefix counts as it is written, so that it may end in line breaks: \"...\\n\\n\"). A column may hold a text or a list of texts. pairs has that one column; webdataset the endings of texts (txt, which is also called text) and the fields of KEY.json. With trace, a column of reasoning, open and close, a caption is trained as prefix, open, trace, close, caption (docs/data.md); labels says what of it is trained.", INDEX),
    CHOICE("data.caption_choice", data.caption_choice, LIST("first", "any"), "first",
        "first: captions of the first column that is not empty. any: captions of all columns. Of several, training draws one anew each epoch; validation takes the first.", INDEX),
    BOOL("data.train_prefix", data.train_prefix, "false",
        "Whether the prefix's tokens are labels too. Otherwise only caption and EOS are."),
    INT("data.min_tokens", data.min_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "1",
        "Captions with fewer tokens (prefix and EOS not counted) are dropped.", INDEX),
    INT("data.max_tokens", data.max_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "128",
        "Captions with more tokens (prefix and EOS not counted) are dropped, never cut.", INDEX),
    INT("data.max_trace_tokens", data.max_trace_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "1024",
        "Captions whose trace has more tokens, open and close included, are dropped.", INDEX),
    KEY("data.keep", CONFIG_PATTERNS, data.keep, "",
        "List of PCRE2 patterns; a caption must match every one of them.", INDEX),
    KEY("data.drop", CONFIG_PATTERNS, data.drop, "",
        "List of PCRE2 patterns; a caption that matches any of them is dropped.", INDEX),
    KEY("data.strip", CONFIG_PATTERNS, data.strip, "",
        "List of PCRE2 patterns of openings that say nothing of the image, such as \"(?i)the (image|photo) shows \". What the first of them that matches at a caption's start matches is taken off, and the first letter of what remains is capitalised; every other rule looks at what remains.", INDEX),
    KEY("data.script", CONFIG_TEXT, data.script, "",
        "A Unicode script, such as Latin, Cyrillic or Han: captions with fewer of its letters than data.script_share of all their letters, or without letters, are dropped.", INDEX),
    REAL("data.script_share", data.script_share, 0, 1, NULL, "0.9",
        "Share of a caption's letters that are to be of data.script.", INDEX),
    CHOICE("data.deduplicate", data.deduplicate, LIST("false", "true", "all"), "true",
        "true: drops a caption that the same image (by content) has already had under the same prefix. all: drops a caption that any sample before it has had under the same prefix; captions are compared by their letters alone, without regard to case, white space and forms of characters (Unicode's NFKC_Casefold).", INDEX),
    KEY("data.filters", CONFIG_FILTERS, data.filters, "",
        "List of {column, min, max}: columns of numbers in the metadata or the Parquet file, such as a score. A sample whose number is below min or above max, or that has none, loses its captions. One of min and max may be left out.", INDEX),
    REAL("data.validation", data.validation, 0, 1000000000, NULL, "0.05",
        "Below 1: fraction of the images held out for validation. From 1: their number. Split by image content, so that no image is in both. Unused where data.source has folders of splits, or data.validation_source is given.", INDEX),
    KEY("data.validation_source", CONFIG_PATH, data.validation_source, "",
        "Second folder, of the same format, wholly for validation. Its images are left out of training.", FREE, DATASET),
    KEY("data.eos", CONFIG_TEXT, data.eos, "auto",
        "Token that ends a caption, appended and trained. auto: eos_token_id of the language model's config.json (of a list, the first).", AUTO, INDEX),
    INT("data.max_pixels", data.max_pixels, 1, 4294836225.0, "pixels", "100000000",
        "Larger pictures are not decoded; their samples are void."),
    INT("data.min_side", data.min_side, 1, BL_IMAGE_SIDE_MAX, "pixels", "1",
        "Images of less width or height are not used: their samples are void, which counts as asked for and not against data.max_bad_fraction. A size is known when the image is decoded, so they stay in the count of samples."),
    INT("data.max_image_bytes", data.max_image_bytes, 1, BL_IMAGE_FILE_BYTES_MAX, "bytes", "134217728",
        "Larger image files are left out. A loader's thread holds one file in memory while it decodes it.", INDEX),
    REAL("data.max_bad_fraction", data.max_bad_fraction, 0, 1, NULL, "0.05",
        "The run does not start when more than this fraction of the samples is lost (no image, no caption, captions that are empty, too long or merge with the prefix), and stops when more than this fraction of those it asked for since it was started could not be read.", FREE),
};
/* clang-format on */

/* PCRE2 knows the scripts. */
static int check_script(struct reader *r)
{
    const char *script = r->config->data.script;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    bl_auto(pattern) struct pattern *pattern = NULL;
    char text[80];
    if (!script)
        return 0;
    snprintf(text, sizeof text, "\\p{sc:%.60s}", script);
    if (strlen(script) <= 60 && strspn(script, letters) == strlen(script) &&
        pattern_open(text, &pattern, NULL) == 0)
        return 0;
    FAIL_KEY(r, "data.script", "expected a Unicode script, found \"%.60s\"", script);
    return bl_error_remedy(r->err, "name one as Unicode does: Latin, Cyrillic, Han, Arabic, …");
}

static int check_data(struct reader *r)
{
    struct config_data *data = &r->config->data;
    BL_TRY(check_script(r));
    for (size_t i = 0; i < data->captions.count && data->train_prefix; i++)
        if (data->captions.at[i].labels == CONFIG_LABELS_CAPTION)
            return FAIL_KEY(r, "data.train_prefix",
                            "expected false, since data.captions[%zu] has labels: caption, found "
                            "true",
                            i);
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
    if (r->config->cache.path && data->min_side > 1) {
        FAIL_KEY(r, "data.min_side", "a feature cache does not know how large its images were");
        return bl_error_remedy(r->err, "remove data.min_side or cache.path");
    }
    return 0;
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

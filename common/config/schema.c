/* common/config/schema.c - every key of RUN.yaml. docs/config.md is printed from this table, so a
 * help text is a sentence for the user. */
#include "common/config/schema.h"

#include "common/config/config.h"
#include "common/limits.h"

#define AT(member) offsetof(struct config, member)
#define LIST(...)                                                                                  \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

/* path, member, then what the type needs, fallback, help, and named extras. */
#define KEY(path_, type_, member, fallback_, help_, ...)                                           \
    {                                                                                              \
        .path = path_, .type = type_, .offset = AT(member), .fallback = fallback_, .help = help_,  \
        __VA_ARGS__                                                                                \
    }
#define BOOL(path, member, fallback, help, ...)                                                    \
    KEY(path, CONFIG_BOOL, member, fallback, help, __VA_ARGS__)
#define INT(path, member, min_, max_, unit_, fallback, help, ...)                                  \
    KEY(path, CONFIG_INT, member, fallback, help, .min = min_, .max = max_, .unit = unit_,         \
        ##__VA_ARGS__)
#define REAL(path, member, min_, max_, unit_, fallback, help, ...)                                 \
    KEY(path, CONFIG_REAL, member, fallback, help, .min = min_, .max = max_, .unit = unit_,        \
        ##__VA_ARGS__)
#define CHOICE(path, member, choices_, fallback, help, ...)                                        \
    KEY(path, CONFIG_CHOICE, member, fallback, help, .choices = choices_, ##__VA_ARGS__)

#define FREE .change = CONFIG_FREE
#define TOLD .change = CONFIG_TOLD
#define INDEX .index = true
#define AUTO .may_auto = true

/* clang-format off */
const struct config_key config_keys[] = {
    KEY("run_dir", CONFIG_PATH, run_dir, NULL,
        "Folder of the run: checkpoints, metrics, journal, dataset.index. Made when absent; started again on the same folder, the run resumes.", FREE),
    INT("seed", seed, 0, 9007199254740991.0, NULL, "42",
        "Decides the order of samples, dropout, initial weights, the split and which of several captions is drawn.", INDEX),
    CHOICE("precision", precision, LIST("bf16", "f32"), "bf16",
        "Of frozen weights and matmuls. f32 keeps frozen weights as the files have them. Trainable weights, gradients and moments are f32 either way."),
    INT("threads", threads, 0, BL_THREADS_MAX, "threads", "0",
        "Of one worker; 0 takes all cores it may run on. No result depends on it.", FREE),

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

    KEY("vision.path", CONFIG_PATH, vision.path, NULL,
        "Hugging Face folder of the vision encoder (SigLIP or ViT).", FREE),
    KEY("llm.path", CONFIG_PATH, llm.path, NULL,
        "Hugging Face folder of the language model (Llama family), tokenizer.json included.", FREE),
    CHOICE("llm.bos", llm.bos, LIST("first", "after_image", "none"), "first",
        "Where the BOS token goes, if the tokenizer adds one: before the image's query positions, after them, or nowhere."),

    INT("qformer.width", qformer.width, 1, 65536, NULL, "auto",
        "Width of the Q-Former; auto is the language model's. A projection follows where they differ.", AUTO),
    INT("qformer.queries", qformer.queries, 1, 4096, NULL, "32",
        "Query vectors, which is also the number of positions an image takes in the language model."),
    INT("qformer.layers", qformer.layers, 1, 256, NULL, "8", "Blocks."),
    INT("qformer.heads", qformer.heads, 1, 1024, NULL, "8", "Attention heads; they divide the width."),
    REAL("qformer.dropout", qformer.dropout, 0, 0.99, NULL, "0.1", "Dropout probability in attention and MLP."),

    CHOICE("projector.kind", projector.kind, LIST("normal", "moe"), "normal",
        "normal: one residual MLP. moe: a mixture of experts, routed by image."),
    INT("projector.experts", projector.experts, 2, BL_EXPERTS_MAX, NULL, "4", "Experts of moe."),
    CHOICE("projector.routing", projector.routing, LIST("pooled", "mean", "first"), "pooled",
        "What moe's router looks at: the encoder's pooled vector, the mean of its patches, or its first token."),
    REAL("projector.dropout", projector.dropout, 0, 0.99, NULL, "0.1", "Dropout probability."),
    REAL("projector.balance", projector.balance, 0, 1000, NULL, "0.01",
        "Weight of moe's load-balancing loss over the global batch."),
    REAL("projector.router_z", projector.router_z, 0, 1000, NULL, "0.001", "Weight of moe's router z-loss."),

    CHOICE("cache.dtype", cache.dtype, LIST("f16", "f32", "bf16", "int8"), "f16",
        "Of the features in the cache. f32 trains to the same bits as the images do, the others to within their rounding; int8 has a scale for each token. f16 refuses features beyond 65504.", FREE),
    INT("cache.shard_images", cache.shard_images, 1, BL_MICRO_BATCH_SLOTS_MAX, "images", "64",
        "Images in each file of the cache. One worker writes a file whole, so this is also what an interruption loses.", FREE),
    KEY("cache.path", CONFIG_PATH, cache.path, "",
        "Folder of the feature cache that blipren-coord embed writes; train takes it once it is whole. Workers and loaders see it at the same path.", FREE),

    INT("train.steps", train.steps, 1, BL_STEPS_MAX, "optimizer steps", "auto",
        "Length of the run, and of its schedule. auto: what train.epochs gives. One of the two is required.", AUTO, TOLD),
    REAL("train.epochs", train.epochs, 0, 1e6, NULL, "0",
        "Length of the run in passes over the training samples, rounded up to whole steps; instead of train.steps.", FREE),
    INT("train.global_batch", train.global_batch, 1, BL_GLOBAL_BATCH_MAX, "samples", "256",
        "Samples of one optimizer step, on however many workers."),
    INT("train.micro_batch", train.micro_batch, 1, BL_MICRO_BATCH_SLOTS_MAX, "samples", "auto",
        "Samples that go through the model at once. auto: grain where that is given, else 8, or the global batch where that is smaller.", AUTO, FREE),
    INT("train.grain", train.grain, 1, BL_MICRO_BATCH_SLOTS_MAX, "samples", "auto",
        "Under reproducible, the unit in which gradients are rounded and added; a micro-batch is one grain. auto: the micro-batch.", AUTO),
    BOOL("train.reproducible", train.reproducible, "false",
        "Gradients are added as integers, so that the weights are equal to the last bit for any number of workers and loaders, any interruption and any resume."),
    REAL("train.lr", train.lr, 0, 100, NULL, "0.0001", "Peak learning rate."),
    INT("train.warmup_steps", train.warmup_steps, 0, BL_STEPS_MAX, "optimizer steps", "auto",
        "Linear rise to the peak. auto: 3 % of the steps, rounded up.", AUTO, .auto_value = -1, TOLD),
    CHOICE("train.schedule", train.schedule, LIST("cosine", "constant", "wsd"), "cosine",
        "After warm-up: cosine to the floor, constant, or wsd: constant, then linear to the floor over decay_steps."),
    REAL("train.floor", train.floor, 0, 1, "of the peak", "0.1", "Learning rate at the end of cosine and wsd."),
    INT("train.decay_steps", train.decay_steps, 1, BL_STEPS_MAX, "optimizer steps", "auto",
        "Length of wsd's decay. auto: 20 % of the steps, rounded up.", AUTO, .auto_value = -1, TOLD),
    REAL("train.weight_decay", train.weight_decay, 0, 100, NULL, "0.01", "AdamW's decoupled weight decay."),
    REAL("train.beta1", train.beta1, 0, 0.999999, NULL, "0.9", "AdamW's first moment."),
    REAL("train.beta2", train.beta2, 0, 0.9999999, NULL, "0.999", "AdamW's second moment."),
    REAL("train.eps", train.eps, 1e-30, 1, NULL, "1e-8", "AdamW's epsilon."),
    BOOL("train.decay_norms", train.decay_norms, "true",
        "false spares norms, biases and queries from weight decay."),
    REAL("train.clip", train.clip, 0, 1e9, NULL, "1", "Global gradient norm above which the gradient is scaled down; 0 switches it off."),
    REAL("train.ema", train.ema, 0, 0.999999, NULL, "0",
        "Decay of an exponential moving average of the weights, saved beside them; 0 keeps none."),
    REAL("train.skip_outliers", train.skip_outliers, 0, 1000, "standard deviations", "0",
        "Steps whose gradient norm lies this far above its running mean are skipped and counted; 0 skips only steps that are not finite."),
    KEY("train.init_from", CONFIG_PATH, train.init_from, "",
        "Checkpoint whose weights the run starts from, at step 0.", FREE),
    INT("train.validate_every", train.validate_every, 0, BL_STEPS_MAX, "optimizer steps", "500",
        "0: only at the end.", FREE),
    BOOL("train.validate_at_start", train.validate_at_start, "false", "Validates before the first step too.", FREE),
    INT("train.validation_captions", train.validation_captions, 0, BL_VALIDATION_CAPTIONS_MAX, "captions", "4",
        "Sample captions written at each validation.", FREE),
    INT("train.validation_max_images", train.validation_max_images, 0, 1000000000, "samples", "0",
        "Of the validation set, this many are used; 0 uses all.", FREE),
    INT("train.max_new_tokens", train.max_new_tokens, 1, BL_CAPTION_TOKENS_MAX, "tokens", "64",
        "Length at which a sample caption is broken off.", FREE),
    INT("train.checkpoint_every", train.checkpoint_every, 0, BL_STEPS_MAX, "optimizer steps", "500",
        "0: only at start and end.", FREE),
    INT("train.keep_last", train.keep_last, 1, BL_CHECKPOINTS_KEPT_MAX, "checkpoints", "3", "Older checkpoints are removed.", FREE),
    BOOL("train.keep_best", train.keep_best, "true", "Keeps the checkpoint with the lowest validation loss as well.", FREE),

    INT("cluster.workers_min", cluster.workers_min, 1, BL_WORKERS_MAX, "workers", "1",
        "Training waits until this many are there.", FREE),
    REAL("cluster.patience_s", cluster.patience_s, BL_PATIENCE_S_MIN, BL_PATIENCE_S_MAX, "seconds", "10",
        "After this long without a sign of life a peer is lost. All other waiting times follow from it.", FREE),
    KEY("cluster.bind", CONFIG_TEXT, cluster.bind, "127.0.0.1",
        "Address at which the coordinator listens.", FREE),
    INT("cluster.port", cluster.port, 0, 65535, NULL, "0", "Port there; 0 takes a free one.", FREE),
    KEY("cluster.keys", CONFIG_PATH, cluster.keys, "",
        "Folder with the cluster's keys, which `blipren-coord keygen` makes; an address other than loopback needs it.", FREE),
    BOOL("cluster.insecure", cluster.insecure, "false",
        "Allows an address other than loopback without keys: nothing on the wire is encrypted or authenticated.", FREE),
    INT("cluster.window", cluster.window, 1, BL_WINDOW_MAX, "micro-batches", "4",
        "Micro-batches under way to one worker at a time.", FREE),
    INT("cluster.steps_ahead", cluster.steps_ahead, 1, BL_STEPS_AHEAD_MAX, "optimizer steps", "2",
        "Steps whose data is ordered before the current one is done.", FREE),
    INT("cluster.loader_threads", cluster.loader_threads, 0, BL_THREADS_MAX, "threads", "0",
        "Of each loader that --local starts; 0 takes all cores it may run on. A loader started by hand has --threads.", FREE),
    INT("cluster.loader_capacity", cluster.loader_capacity, 0, BL_LOADER_CAPACITY_MAX, "micro-batches", "0",
        "Micro-batches that each loader of --local holds at most; 0 takes two for each of its threads. A loader started by hand has --capacity.", FREE),

    INT("log.every", log.every, 1, 1000000, "optimizer steps", "10",
        "A line on a screen that is no terminal. metrics.jsonl has every step.", FREE),
};
/* clang-format on */

const size_t config_key_count = sizeof config_keys / sizeof *config_keys;
_Static_assert(sizeof config_keys / sizeof *config_keys <= CONFIG_KEYS_MAX, "raise the constant");

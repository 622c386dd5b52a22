/* loader/main.c - blipren-loader: the process that makes batches, and the subcommands that show what is in them. */
#include <stdio.h>

#include "common/arguments.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/program.h"
#include "loader/commands.h"
#include "loader/fill.h"
#include "loader/inspect.h"
#include "loader/loop.h"

static const char usage[] =
    "usage: blipren-loader --coord tcp://HOST:PORT [options]    joins a run and makes its batches\n"
    "       blipren-loader inspect RUN.yaml                     what the caption rules keep, drop "
    "and train\n"
    "       blipren-loader fetch RUN.yaml                       images at URLs into data.cache, "
    "ahead "
    "of training\n"
    "       blipren-loader tokenize --model DIR                 texts as token ids, and back\n"
    "       blipren-loader preprocess --model DIR IMAGE...      images as the vision model sees "
    "them\n"
    "\n"
    "  --coord URL     where the coordinator listens; several with commas, or a file that has "
    "them\n"
    "  --keys DIR      the cluster's keys (a copy of what `blipren-coord keygen` makes): needed "
    "beyond this machine\n"
    "  --insecure      run without keys: nothing is encrypted or authenticated\n"
    "  --map FROM=TO   folder FROM of run.yaml is TO on this host; may be given several times\n"
    "  --threads N     images decoded at the same time (all cores)\n"
    "  --capacity N    micro-batches it holds at most (two for each thread)\n"
    "  --name TEXT     what it is called in the coordinator's log (host:pid)\n"
    "  --patience S    exit after this many seconds without a coordinator (60)\n"
    "  --grace S       after SIGTERM, keep working for up to this many seconds or until the run "
    "ends (0)\n"
    "  --parent PID    exit when that process exits\n"
    "  --help, --version\n"
    "Each subcommand has its own --help.\n";

static const char inspect_usage[] =
    "usage: blipren-loader inspect RUN.yaml [--html OUT]\n"
    "\n"
    "Counts what the caption rules keep and drop, and why; lengths in tokens; examples token by\n"
    "token, with marks for prefix, label and EOS. Reads as training would, writes nothing.\n"
    "\n"
    "  --html OUT   the same, with thumbnails, as one page for a browser\n";

static const char fetch_usage[] =
    "usage: blipren-loader fetch RUN.yaml\n"
    "\n"
    "Fetches what is at the URLs of data.source and data.validation_source into data.cache, each "
    "URL\n"
    "once, and says at the end what became of them. Ctrl-C stops; the same command resumes. What "
    "is "
    "in\n"
    "the cache is not fetched again; what has failed for good is asked for again. Training "
    "fetches\n"
    "by itself what is not there.\n";

static const char tokenize_usage[] =
    "usage: blipren-loader tokenize --model DIR [options] < TEXTS\n"
    "\n"
    "Prints the token ids of each line.\n"
    "\n"
    "  --model DIR   folder with tokenizer.json\n"
    "  --tokens      one id a line with its token; an empty line after each text\n"
    "  --special     with the ids that the tokenizer adds, such as BOS\n"
    "  --decode      lines of ids to texts; without special tokens, unless --special\n";

static const char preprocess_usage[] =
    "usage: blipren-loader preprocess --model DIR [options] IMAGE...\n"
    "\n"
    "Prints a line for each image: path, width, height (upright), side of the square that the "
    "model\n"
    "takes, SHA-256 of its RGB bytes, and with --into the PNG's path; between tabs.\n"
    "\n"
    "  --model DIR      the vision model's folder\n"
    "  --into FOLDER    also write the squares there, as NAME.png (NAME-2.png for the next of that "
    "name)\n"
    "  --json           a line of JSON for each image: file_name, width, height, side, sha256, "
    "png\n"
    "  --max-pixels N   refuse larger pictures (100000000)\n";

static int wrong_usage(struct bl_error *err, const char *expected)
{
    bl_fail(err, BL_EUSAGE, "expected %s", expected);
    return bl_error_remedy(err, "--help says how this command is used");
}

static int command_load(int argc, char **argv, struct bl_error *err)
{
    __attribute__((cleanup(path_map_release))) struct path_map map = {0};
    struct loader_options options = {.map = &map};
    int64_t threads = 0, capacity = 0, parent = 0, patience_s = 60, grace_s = 0;
    int rest;
    const struct argument table[] = {
        {"--coord", ARGUMENT_TEXT, &options.coordinator, 0, 0},
        {"--name", ARGUMENT_TEXT, &options.name, 0, 0},
        {"--keys", ARGUMENT_TEXT, &options.keys, 0, 0},
        {"--insecure", ARGUMENT_FLAG, &options.insecure, 0, 0},
        {"--threads", ARGUMENT_WHOLE, &threads, 0, 1024},
        {"--map", ARGUMENT_MAP, &map, 0, 0},
        {"--capacity", ARGUMENT_WHOLE, &capacity, 0, BL_LOADER_CAPACITY_MAX},
        {"--patience", ARGUMENT_WHOLE, &patience_s, 1, 1000000},
        {"--grace", ARGUMENT_WHOLE, &grace_s, 0, 1000000},
        {"--parent", ARGUMENT_WHOLE, &parent, 0, 1 << 30},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest) {
        bl_fail(err, BL_EUSAGE, "unexpected argument %.100s", argv[1]);
        return bl_error_remedy(err, "--help says how this program is used");
    }
    if (!options.coordinator)
        return wrong_usage(err, "--coord tcp://HOST:PORT or a subcommand");
    options.threads = (int)threads;
    options.capacity = (int)capacity;
    options.parent = (int)parent;
    options.patience_s = (unsigned)patience_s;
    options.grace_s = (unsigned)grace_s;
    options.insecure |= parent != 0; /* a coordinator that starts us was told already */
    return loader_run(&options, err);
}

static int command_inspect(int argc, char **argv, struct bl_error *err)
{
    int rest;
    const char *html = NULL;
    const struct argument table[] = {{"--html", ARGUMENT_TEXT, &html, 0, 0}, {0}};
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest != 1)
        return wrong_usage(err, "one RUN.yaml");
    BL_TRY(inspect_run(argv[1], html, stdout, err));
    return bl_output_finish(err);
}

static int command_fetch(int argc, char **argv, struct bl_error *err)
{
    int rest;
    BL_TRY(arguments_read(argc, argv, (const struct argument[]){{0}}, &rest, err));
    if (rest != 1)
        return wrong_usage(err, "one RUN.yaml");
    BL_TRY(fill_run(argv[1], stdout, err));
    return bl_output_finish(err);
}

static int command_tokenize(int argc, char **argv, struct bl_error *err)
{
    struct tokenize_options options = {0};
    int rest;
    const struct argument table[] = {
        {"--model", ARGUMENT_TEXT, &options.model, 0, 0},
        {"--decode", ARGUMENT_FLAG, &options.decode, 0, 0},
        {"--special", ARGUMENT_FLAG, &options.special, 0, 0},
        {"--tokens", ARGUMENT_FLAG, &options.tokens, 0, 0},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (rest || !options.model)
        return wrong_usage(err, "--model, and texts on standard input");
    return tokenize_run(&options, stdin, stdout, err);
}

static int command_preprocess(int argc, char **argv, struct bl_error *err)
{
    struct preprocess_options options = {.max_pixels = 100000000};
    int rest;
    const struct argument table[] = {
        {"--model", ARGUMENT_TEXT, &options.model, 0, 0},
        {"--into", ARGUMENT_TEXT, &options.into, 0, 0},
        {"--json", ARGUMENT_FLAG, &options.json, 0, 0},
        {"--max-pixels", ARGUMENT_WHOLE, &options.max_pixels, 1, 4294836225.},
        {0},
    };
    BL_TRY(arguments_read(argc, argv, table, &rest, err));
    if (!rest || !options.model)
        return wrong_usage(err, "--model and images");
    return preprocess_run(&options, argv + 1, rest, stdout, err);
}

int main(int argc, char **argv)
{
    static const struct command commands[] = {
        {"inspect", inspect_usage, command_inspect},
        {"fetch", fetch_usage, command_fetch},
        {"tokenize", tokenize_usage, command_tokenize},
        {"preprocess", preprocess_usage, command_preprocess},
        {NULL, usage, command_load},
    };
    return program_run("loader", commands, argc, argv);
}

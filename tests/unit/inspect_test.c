/* tests/unit/inspect_test.c - the page that inspect prints, to the letter. */
#include "tests/unit/unit.h"

#include "tests/unit/letters.h"

#include "common/file.h"
#include "loader/inspect.h"

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    struct bl_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(bl_file_write(path, text, strlen(text), &err), err);
}

/* Replaces the folder's name by "DIR", so that pages compare. */
static char *page(const char *folder, const char *yaml)
{
    char path[256], *text = NULL;
    size_t size;
    struct bl_error err = {0};
    put(folder, "run.yaml", yaml);
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    assert_ok(inspect_run(path, out, &err), err);
    fclose(out);
    for (char *at; (at = strstr(text, folder));) {
        memcpy(at, "DIR", 3);
        memmove(at + 3, at + strlen(folder), strlen(at + strlen(folder)) + 1);
    }
    return text;
}

static void the_page_names_counts_lengths_and_tokens(void **state)
{
    char folder[] = "/tmp/blipren-inspect-XXXXXX";
    assert_non_null(mkdtemp(folder));
    put(folder, "tokenizer.json", letters_tokenizer);
    put(folder, "config.json", letters_config);
    put(folder, "1.jpg", "1");
    put(folder, "2.jpg", "2");
    put(folder, "3.jpg", "2");
    put(folder, "metadata.jsonl",
        "{\"file_name\": \"1.jpg\", \"text\": \"ab\"}\n"
        "{\"file_name\": \"2.jpg\", \"text\": \"bcd\"}\n"
        "{\"file_name\": \"3.jpg\", \"text\": \"bcd\"}\n"
        "{\"file_name\": \"4.jpg\", \"text\": \"b\"}\n");
    char *text = page(folder, "run_dir: run\ndata: {source: ., validation: 0, captions: [{column: "
                              "text, prefix: 'c: '}]}\nvision: {path: v}\nqformer: {queries: 4}\n"
                              "llm: {path: .}\ntrain: {steps: 1}\n");
    assert_string_equal(
        text,
        "source DIR/.\n"
        "samples\n"
        "         2  train\n"
        "         0  validation\n"
        "         1  left out: the image file is missing or cannot be read\n"
        "             metadata.jsonl:4: 4.jpg\n"
        "         1  left out: the rules keep none of its captions\n"
        "             metadata.jsonl:3: 3.jpg\n"
        "captions\n"
        "         2  kept\n"
        "         1  dropped: repeats a caption of the same image (data.deduplicate)\n"
        "             metadata.jsonl:3: 3.jpg: bcd\n"
        "tokens of a kept caption, prefix and EOS included: median 6, longest 7\n"
        "      6 to     6         1  ########################################\n"
        "      7 to     7         1  ########################################\n"
        "examples (label and EOS: trained; all else: context): the first of each split, and the "
        "longest\n"
        "sample 0, train, DIR/./1.jpg\n"
        "    image         4  positions\n"
        "    prefix        5  c\n"
        "    prefix        6  :\n"
        "    label         2  \xe2\x96\x81\n"
        "    label         3  a\n"
        "    label         4  b\n"
        "    EOS           1  </s>\n"
        "sample 1, train, DIR/./2.jpg\n"
        "    image         4  positions\n"
        "    prefix        5  c\n"
        "    prefix        6  :\n"
        "    label         2  \xe2\x96\x81\n"
        "    label         4  b\n"
        "    label         5  c\n"
        "    label         7  d\n"
        "    EOS           1  </s>\n");
    free(text);
    assert_int_equal(bl_folder_remove(folder, NULL), 0);
}

UNIT_MAIN(cmocka_unit_test(the_page_names_counts_lengths_and_tokens))

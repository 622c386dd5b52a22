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
    assert_ok(inspect_run(path, NULL, out, &err), err);
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

/* How often a text is in another. */
static int count(const char *text, const char *part)
{
    int found = 0;
    for (; (text = strstr(text, part)); text += strlen(part))
        found++;
    return found;
}

static void copy_picture(const char *to_folder, const char *name)
{
    char path[256], *data = NULL;
    size_t size;
    struct bl_error err = {0};
    snprintf(path, sizeof path, "%s/tests/golden/image/grey.jpg", getenv("BLIPREN_SOURCE"));
    assert_ok(bl_file_read(path, 1 << 20, &data, &size, &err), err);
    snprintf(path, sizeof path, "%s/%s", to_folder, name);
    assert_ok(bl_file_write(path, data, size, &err), err);
    free(data);
}

/* The page of a data set whose captions are hostile. */
static void the_html_page_shows_every_source_and_what_was_passed_over(void **state)
{
    char folder[] = "/tmp/blipren-inspect-XXXXXX", path[256], html[256], *printed = NULL,
         *text = NULL;
    size_t size;
    struct bl_error err = {0};
    assert_non_null(mkdtemp(folder));
    put(folder, "tokenizer.json", letters_tokenizer);
    put(folder, "config.json", letters_config);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/source%d", folder, i);
        assert_ok(bl_folder_make(path, &err), err);
        copy_picture(path, "1.jpg");
        put(path, "1.txt", i ? "b" : "a");
        put(path, i ? "z.txt" : "y.txt", "of no image");
        put(path, "x.txt", "of no image");
    }
    put(folder, "run.yaml",
        "run_dir: run\ndata: {validation: 0, sources: [{source: source0}, {source: source1, "
        "weight: 3}]}\nvision: {path: v}\nqformer: {queries: 4}\nllm: {path: .}\ntrain: {steps: "
        "1}\n");
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    snprintf(html, sizeof html, "%s/page.html", folder);
    FILE *out = open_memstream(&printed, &size);
    assert_ok(inspect_run(path, html, out, &err), err);
    fclose(out);
    assert_non_null(strstr(printed, "         4  passed over: text files without an image of the "
                                    "same name\n             x.txt\n             y.txt\n"
                                    "             x.txt\n             z.txt\n"));
    assert_ok(bl_file_read(html, 1 << 20, &text, &size, &err), err);
    assert_non_null(strstr(text, "/source0 and 1 more</h1>"));
    assert_non_null(strstr(text, "/source0<td>1<td>0<td>1<td>1\n"));
    assert_non_null(strstr(text, "/source1<td>1<td>0<td>3<td>3\n"));
    assert_non_null(strstr(text, "<li>x.txt</li>\n<li>y.txt</li>\n<li>x.txt</li>\n<li>z.txt</li>"));
    free(printed);
    free(text);
    assert_int_equal(bl_folder_remove(folder, NULL), 0);
}

static void a_source_that_is_listed_twice_is_named(void **state)
{
    char folder[] = "/tmp/blipren-inspect-XXXXXX", path[256], *printed = NULL;
    size_t size;
    struct bl_error err = {0};
    assert_non_null(mkdtemp(folder));
    put(folder, "tokenizer.json", letters_tokenizer);
    put(folder, "config.json", letters_config);
    copy_picture(folder, "1.jpg");
    put(folder, "1.txt", "a");
    put(folder, "run.yaml",
        "run_dir: run\ndata: {validation: 0, sources: [{source: .}, {source: .}]}\n"
        "vision: {path: v}\nqformer: {queries: 4}\nllm: {path: .}\ntrain: {steps: 1}\n");
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    FILE *out = open_memstream(&printed, &size);
    assert_ok(inspect_run(path, NULL, out, &err), err);
    fclose(out);
    assert_int_equal(count(printed, "warning: data.sources[0] and data.sources[1] are the same "
                                    "source, "),
                     1);
    free(printed);
    assert_int_equal(bl_folder_remove(folder, NULL), 0);
}

static char *html_page(const char *folder)
{
    char path[256], html[256], *printed = NULL, *text = NULL;
    size_t size;
    struct bl_error err = {0};
    put(folder, "tokenizer.json", letters_tokenizer);
    put(folder, "config.json", letters_config);
    copy_picture(folder, "1.jpg");
    put(folder, "2.jpg", "no picture");
    put(folder, "metadata.jsonl",
        "{\"file_name\": \"1.jpg\", \"text\": \"<script>alert('b')</script> & \\\"\\u202e\\n\"}\n"
        "{\"file_name\": \"2.jpg\", \"text\": \"a photo\"}\n"
        "{\"file_name\": \"1.jpg\", \"text\": \"<img src=x onerror=alert(1)>\"}\n");
    put(folder, "run.yaml",
        "run_dir: run\ndata: {source: ., validation: 0, drop: ['<img', none], strip: ['a ']}\n"
        "vision: {path: v}\nqformer: {queries: 4}\nllm: {path: .}\ntrain: {steps: 1}\n");
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    snprintf(html, sizeof html, "%s/page.html", folder);
    FILE *out = open_memstream(&printed, &size);
    assert_ok(inspect_run(path, html, out, &err), err);
    fclose(out);
    free(printed);
    assert_ok(bl_file_read(html, 1 << 20, &text, &size, &err), err);
    return text;
}

static void the_html_page_shows_hostile_captions_as_text(void **state)
{
    char folder[] = "/tmp/blipren-inspect-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char *text = html_page(folder);
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "<img src=x"));
    assert_null(strstr(text, "\xe2\x80\xae")); /* would turn the text around */
    assert_non_null(strstr(text, "&lt;"));
    assert_non_null(strstr(text, "&lt;img src=x onerror=alert(1)&gt;</p>"));
    assert_non_null(strstr(text, "default-src 'none'"));
    assert_null(strstr(text, "http://"));
    assert_int_equal(count(text, "data:image/png;base64,"), 2); /* a sample, and an example */
    assert_int_equal(count(text, ">no picture</div>"), 2);
    assert_non_null(
        strstr(text, "1 <small>(33.3 %)</small> dropped by <code>data.drop[0] &lt;img"));
    assert_non_null(strstr(text, "0 <small>(0.0 %)</small> dropped by <code>data.drop[1] none"));
    assert_non_null(strstr(text, "2.jpg: a photo → Photo"));
    assert_non_null(strstr(text, "<span class=label title=\"label, id "));
    assert_non_null(strstr(text, "</svg>"));
    free(text);
    assert_int_equal(bl_folder_remove(folder, NULL), 0);
}

UNIT_MAIN(cmocka_unit_test(the_html_page_shows_hostile_captions_as_text),
          cmocka_unit_test(the_html_page_shows_every_source_and_what_was_passed_over),
          cmocka_unit_test(a_source_that_is_listed_twice_is_named),
          cmocka_unit_test(the_page_names_counts_lengths_and_tokens))

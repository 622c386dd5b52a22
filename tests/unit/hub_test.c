/* tests/unit/hub_test.c - names on the Hub, and the cache that other programs fill too. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "common/config/config.h"
#include "common/models/hf.h"
#include "common/tokenizer/tokenizer.h"
#include "tests/unit/folder.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define OTHER "76543210fedcba9876543210fedcba9876543210"

static int begin(void **state)
{
    make_folder(state);
    static const char *const unset[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE",
                                        "TRANSFORMERS_OFFLINE"};
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++)
        unsetenv(unset[i]);
    return setenv("HF_HOME", inside("home"), 1);
}

static void put(const char *name, const char *text)
{
    struct bl_error err = {0};
    char *parent = bl_path_parent(inside(name));
    assert_ok(bl_folder_make(parent, &err), err);
    free(parent);
    assert_ok(bl_file_write(inside(name), text, strlen(text), &err), err);
}

#define SNAPSHOT(commit) "home/hub/models--o--m/snapshots/" commit "/"

static void put_model(void)
{
    put("home/hub/models--o--m/refs/main", COMMIT);
    put(SNAPSHOT(COMMIT) "config.json", "{}");
    put(SNAPSHOT(COMMIT) "model.safetensors", "");
}

static struct hub_id id_of(const char *text, enum hub_kind kind)
{
    struct hub_id id;
    assert_true(hub_id_parse(text, kind, &id));
    return id;
}

static bool is_found(const char *text, enum hub_kind kind, const char *expected)
{
    struct hub_id id = id_of(text, kind);
    char path[4096];
    if (!hub_find(&id, path, sizeof path))
        return false;
    assert_string_equal(path, inside(expected));
    return true;
}

static void a_name_is_an_owners_and_may_have_a_revision(void **state)
{
    struct hub_id id = id_of("google/siglip-so400m-patch14-384", HUB_MODEL);
    assert_string_equal(id.name, "google/siglip-so400m-patch14-384");
    assert_string_equal(id.revision, "main");
    id = id_of("o/m.1@refs/pr/3", HUB_MODEL);
    assert_string_equal(id.name, "o/m.1");
    assert_string_equal(id.revision, "refs/pr/3");
    static const char *const others[] = {
        "",         "m",           "/o/m",   "./m",    "../m",   "o/m/n",       "o/",
        "o/m.",     "-o/m",        "o/m--n", "o/m..n", "o/m@",   "o/m@../../x", "o/m@/x",
        "o/m@a//b", "o/*.parquet", "o m/n",  "~/m",    "o/m@.x", "o/m@a/"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(hub_id_parse(others[i], HUB_MODEL, &id));
}

static void a_model_is_found_by_branch_and_by_commit(void **state)
{
    put_model();
    const char *snapshot = "home/hub/models--o--m/snapshots/" COMMIT;
    assert_true(is_found("o/m", HUB_MODEL, snapshot));
    assert_true(is_found("o/m@" COMMIT, HUB_MODEL, snapshot));
    assert_false(is_found("o/m@v1", HUB_MODEL, snapshot));
    assert_false(is_found("o/m", HUB_DATASET, snapshot));
    put("home/hub/models--o--m/refs/main", "no commit");
    assert_false(is_found("o/m", HUB_MODEL, snapshot));
}

/* transformers may have fetched a tokenizer alone. */
static void a_model_without_all_its_weights_is_not_there(void **state)
{
    put_model();
    assert_int_equal(unlink(inside(SNAPSHOT(COMMIT) "model.safetensors")), 0);
    assert_false(is_found("o/m", HUB_MODEL, ""));
    put(SNAPSHOT(COMMIT) "model.safetensors.index.json",
        "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}");
    put(SNAPSHOT(COMMIT) "model-1.safetensors", "");
    assert_false(is_found("o/m", HUB_MODEL, ""));
    put(SNAPSHOT(COMMIT) "model-2.safetensors", "");
    assert_true(is_found("o/m", HUB_MODEL, "home/hub/models--o--m/snapshots/" COMMIT));
}

static void the_environment_says_where_the_cache_is(void **state)
{
    struct bl_error err = {0};
    char path[512];
    setenv("HF_HUB_CACHE", "/a/b", 1);
    assert_ok(hub_cache(path, sizeof path, &err), err);
    assert_string_equal(path, "/a/b");
    unsetenv("HF_HUB_CACHE");
    setenv("HOME", "/home/me", 1);
    setenv("HF_HOME", "~/hf", 1);
    assert_ok(hub_cache(path, sizeof path, &err), err);
    assert_string_equal(path, "/home/me/hf/hub");
    unsetenv("HF_HOME");
    setenv("XDG_CACHE_HOME", "/x", 1);
    assert_ok(hub_cache(path, sizeof path, &err), err);
    assert_string_equal(path, "/x/huggingface/hub");
    unsetenv("XDG_CACHE_HOME");
    assert_ok(hub_cache(path, sizeof path, &err), err);
    assert_string_equal(path, "/home/me/.cache/huggingface/hub");
}

static void a_snapshots_folder_has_a_name(void **state)
{
    char name[300];
    assert_true(hub_name(inside("home/hub/models--o--m/snapshots/" COMMIT), name, sizeof name));
    assert_string_equal(name, "o/m@" COMMIT);
    assert_true(hub_name(inside("home/hub/datasets--o--m.x/snapshots/" COMMIT), name, sizeof name));
    assert_string_equal(name, "o/m.x@" COMMIT);
    static const char *const others[] = {"home/hub/models--o--m",
                                         "home/hub/models--o--m/snapshots/abc",
                                         "home/hub/models--o--m/snapshots/" COMMIT "/x",
                                         "models--o--m/snapshots/" COMMIT, "home/hub/x"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(hub_name(inside(others[i]), name, sizeof name));
}

static struct config *parsed(const char *vision)
{
    struct bl_error err = {0};
    struct config *config = NULL;
    char yaml[4096];
    int size = snprintf(yaml, sizeof yaml,
                        "run_dir: run\ndata: {source: o/d}\nvision: {path: \"%s\"}\n"
                        "llm: {path: llm}\ntrain: {steps: 1, warmup_steps: 0}\n",
                        vision);
    assert_ok(config_parse(yaml, (size_t)size, "run.yaml", folder, &config, &err), err);
    return config;
}

static void a_configuration_keeps_the_commit_and_finds_the_snapshot(void **state)
{
    put_model();
    struct config *config = parsed("o/m");
    assert_string_equal(config->vision.path, inside("home/hub/models--o--m/snapshots/" COMMIT));
    assert_non_null(strstr(config->text, "\"o/m@" COMMIT "\""));
    assert_string_equal(config->data.source, "o/d"); /* not in the cache */
    assert_int_equal(config->hub.count, 2);
    assert_string_equal(config->hub.at[0].key, "data.source");
    assert_int_equal(config->hub.at[0].id.kind, HUB_DATASET);
    assert_string_equal(config->hub.at[1].id.revision, "main");

    struct bl_error err = {0};
    struct config *again = NULL;
    put("home/hub/models--o--m/refs/main", OTHER); /* the branch moved: the run keeps its commit */
    assert_ok(config_parse(config->text, strlen(config->text), "run", "/elsewhere", &again, &err),
              err);
    assert_string_equal(again->vision.path, config->vision.path);
    assert_string_equal(again->text, config->text);
    config_free(&again);
    config_free(&config);
}

static void a_folder_of_that_name_wins(void **state)
{
    put_model();
    put("o/m/config.json", "{}");
    struct config *config = parsed("o/m");
    assert_string_equal(config->vision.path, inside("o/m"));
    assert_int_equal(config->hub.count, 1); /* the data set alone */
    config_free(&config);
}

static void what_is_not_in_the_cache_is_refused_with_the_command_that_fetches_it(void **state)
{
    struct bl_error err;
    struct hf_vision vision;
    struct tokenizer *tokenizer;
    char hex[65], expected[400];
    snprintf(expected, sizeof expected,
             "is no file or folder, and is not in the Hub's cache of this host (%s)",
             inside("home/hub"));
    assert_int_equal(hf_vision_open("o/m", &vision, &err), -BL_EIO);
    assert_string_equal(err.file, "o/m");
    assert_string_equal(err.text, expected);
    assert_non_null(strstr(err.remedy, "blipren-coord pull RUN.yaml"));
    assert_int_equal(tokenizer_open("o/m", &tokenizer, &err), -BL_EIO);
    assert_string_equal(err.text, expected);
    assert_int_equal(hf_folder_sha256("o/m@v1", HF_IDENTITY_ALL, hex, &err), -BL_EIO);
    assert_string_equal(err.text, expected);
    assert_int_equal(hub_refuse_missing("/o/m", &err), 0);
    assert_int_equal(hub_refuse_missing("a file", &err), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, begin, remove_folder)
UNIT_MAIN(CASE(a_name_is_an_owners_and_may_have_a_revision),
          CASE(a_model_is_found_by_branch_and_by_commit),
          CASE(a_model_without_all_its_weights_is_not_there),
          CASE(the_environment_says_where_the_cache_is), CASE(a_snapshots_folder_has_a_name),
          CASE(a_configuration_keeps_the_commit_and_finds_the_snapshot),
          CASE(a_folder_of_that_name_wins),
          CASE(what_is_not_in_the_cache_is_refused_with_the_command_that_fetches_it))

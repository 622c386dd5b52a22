/* tests/unit/download_test.c - the cache of images from URLs, private addresses, and fetching from file URLs. A server that misbehaves
 * is tests/evidence/fetch. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/data/url.h"
#include "common/hash.h"
#include "loader/download/address.h"
#include "loader/download/image_cache.h"
#include "loader/download/download.h"
#include "loader/download/proxies.h"
#include "tests/unit/folder.h"

static void addresses_of_this_host_and_its_networks_are_private(void **state)
{
    static const char *const inside_texts[] = {"127.0.0.1",
                                               "10.255.0.1",
                                               "172.31.0.1",
                                               "192.168.9.9",
                                               "169.254.169.254",
                                               "100.64.0.1",
                                               "0.0.0.0",
                                               "224.0.0.1",
                                               "255.255.255.255",
                                               "::1",
                                               "::",
                                               "fe80::1",
                                               "febf::1",
                                               "fd00::1",
                                               "::ffff:10.0.0.1",
                                               "64:ff9b::127.0.0.1",
                                               "2002:7f00:1::",
                                               "ff02::1",
                                               "no address"};
    static const char *const outside[] = {
        "1.1.1.1",         "11.0.0.1",       "172.32.0.1",       "100.128.0.1",    "192.167.1.1",
        "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::", "fec0:1::1"};
    for (size_t i = 0; i < sizeof inside_texts / sizeof *inside_texts; i++)
        if (!address_text_is_private(inside_texts[i]))
            fail_msg("%s is private", inside_texts[i]);
    for (size_t i = 0; i + 1 < sizeof outside / sizeof *outside; i++)
        if (address_text_is_private(outside[i]))
            fail_msg("%s is public", outside[i]);
    assert_true(address_text_is_private(outside[9])); /* site-local, though out of use */
    struct sockaddr_in address = {.sin_family = AF_INET};
    inet_pton(AF_INET, "8.8.8.8", &address.sin_addr);
    assert_false(address_is_private((struct sockaddr *)&address));
    inet_pton(AF_INET, "10.0.0.1", &address.sin_addr);
    assert_true(address_is_private((struct sockaddr *)&address));
    address.sin_family = AF_UNIX;
    assert_true(address_is_private((struct sockaddr *)&address));
}

static void a_host_that_is_a_private_number_is_told_from_a_name(void **state)
{
    static const char *const private[] = {"127.0.0.1", "10.1.2.3", "[::1]", "[fd00::1]"};
    static const char *const others[] = {"8.8.8.8", "[2606:4700::1111]", "localhost", "10.example",
                                         ""};
    for (size_t i = 0; i < sizeof private / sizeof *private; i++)
        assert_true(address_literal_is_private(private[i]));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(address_literal_is_private(others[i]));
}

static void proxies_of_the_environment_are_known_by_address_and_port(void **state)
{
    struct proxies proxies;
    unsetenv("all_proxy");
    unsetenv("ALL_PROXY");
    unsetenv("HTTPS_PROXY");
    setenv("http_proxy", "http://me:secret@127.0.0.1:3128/", 1);
    setenv("https_proxy", "[::1]", 1);
    proxies_find(&proxies);
    assert_int_equal(proxies.count, 2);
    assert_true(proxies_have_text(&proxies, "127.0.0.1", 3128));
    assert_true(proxies_have_text(&proxies, "::1", 1080));
    assert_false(proxies_have_text(&proxies, "127.0.0.1", 80));
    assert_false(proxies_have_text(&proxies, "127.0.0.2", 3128));
    assert_false(proxies_have_text(&proxies, "", 3128));
    unsetenv("http_proxy");
    unsetenv("https_proxy");
    proxies_find(&proxies);
    assert_int_equal(proxies.count, 0);
}

/* The path of a URL in the cache folder; two live at a time. */
static const char *path_of(const char *url)
{
    static char *texts[2];
    static int at;
    struct bl_error err = {0};
    struct location location;
    at = !at;
    free(texts[at]);
    assert_ok(url_locate(url, inside("cache"), &texts[at], &err), err);
    assert_ok(location_parse(texts[at], &location, &err), err);
    return location.path;
}

static struct image_cache *opened(uint64_t limit_bytes)
{
    struct bl_error err = {0};
    struct image_cache *cache = NULL;
    assert_ok(image_cache_open(inside("cache"), limit_bytes, &cache, &err), err);
    return cache;
}

/* Keeps `size` bytes of value `fill` as the URL's image. */
static void keep(struct image_cache *cache, const char *url, int fill, size_t size)
{
    struct bl_error err = {0};
    bl_autofree char *data = malloc(size), *part = NULL;
    bl_autofd int fd = -1;
    uint8_t hash[32];
    memset(data, fill, size);
    bl_sha256(data, size, hash);
    assert_true(image_cache_lock(cache, path_of(url)));
    assert_ok(image_cache_part_open(cache, path_of(url), &fd, &part, &err), err);
    assert_int_equal(write(fd, data, size), size);
    assert_ok(image_cache_keep(cache, path_of(url), part, hash, size, &err), err);
    assert_int_equal(access(part, F_OK), -1);
    image_cache_unlock(cache, path_of(url));
}

static enum image_cache_state state_of(const char *url)
{
    char reason[IMAGE_CACHE_REASON_MAX];
    return image_cache_find(path_of(url), reason);
}

static ino_t image_of(const char *url)
{
    struct stat st;
    assert_int_equal(stat(path_of(url), &st), 0);
    return st.st_ino;
}

static void an_image_is_kept_once_and_found_by_all_its_urls(void **state)
{
    struct image_cache *cache = opened(0);
    assert_int_equal(state_of("http://a/1"), IMAGE_CACHE_ABSENT);
    keep(cache, "http://a/1", 7, 1000);
    keep(cache, "http://b/1", 7, 1000);
    keep(cache, "http://b/2", 8, 1000);
    assert_int_equal(state_of("http://a/1"), IMAGE_CACHE_HERE);
    assert_int_equal(image_of("http://a/1"), image_of("http://b/1"));
    assert_int_not_equal(image_of("http://a/1"), image_of("http://b/2"));
    image_cache_free(&cache);
    cache = opened(0);
    assert_int_equal(state_of("http://b/1"), IMAGE_CACHE_HERE);
    image_cache_free(&cache);
}

static void a_failure_is_recorded_and_replaced_by_an_image(void **state)
{
    struct bl_error err = {0};
    char reason[IMAGE_CACHE_REASON_MAX];
    struct image_cache *cache = opened(0);
    assert_ok(image_cache_fail(cache, path_of("http://a/1"), "not found: HTTP 404 ../../x", &err),
              err);
    assert_int_equal(image_cache_find(path_of("http://a/1"), reason), IMAGE_CACHE_FAILED);
    assert_string_equal(reason, "not found: HTTP 404 ..|..|x");
    assert_int_equal(access(path_of("http://a/1"), F_OK), -1);
    keep(cache, "http://a/1", 7, 10);
    assert_int_equal(state_of("http://a/1"), IMAGE_CACHE_HERE);
    image_cache_free(&cache);
}

static void other_bytes_than_were_kept_are_removed(void **state)
{
    struct image_cache *cache = opened(0);
    keep(cache, "http://a/1", 'x', 3);
    assert_true(image_cache_verify(path_of("http://a/1"), "xxx", 3));
    assert_int_equal(state_of("http://a/1"), IMAGE_CACHE_HERE);
    assert_false(image_cache_verify(path_of("http://a/1"), "xx", 2));
    assert_int_equal(state_of("http://a/1"), IMAGE_CACHE_ABSENT);
    assert_false(image_cache_verify(path_of("http://a/2"), "xx", 2));
    image_cache_free(&cache);
}

static void age(const char *url, time_t seconds)
{
    struct timespec now, times[2];
    clock_gettime(CLOCK_REALTIME, &now);
    times[0] = times[1] = (struct timespec){.tv_sec = now.tv_sec - seconds};
    assert_int_equal(utimensat(AT_FDCWD, path_of(url), times, 0), 0);
}

/* Ten tenths are the limit; making room leaves nine. */
static void what_was_not_used_for_longest_makes_room(void **state)
{
    struct bl_error err = {0};
    struct image_cache *cache = opened(10000);
    char url[32];
    for (int i = 0; i < 10; i++) {
        snprintf(url, sizeof url, "http://a/%d", i);
        keep(cache, url, i, 1000);
        age(url, 1000 - i);
    }
    assert_int_equal(state_of("http://a/0"), IMAGE_CACHE_HERE); /* used now */
    keep(cache, "http://a/new", 99, 1000);
    static const bool here[] = {true, false, false, true, true, true, true, true, true, true};
    for (int i = 0; i < 10; i++) {
        snprintf(url, sizeof url, "http://a/%d", i);
        assert_int_equal(access(path_of(url), F_OK) == 0, here[i]);
    }
    assert_int_equal(state_of("http://a/new"), IMAGE_CACHE_HERE);
    uint8_t hash[32] = {0};
    bl_autofree char *part = NULL;
    bl_autofd int fd = -1;
    assert_ok(image_cache_part_open(cache, path_of("http://a/big"), &fd, &part, &err), err);
    assert_int_equal(image_cache_keep(cache, path_of("http://a/big"), part, hash, 9001, &err),
                     -BL_ELIMIT);
    assert_int_equal(access(part, F_OK), -1);
    image_cache_free(&cache);
}

/* Two caches of one process are as two processes. */
static void a_url_is_locked_for_one_at_a_time(void **state)
{
    struct image_cache *a = opened(0), *b = opened(0);
    assert_true(image_cache_lock(a, path_of("http://a/1")));
    assert_false(image_cache_lock(b, path_of("http://a/1")));
    assert_true(image_cache_lock(b, path_of("http://a/2")));
    image_cache_unlock(a, path_of("http://a/1"));
    assert_true(image_cache_lock(b, path_of("http://a/1")));
    image_cache_free(&b); /* unlocks */
    assert_true(image_cache_lock(a, path_of("http://a/1")));
    image_cache_free(&a);
}

static int parts(void)
{
    int count = 0;
    DIR *dir = opendir(inside("cache/part"));
    for (struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static void parts_of_the_dead_are_removed_and_those_of_the_living_stay(void **state)
{
    struct bl_error err = {0};
    struct image_cache *a = opened(0);
    char *part = NULL;
    int fd = -1;
    assert_ok(image_cache_part_open(a, path_of("http://a/1"), &fd, &part, &err), err);
    close(fd);
    free(part);
    assert_true(image_cache_lock(a, path_of("http://a/2")));
    assert_ok(image_cache_part_open(a, path_of("http://a/2"), &fd, &part, &err), err);
    close(fd);
    free(part);
    assert_int_equal(parts(), 2);
    struct image_cache *b = opened(0);
    assert_int_equal(parts(), 1);
    image_cache_free(&b);
    image_cache_free(&a);
    a = opened(0);
    assert_int_equal(parts(), 0);
    image_cache_free(&a);
}

/* -- fetching --------------------------------------------------------------------------------- */

static bool patient = true;
static bool wait_a_bit(void *context, uint32_t ms)
{
    return patient;
}

static int get(struct download *download, const char *url, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    struct location location;
    const struct location_patience patience = {wait_a_bit, NULL};
    assert_ok(url_locate(url, inside("cache"), &text, err), *err);
    assert_ok(location_parse(text, &location, err), *err);
    return download_get(download, &location, &patience, err);
}

static struct download *open_download(double patience_s)
{
    struct bl_error err = {0};
    struct download *download = NULL;
    const struct download_options options = {.cache = inside("cache"),
                                             .image_bytes_max = 5000,
                                             .host_connections = 2,
                                             .timeout_s = 1,
                                             .patience_s = patience_s};
    assert_ok(download_open(&options, &download, &err), err);
    return download;
}

static void files_are_fetched_by_their_urls(void **state)
{
    struct bl_error err = {0};
    char url[600], start[40] = "\x89PNG\r\n\x1a\n";
    struct download *download = open_download(0);
    assert_ok(bl_file_write(inside("a.png"), start, sizeof start, &err), err);
    assert_ok(bl_file_write(inside("a.txt"), "text", 4, &err), err);
    bl_autofree char *large = calloc(1, 6000);
    memcpy(large, start, sizeof start);
    assert_ok(bl_file_write(inside("large.png"), large, 6000, &err), err);
    snprintf(url, sizeof url, "file://%s", inside("a.png"));
    assert_ok(get(download, url, &err), err);
    assert_int_equal(state_of(url), IMAGE_CACHE_HERE);
    static const struct {
        const char *name, *error;
    } wrong[] = {
        {"a.txt", "not an image: not an image"},
        {"large.png", "larger than data.max_image_bytes: more than 5000 bytes"},
        {"none.png", "not found: Couldn't open file |"},
    };
    for (size_t i = 0; i < 3; i++) {
        snprintf(url, sizeof url, "file://%s", inside(wrong[i].name));
        for (int again = 0; again < 2; again++) { /* then from the record */
            assert_int_equal(get(download, url, &err), -BL_EDATA);
            if (again)
                assert_memory_equal(err.text, wrong[i].error, strlen(wrong[i].error));
        }
    }
    assert_int_equal(parts(), 0);
    download_free(&download);
}

/* Nobody listens at port 1. */
static void a_passing_failure_is_told_and_not_recorded(void **state)
{
    struct bl_error err = {0};
    struct download *download = open_download(0);
    assert_int_equal(get(download, "http://127.0.0.1:1/a.png", &err), -BL_EIO);
    assert_int_equal(location_failure_of(&err), LOCATION_PASSING);
    assert_string_equal(err.file, "http://127.0.0.1:1/a.png");
    assert_int_equal(state_of("http://127.0.0.1:1/a.png"), IMAGE_CACHE_ABSENT);
    download_free(&download);
    download = open_download(1000);
    patient = false;
    assert_int_equal(get(download, "http://127.0.0.1:1/a.png", &err), -BL_ESTOPPED);
    patient = true;
    download_free(&download);
    assert_int_equal(parts(), 0);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

UNIT_MAIN(cmocka_unit_test(addresses_of_this_host_and_its_networks_are_private),
          cmocka_unit_test(a_host_that_is_a_private_number_is_told_from_a_name),
          cmocka_unit_test(proxies_of_the_environment_are_known_by_address_and_port),
          IN_FOLDER(an_image_is_kept_once_and_found_by_all_its_urls),
          IN_FOLDER(a_failure_is_recorded_and_replaced_by_an_image),
          IN_FOLDER(other_bytes_than_were_kept_are_removed),
          IN_FOLDER(what_was_not_used_for_longest_makes_room),
          IN_FOLDER(a_url_is_locked_for_one_at_a_time),
          IN_FOLDER(parts_of_the_dead_are_removed_and_those_of_the_living_stay),
          IN_FOLDER(files_are_fetched_by_their_urls),
          IN_FOLDER(a_passing_failure_is_told_and_not_recorded))

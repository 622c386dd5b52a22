/* tests/unit/file_service_test.c - the run folder's files to and from a host that does not see it, over real sockets. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/private_folder.h"
#include "coordinator/file_service.h"
#include "proto/files.h"
#include "proto/keys.h"
#include "tests/unit/folder.h"

#define PEER 7
#define PATIENCE_MS 20000 /* only a failing test waits so long */
#define SILENCE_MS 50     /* after which a new connection is tried */
#define NAME "step-000004-g2"
#define LARGE (5u << 20)
#define HUGE_FILE (48u << 20) /* many times what may be on its way */

static struct {
    struct wire_context *context;
    struct files *files;
    struct file_service *service;
    struct file_service_options options;
    struct files_place place;
    char run[256];
} net;

static void serve(const char *keys, uint8_t token)
{
    struct bl_error err;
    uint16_t port;
    net.options = (struct file_service_options){
        .run_folder = net.run, .endpoint = "tcp://127.0.0.1:0", .keys = keys, .incarnation = 1};
    memset(net.options.token, token, sizeof net.options.token);
    assert_ok(file_service_open(&net.options, &net.service, &port, &err), err);
    net.place = (struct files_place){.peer = PEER, .patience_ms = PATIENCE_MS};
    memset(net.place.token, token, sizeof net.place.token);
    snprintf(net.place.endpoint, sizeof net.place.endpoint, "tcp://127.0.0.1:%u", port);
}

static int open_net(void **state)
{
    struct bl_error err;
    memset(&net, 0, sizeof net);
    if (make_folder(state) < 0)
        return -1;
    setenv("TMPDIR", inside("host"), 1);
    snprintf(net.run, sizeof net.run, "%s", inside("run"));
    return bl_folder_make(inside("run/checkpoints"), &err) < 0 ||
                   bl_folder_make(inside("host"), &err) < 0 ||
                   wire_context_open(NULL, &net.context, &err) < 0 ||
                   files_new(net.context, &net.files, &err) < 0
               ? -1
               : 0;
}

static int close_net(void **state)
{
    file_service_close(&net.service);
    files_free(&net.files);
    wire_context_close(&net.context);
    return remove_folder(state);
}

/* Bytes that differ from piece to piece. */
static void write_bytes(const char *path, size_t size, unsigned seed)
{
    struct bl_error err;
    char *data = malloc(size + 1);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (char)((i >> 12) * 31 + i + seed);
    assert_ok(bl_file_write(path, data, size, &err), err);
    free(data);
}

static void assert_equal_files(const char *a, const char *b)
{
    char *one, *two;
    size_t one_size, two_size;
    struct bl_error err;
    assert_ok(bl_file_read(a, HUGE_FILE, &one, &one_size, &err), err);
    assert_ok(bl_file_read(b, HUGE_FILE, &two, &two_size, &err), err);
    assert_int_equal(one_size, two_size);
    assert_memory_equal(one, two, one_size);
    free(one);
    free(two);
}

static void files_of_any_size_come_equal(void **state)
{
    static const size_t sizes[] = {0, 1, BL_PIECE_BYTES_MAX - 1, BL_PIECE_BYTES_MAX,
                                   9 * BL_PIECE_BYTES_MAX + 5};
    struct bl_error err;
    serve(NULL, 1);
    files_point(net.files, &net.place);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        write_bytes(inside("run/dataset.index"), sizes[i], (unsigned)i);
        assert_ok(files_get(net.files, "", "dataset.index", inside("got"), NULL, &err), err);
        assert_equal_files(inside("run/dataset.index"), inside("got"));
    }
}

/* A transfer that stops in the middle, until it may go on. */
struct transfer {
    pthread_t thread;
    char path[256];
    sem_t half, go_on;
    bool stopped;
    int rc;
    struct bl_error err;
};

/* Asked before each piece is taken. */
static bool stop_half_way(void *argument)
{
    struct transfer *t = argument;
    char temporary[300];
    struct stat st;
    snprintf(temporary, sizeof temporary, "%s.tmp.%d", t->path, (int)getpid());
    if (t->stopped || stat(temporary, &st) < 0 || st.st_size < LARGE / 2)
        return false;
    t->stopped = true;
    sem_post(&t->half);
    sem_wait(&t->go_on);
    return false;
}

static void *get_index(void *argument)
{
    struct transfer *t = argument;
    struct files_need need = {stop_half_way, t};
    t->rc = files_get(net.files, "", "dataset.index", t->path, &need, &t->err);
    return NULL;
}

static void begin_transfer(struct transfer *t)
{
    memset(t, 0, sizeof *t);
    snprintf(t->path, sizeof t->path, "%s", inside("got"));
    assert_int_equal(sem_init(&t->half, 0, 0), 0);
    assert_int_equal(sem_init(&t->go_on, 0, 0), 0);
    assert_int_equal(pthread_create(&t->thread, NULL, get_index, t), 0);
}

static void end_transfer(struct transfer *t)
{
    sem_post(&t->go_on);
    pthread_join(t->thread, NULL);
    sem_destroy(&t->half);
    sem_destroy(&t->go_on);
}

static void a_transfer_survives_the_coordinator(void **state)
{
    struct transfer t = {0};
    write_bytes(inside("run/dataset.index"), LARGE, 1);
    serve(NULL, 1);
    files_point(net.files, &net.place);
    begin_transfer(&t);
    sem_wait(&t.half);
    file_service_close(&net.service);
    files_wait(net.files);
    serve(NULL, 2); /* at another port, with another token */
    files_point(net.files, &net.place);
    end_transfer(&t);
    assert_ok(t.rc, t.err);
    assert_equal_files(inside("run/dataset.index"), inside("got"));
}

static void a_file_that_was_made_anew_meanwhile_begins_again(void **state)
{
    struct transfer t = {0};
    write_bytes(inside("run/dataset.index"), LARGE, 1);
    serve(NULL, 1);
    files_point(net.files, &net.place);
    begin_transfer(&t);
    sem_wait(&t.half);
    file_service_close(&net.service);
    files_wait(net.files);
    write_bytes(inside("run/dataset.index"), LARGE, 2);
    serve(NULL, 2);
    files_point(net.files, &net.place);
    end_transfer(&t);
    assert_ok(t.rc, t.err);
    assert_equal_files(inside("run/dataset.index"), inside("got"));
}

static void a_stop_ends_a_transfer_that_waits(void **state)
{
    struct transfer t = {0};
    begin_transfer(&t); /* nobody has said where the service is */
    files_stop(net.files);
    end_transfer(&t);
    assert_int_equal(t.rc, -BL_ESTOPPED);
}

static void expect_silence(void)
{
    struct bl_error err;
    net.place.patience_ms = SILENCE_MS;
    files_point(net.files, &net.place);
    assert_int_equal(files_get(net.files, "", "dataset.index", inside("got"), NULL, &err),
                     -BL_EPEER);
    assert_string_equal(err.text, "the coordinator's file service does not answer");
    assert_non_null(strstr(err.remedy, "cluster.files_port"));
    assert_false(bl_path_is_file(inside("got")));
}

static void who_does_not_know_the_token_gets_nothing(void **state)
{
    write_bytes(inside("run/dataset.index"), 10, 1);
    serve(NULL, 1);
    net.place.token[BL_TOKEN_BYTES - 1] ^= 1;
    expect_silence();
}

static void who_does_not_have_the_keys_gets_nothing(void **state)
{
    struct bl_error err;
    assert_ok(keys_make(inside("keys"), &err), err);
    write_bytes(inside("run/dataset.index"), 10, 1);
    serve(inside("keys"), 1);
    expect_silence();
}

static void expect_refusal(const char *checkpoint, const char *file, const char *words)
{
    struct bl_error err;
    assert_int_equal(files_get(net.files, checkpoint, file, inside("got"), NULL, &err), -BL_EPEER);
    if (!strstr(err.text, words))
        fail_msg("expected \"%s\", found \"%s\"", words, err.text);
    assert_false(bl_path_is_file(inside("got")));
}

static void only_what_a_peer_needs_is_sent(void **state)
{
    serve(NULL, 1);
    files_point(net.files, &net.place);
    write_bytes(inside("run/journal"), 10, 1);
    write_bytes(inside("run/token"), 10, 1);
    expect_refusal("", "journal", "no such file is sent: journal");
    expect_refusal("", "token", "no such file is sent: token");
    expect_refusal("", "qformer.safetensors", "no such file is sent");
    expect_refusal(NAME, "config.yaml", "no such file is sent");
    expect_refusal(NAME, "state.json", "No such file or directory");
}

static void make_checkpoint(void)
{
    struct bl_error err;
    assert_ok(bl_folder_make(inside("own"), &err), err);
    write_bytes(inside("own/qformer.safetensors"), 9 * BL_PIECE_BYTES_MAX + 1, 1);
    write_bytes(inside("own/projector.moment1.safetensors"), 0, 2);
    write_bytes(inside("own/state.json"), 300, 3);
}

static void a_checkpoint_arrives_whole_from_whom_it_was_asked_of(void **state)
{
    struct bl_error err;
    make_checkpoint();
    serve(NULL, 1);
    files_point(net.files, &net.place);
    assert_int_equal(files_put(net.files, NAME, inside("own"), &err), -BL_EPEER);
    assert_non_null(strstr(err.text, "nobody has asked for that checkpoint"));
    file_service_permit(net.service, PEER + 1, NAME);
    assert_int_equal(files_put(net.files, NAME, inside("own"), &err), -BL_EPEER);
    file_service_permit(net.service, PEER, NAME);
    assert_ok(files_put(net.files, NAME, inside("own"), &err), err);
    static const char *const names[] = {"qformer.safetensors", "projector.moment1.safetensors",
                                        "state.json"};
    for (int i = 0; i < 3; i++) {
        char own[64], sent[128];
        snprintf(own, sizeof own, "own/%s", names[i]);
        snprintf(sent, sizeof sent, "run/checkpoints/" NAME "/%s", names[i]);
        assert_equal_files(inside(own), inside(sent));
    }
    assert_false(bl_path_is_folder(inside("run/checkpoints/" NAME ".sent")));
    assert_ok(files_get(net.files, NAME, "state.json", inside("got"), NULL, &err), err);
    assert_equal_files(inside("own/state.json"), inside("got"));
}

static void what_is_no_checkpoint_s_file_is_not_written_and_what_is_unfinished_goes(void **state)
{
    struct bl_error err;
    make_checkpoint();
    write_bytes(inside("own/passwd"), 3, 1);
    serve(NULL, 1);
    files_point(net.files, &net.place);
    file_service_permit(net.service, PEER, NAME);
    assert_int_equal(files_put(net.files, NAME, inside("own"), &err), -BL_EPEER);
    assert_non_null(strstr(err.text, "a checkpoint has no file passwd"));
    assert_false(bl_path_is_file(inside("run/checkpoints/" NAME ".sent/passwd")));
    assert_false(bl_path_is_folder(inside("run/checkpoints/" NAME)));
    file_service_withdraw(net.service, PEER);
    while (bl_path_is_folder(inside("run/checkpoints/" NAME ".sent")))
        usleep(1000);
    /* likewise at the end of the run */
    file_service_permit(net.service, PEER, NAME);
    assert_int_equal(files_put(net.files, NAME, inside("own"), &err), -BL_EPEER);
    file_service_close(&net.service);
    assert_false(bl_path_is_folder(inside("run/checkpoints/" NAME ".sent")));
}

/* -- a network between the two that cuts connections ---------------------------------------------- */

static struct {
    pthread_t thread;
    int listener;
    uint16_t to;
    uint64_t cut_after; /* bytes of a connection; 0: never */
    atomic_uint accepted;
    atomic_bool stopping;
} proxy;

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Moves what there is from one to the other; how much, -1: it is closed. */
static ssize_t forward(int from, int to)
{
    static char bytes[1 << 16];
    ssize_t n = recv(from, bytes, sizeof bytes, 0);
    for (ssize_t done = 0, more; done < n; done += more)
        if ((more = send(to, bytes + done, (size_t)(n - done), MSG_NOSIGNAL)) < 0)
            return -1;
    return n > 0 ? n : -1;
}

/* One connection to its end. */
static void carry(int client)
{
    struct sockaddr_in at = loopback(proxy.to);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint64_t carried = 0;
    bool open = connect(server, (struct sockaddr *)&at, sizeof at) == 0;
    while (open && !atomic_load(&proxy.stopping) &&
           (!proxy.cut_after || carried < proxy.cut_after)) {
        struct pollfd fds[2] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
        if (poll(fds, 2, 20) < 0)
            break;
        for (int i = 0; i < 2 && open; i++) {
            ssize_t n = fds[i].revents ? forward(fds[i].fd, fds[1 - i].fd) : 0;
            open = n >= 0;
            carried += open ? (uint64_t)n : 0;
        }
    }
    close(server);
    close(client);
}

static void *run_proxy(void *unused)
{
    while (!atomic_load(&proxy.stopping)) {
        struct pollfd fd = {proxy.listener, POLLIN, 0};
        if (poll(&fd, 1, 20) <= 0)
            continue;
        int client = accept(proxy.listener, NULL, NULL);
        if (client < 0)
            continue;
        atomic_fetch_add(&proxy.accepted, 1);
        carry(client);
    }
    return NULL;
}

/* Between this host and the service; net.place leads through it. */
static void open_proxy(uint64_t cut_after)
{
    struct sockaddr_in at = loopback(0);
    socklen_t size = sizeof at;
    proxy.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    proxy.to = (uint16_t)atoi(strrchr(net.place.endpoint, ':') + 1);
    proxy.cut_after = cut_after;
    atomic_store(&proxy.accepted, 0);
    atomic_store(&proxy.stopping, false);
    assert_int_equal(bind(proxy.listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(proxy.listener, 8), 0);
    assert_int_equal(getsockname(proxy.listener, (struct sockaddr *)&at, &size), 0);
    assert_int_equal(pthread_create(&proxy.thread, NULL, run_proxy, NULL), 0);
    snprintf(net.place.endpoint, sizeof net.place.endpoint, "tcp://127.0.0.1:%u",
             ntohs(at.sin_port));
}

static unsigned close_proxy(void)
{
    atomic_store(&proxy.stopping, true);
    pthread_join(proxy.thread, NULL);
    close(proxy.listener);
    return atomic_load(&proxy.accepted);
}

static void make_huge_checkpoint(void)
{
    struct bl_error err;
    assert_ok(bl_folder_make(inside("own"), &err), err);
    write_bytes(inside("own/qformer.safetensors"), HUGE_FILE, 1);
    write_bytes(inside("own/state.json"), 300, 3);
}

/* There and back again. */
static void send_and_fetch_huge_checkpoint(void)
{
    struct bl_error err;
    files_point(net.files, &net.place);
    file_service_permit(net.service, PEER, NAME);
    assert_ok(files_put(net.files, NAME, inside("own"), &err), err);
    assert_ok(files_get(net.files, NAME, "qformer.safetensors", inside("got"), NULL, &err), err);
}

static void assert_huge_checkpoint_came(void)
{
    assert_equal_files(inside("own/qformer.safetensors"),
                       inside("run/checkpoints/" NAME "/qformer.safetensors"));
    assert_equal_files(inside("own/qformer.safetensors"), inside("got"));
}

static void a_large_checkpoint_comes_through_connections_that_are_cut(void **state)
{
    enum { CUT_AFTER = 9 << 20 };
    make_huge_checkpoint();
    serve(NULL, 1);
    open_proxy(CUT_AFTER);
    net.place.patience_ms = 6 * SILENCE_MS;
    send_and_fetch_huge_checkpoint();
    assert_true(close_proxy() >= 2 * (HUGE_FILE / CUT_AFTER));
    assert_huge_checkpoint_came();
}

/* What is lost on the way costs a silence and a new connection; nothing is lost where nobody cuts. */
static void an_undisturbed_transfer_has_one_connection(void **state)
{
    make_huge_checkpoint();
    serve(NULL, 1);
    open_proxy(0);
    net.place.patience_ms = 100 * PATIENCE_MS;
    send_and_fetch_huge_checkpoint();
    assert_int_equal(close_proxy(), 2); /* one there, one back */
    assert_huge_checkpoint_came();
}

/* Highest resident memory in KB; begins anew with what there is now. */
static long peak_kb(bool begin)
{
    char line[256];
    long kb = 0;
    FILE *f = fopen(begin ? "/proc/self/clear_refs" : "/proc/self/status", begin ? "w" : "r");
    assert_non_null(f);
    if (begin)
        fputs("5", f);
    while (!begin && fgets(line, sizeof line, f))
        sscanf(line, "VmHWM: %ld", &kb);
    fclose(f);
    return kb;
}

static void neither_side_holds_more_than_a_few_pieces_of_a_file(void **state)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* what is freed stays */
#endif
    make_huge_checkpoint();
    serve(NULL, 1);
    peak_kb(true);
    long before = peak_kb(false);
    send_and_fetch_huge_checkpoint();
    assert_true((peak_kb(false) - before) * 1024 < (long)HUGE_FILE / 3);
}

static void another_folder_of_the_same_name_is_not_the_run_folder(void **state)
{
    struct bl_error err;
    char found[4096];
    bool seen;
    write_bytes(inside("run/config.yaml"), 20, 1);
    write_bytes(inside("run/dataset.index"), 3 * BL_PIECE_BYTES_MAX, 2);
    serve(NULL, 1);
    files_point(net.files, &net.place);
    assert_ok(files_write_token(net.run, net.place.token, &err), err);
    assert_ok(files_find_run(net.files, net.run, true, found, &seen, &err), err);
    assert_true(seen);
    assert_string_equal(found, net.run);
    net.place.token[0] ^=
        1; /* a copy of the folder, from before the coordinator was started again */
    assert_false(files_token_is(net.run, net.place.token));
    assert_ok(bl_folder_make(inside("copy"), &err), err);
    assert_ok(files_find_run(net.files, inside("copy"), false, found, &seen, &err), err);
    assert_false(seen);
    assert_int_equal(strncmp(found, inside("host/"), strlen(inside("host/"))), 0);
    char index[4200];
    snprintf(index, sizeof index, "%s/dataset.index", found);
    assert_equal_files(index, inside("run/dataset.index"));
    files_let_go_of_run(net.files);
    assert_false(bl_path_is_file(index));
}

static void a_private_folder_goes_with_its_process_or_with_the_next(void **state)
{
    struct bl_private_folder one = {.lock = -1}, two = {.lock = -1};
    struct bl_error err;
    assert_ok(bl_folder_make(inside("host/blipren-private-killed"), &err), err);
    write_bytes(inside("host/blipren-private-killed/x"), 10, 1);
    assert_ok(bl_private_folder_open(&one, &err), err);
    assert_false(bl_path_is_folder(inside("host/blipren-private-killed")));
    assert_ok(bl_private_folder_open(&two, &err), err);
    assert_true(bl_path_is_folder(one.path));
    bl_private_folder_close(&one);
    assert_false(bl_path_is_folder(one.path));
    assert_true(bl_path_is_folder(two.path));
    bl_private_folder_close(&two);
}

#define NET(test) cmocka_unit_test_setup_teardown(test, open_net, close_net)

UNIT_MAIN(NET(files_of_any_size_come_equal), NET(a_transfer_survives_the_coordinator),
          NET(a_file_that_was_made_anew_meanwhile_begins_again),
          NET(a_stop_ends_a_transfer_that_waits), NET(who_does_not_know_the_token_gets_nothing),
          NET(who_does_not_have_the_keys_gets_nothing), NET(only_what_a_peer_needs_is_sent),
          NET(a_checkpoint_arrives_whole_from_whom_it_was_asked_of),
          NET(what_is_no_checkpoint_s_file_is_not_written_and_what_is_unfinished_goes),
          NET(a_large_checkpoint_comes_through_connections_that_are_cut),
          NET(an_undisturbed_transfer_has_one_connection),
          NET(neither_side_holds_more_than_a_few_pieces_of_a_file),
          NET(another_folder_of_the_same_name_is_not_the_run_folder),
          NET(a_private_folder_goes_with_its_process_or_with_the_next))

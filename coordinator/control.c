/* coordinator/control.c - the coordinator's side of control.h. */
#include "coordinator/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/json.h"
#include "coordinator/control_address.h"

#define CLIENTS_MAX 16 /* at a time; more are turned away */
#define LINE_MAX_BYTES 64
#define BACKLOG 16

struct client {
    struct control *control;
    struct client *next;
    uv_pipe_t pipe;
    uv_write_t write;
    char *answer; /* being written */
    char line[LINE_MAX_BYTES];
    size_t length;
    enum control_command
        waits_for; /* CONTROL_COMMAND_COUNT: its line is not complete, or it has its answer */
};

struct control {
    control_asked *asked;
    void *context;
    uv_pipe_t listener;
    int folder;         /* O_PATH */
    struct stat socket; /* ours: another coordinator may have put its own in its place */
    struct client *clients;
    int count;
    bool closing;
};

static void free_if_empty(struct control *control)
{
    if (control->closing && control->count == 0 && control->folder < 0)
        free(control);
}

static void on_client_closed(uv_handle_t *handle)
{
    struct client *client = handle->data;
    struct control *control = client->control;
    struct client **at = &control->clients;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    control->count--;
    free(client->answer);
    free(client);
    free_if_empty(control);
}

static void drop(struct client *client)
{
    client->waits_for = CONTROL_COMMAND_COUNT;
    if (!uv_is_closing((uv_handle_t *)&client->pipe))
        uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static void on_written(uv_write_t *write, int status)
{
    drop(write->data);
}

static void answer_one(struct client *client, const json_t *answer)
{
    client->waits_for = CONTROL_COMMAND_COUNT;
    bl_autofree char *line = NULL;
    if (client->answer || bl_json_line(answer, 6, &line, NULL) < 0 ||
        asprintf(&client->answer, "%s\n", line) < 0)
        return drop(client);
    uv_buf_t buffer = uv_buf_init(client->answer, (unsigned)strlen(client->answer));
    client->write.data = client;
    if (uv_write(&client->write, (uv_stream_t *)&client->pipe, &buffer, 1, on_written) < 0)
        drop(client);
}

/* The connection ends with the process, and not before: whoever asked for a stop waits for that. */
static void keep_open(struct client *client)
{
    uv_os_fd_t fd;
    if (uv_fileno((uv_handle_t *)&client->pipe, &fd) == 0)
        fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

void control_answer(struct control *control, enum control_command command, json_t *answer)
{
    for (struct client *c = control ? control->clients : NULL; c; c = c->next) {
        if (c->waits_for != command)
            continue;
        if (command == CONTROL_STOP)
            keep_open(c);
        answer_one(c, answer);
    }
    json_decref(answer);
}

json_t *control_error(const struct bl_error *error)
{
    char text[2048];
    bl_error_format(error, text, sizeof text);
    json_t *object = json_object();
    if (object)
        json_object_set_new(object, "error", bl_json_text(text));
    if (object)
        json_object_set_new(object, "code", bl_json_text(bl_error_name(error->code)));
    return object;
}

static void take_line(struct client *client)
{
    static const char *const words[] = {
#define X(name, word) word,
        CONTROL_COMMANDS(X)
#undef X
    };
    char word[LINE_MAX_BYTES];
    unsigned number = 0;
    bool has_word = sscanf(client->line, "%63s %9u", word, &number) >= 1;
    for (int i = 0; has_word && i < CONTROL_COMMAND_COUNT; i++)
        if (!strcmp(word, words[i])) {
            client->waits_for = (enum control_command)i;
            return client->control->asked(client->control->context, client->waits_for, number);
        }
    struct bl_error err;
    bl_fail(&err, BL_EUSAGE, "this coordinator, blipren %s, knows no command \"%s\"",
            BLIPREN_VERSION, client->line);
    json_t *error = control_error(&err);
    answer_one(client, error);
    json_decref(error);
}

static void lend(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    struct client *client = handle->data;
    *ret = uv_buf_init(client->line + client->length,
                       (unsigned)(sizeof client->line - 1 - client->length));
}

static void on_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer)
{
    struct client *client = stream->data;
    if (size < 0)
        return drop(client); /* it is gone, or its line too long */
    client->length += (size_t)size;
    char *end = memchr(client->line, '\n', client->length);
    if (!end || client->waits_for != CONTROL_COMMAND_COUNT || client->answer)
        return;
    *end = '\0';
    client->length = 0; /* what follows is read and forgotten: so its leaving is seen */
    take_line(client);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct control *control = listener->data;
    struct client *client = status < 0 ? NULL : calloc(1, sizeof *client);
    if (!client)
        return;
    client->control = control;
    client->waits_for = CONTROL_COMMAND_COUNT;
    uv_pipe_init(listener->loop, &client->pipe, 0);
    client->pipe.data = client;
    client->next = control->clients;
    control->clients = client;
    control->count++;
    if (uv_accept(listener, (uv_stream_t *)&client->pipe) < 0 || control->count > CLIENTS_MAX ||
        uv_read_start((uv_stream_t *)&client->pipe, lend, on_read) < 0)
        drop(client);
}

static int fail_socket(const char *run_folder, struct bl_error *err)
{
    bl_fail_errno(err, "the socket for `blipren-coord status`, `stop` and `checkpoint-now` "
                       "cannot be made");
    bl_error_remedy(err, "a file system with Unix sockets has them");
    return bl_error_file(err, run_folder);
}

/* -1 and errno. */
static int bind_in(int folder)
{
    struct sockaddr_un address;
    bl_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || (unlinkat(folder, CONTROL_NAME, 0) < 0 && errno != ENOENT))
        return -1;
    control_address(folder, &address);
    /* the file takes the socket's mode */
    if (fchmod(fd, S_IRUSR | S_IWUSR) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    int bound = fd;
    fd = -1;
    return bound;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct control *control = handle->data;
    struct stat there;
    if (fstatat(control->folder, CONTROL_NAME, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
        there.st_ino == control->socket.st_ino && there.st_dev == control->socket.st_dev)
        unlinkat(control->folder, CONTROL_NAME, 0);
    close(control->folder);
    control->folder = -1;
    free_if_empty(control);
}

int control_open(uv_loop_t *loop, const char *run_folder, control_asked *asked, void *context,
                 struct control **ret, struct bl_error *err)
{
    bl_autofd int folder = open(run_folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return fail_socket(run_folder, err);
    bl_autofd int fd = bind_in(folder);
    if (fd < 0)
        return fail_socket(run_folder, err);
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        return bl_fail(err, BL_ENOMEM, "no memory for the control socket");
    control->asked = asked;
    control->context = context;
    control->folder = folder;
    folder = -1; /* the control's from here on */
    (void)fstatat(control->folder, CONTROL_NAME, &control->socket, AT_SYMLINK_NOFOLLOW);
    uv_pipe_init(loop, &control->listener, 0);
    control->listener.data = control;
    int rc = uv_pipe_open(&control->listener, fd);
    if (rc == 0) {
        fd = -1; /* the handle's */
        rc = uv_listen((uv_stream_t *)&control->listener, BACKLOG, on_connection);
    }
    if (rc < 0) {
        control_close(&control);
        errno = -rc;
        return fail_socket(run_folder, err);
    }
    *ret = control;
    return 0;
}

void control_close(struct control **control)
{
    struct control *c = *control;
    if (!c)
        return;
    c->closing = true;
    for (struct client *client = c->clients; client; client = client->next)
        drop(client);
    uv_close((uv_handle_t *)&c->listener, on_listener_closed);
    *control = NULL;
}

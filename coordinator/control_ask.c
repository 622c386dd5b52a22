/* coordinator/control_ask.c - the client's side of control.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/file.h"
#include "common/json.h"
#include "coordinator/control.h"
#include "coordinator/control_address.h"

#define ANSWER_MAX_BYTES ((size_t)16 << 20)

static const char *const words[] = {
#define X(name, word) word,
    CONTROL_COMMANDS(X)
#undef X
};

/* Nobody listens. RUN/lock has the host and process that had the run last. */
static int fail_absent(const char *run_folder, struct bl_error *err)
{
    char path[4096], here[256] = "";
    bl_autofree char *owner = NULL;
    size_t size = 0;
    gethostname(here, sizeof here - 1);
    if (bl_path_join(path, sizeof path, run_folder, "lock", NULL) == 0)
        (void)bl_file_read(path, 4096, &owner, &size, NULL); /* then nobody is named */
    size_t length = owner ? strcspn(owner, " \n") : 0;
    bool elsewhere = length && (strlen(here) != length || strncmp(owner, here, length) != 0);
    bl_fail(err, BL_EPEER, "no coordinator answers in this run folder on %s%s%.*s", here,
            elsewhere ? "; it was last one of " : "", elsewhere ? (int)length : 0,
            elsewhere ? owner : "");
    bl_error_remedy(err, elsewhere ? "run this command on that host"
                                   : "`blipren-coord train` starts it; while it reads its data it "
                                     "does not answer yet");
    return bl_error_file(err, run_folder);
}

static int connect_to(const char *run_folder, int *ret_fd, struct bl_error *err)
{
    struct sockaddr_un address;
    bl_autofd int folder = open(run_folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        bl_fail_errno(err, "expected a run folder");
        return bl_error_file(err, run_folder);
    }
    bl_autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bl_fail_errno(err, "no socket");
    control_address(folder, &address);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        if (errno == ENOENT || errno == ECONNREFUSED)
            return fail_absent(run_folder, err);
        bl_fail_errno(err, "the coordinator's socket cannot be used");
        bl_error_remedy(err, "run this as the user that the coordinator runs as");
        return bl_error_file(err, run_folder);
    }
    *ret_fd = fd;
    fd = -1;
    return 0;
}

static int fail_silent(bool ended, const char *run_folder, struct bl_error *err)
{
    bl_fail(err, BL_EPEER, "the coordinator %s",
            ended ? "ended before it answered" : "lives, and does not answer");
    bl_error_remedy(err, "see the coordinator's own log");
    return bl_error_file(err, run_folder);
}

static int read_line(int fd, const char *run_folder, char **ret, struct bl_error *err)
{
    size_t length = 0, room = 0;
    bl_autofree char *text = NULL;
    for (;;) {
        if (length == room) {
            room = room ? 2 * room : 4096;
            char *more = room <= ANSWER_MAX_BYTES ? realloc(text, room) : NULL;
            if (!more)
                return bl_fail(err, BL_ENOMEM, "no memory for the coordinator's answer");
            text = more;
        }
        ssize_t n = read(fd, text + length, room - length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_silent(n == 0 || errno == ECONNRESET, run_folder, err);
        length += (size_t)n;
        if (text[length - 1] == '\n')
            break;
    }
    text[length - 1] = '\0';
    *ret = bl_take(&text);
    return 0;
}

/* An answer that is an error becomes this program's. */
static int take_answer(const char *line, json_t **ret, struct bl_error *err)
{
    bl_autojson json_t *answer = NULL;
    const char *text = NULL, *code = "";
    BL_TRY(bl_json_parse(line, strlen(line), &answer, err));
    BL_TRY(bl_json_string(answer, "error", &text, err));
    BL_TRY(bl_json_string(answer, "code", &code, err));
    if (text)
        return bl_fail(err, (enum bl_error_code)bl_error_code(code), "%s", text);
    *ret = bl_take(&answer);
    return 0;
}

int control_ask(const char *run_folder, enum control_command command, unsigned number,
                unsigned patience_ms, json_t **ret, struct bl_error *err)
{
    bl_autofd int fd = -1;
    bl_autofree char *line = NULL;
    BL_TRY(connect_to(run_folder, &fd, err));
    struct timeval limit = {.tv_sec = patience_ms / 1000, .tv_usec = patience_ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    char request[64];
    int size = number ? snprintf(request, sizeof request, "%s %u\n", words[command], number)
                      : snprintf(request, sizeof request, "%s\n", words[command]);
    if (send(fd, request, (size_t)size, MSG_NOSIGNAL) != size)
        return fail_absent(run_folder, err);
    BL_TRY(read_line(fd, run_folder, &line, err));
    char more;
    if (command == CONTROL_STOP) /* until its process has ended */
        while (read(fd, &more, 1) > 0)
            continue;
    return take_answer(line, ret, err);
}

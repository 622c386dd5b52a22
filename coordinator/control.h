/* coordinator/control.h - RUN/control, a Unix socket by which `blipren-coord status`, `stop`, `checkpoint-now` and `scale` reach the
 * coordinator of a run on their host. Whoever may write in the run folder as its owner may use it (mode 0600), nobody else.
 *
 * A client sends one line, a command's name (and for `scale` a number), and gets one line, a JSON object, when there is an answer; the connection then
 * ends; that of a stop with the coordinator's process. An object with "error" is a failure, and has "code", a name of bl_error_name.
 *
 * Addresses of Unix sockets have room for 107 bytes, run folders may be longer: both sides go by /proc/self/fd/N/control,
 * where N is the folder, opened. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "common/error.h"

/* name of the command; what its answer holds */
#define CONTROL_COMMANDS(X)                                                                        \
    X(STATUS, "status")             /* what coordinator/status.h shows */                          \
    X(CHECKPOINT, "checkpoint-now") /* step */                                                     \
    X(SCALE, "scale")               /* workers, before, pause_s */                                 \
    X(STOP, "stop")                 /* step, complete */
enum control_command {
#define X(name, word) CONTROL_##name,
    CONTROL_COMMANDS(X)
#undef X
        CONTROL_COMMAND_COUNT
};

struct control;

/* Called on the loop's thread for each command that a client sends, with its number or 0. */
typedef void control_asked(void *context, enum control_command command, unsigned number);

/* Binds and listens. The run folder must be locked: what an earlier process left is removed. -BL_EIO: the socket cannot be
 * made, as on file systems that have none. */
int control_open(uv_loop_t *loop, const char *run_folder, control_asked *asked, void *context,
                 struct control **ret, struct bl_error *err);
/* Sends the answer to every client that waits for this command's. The answer is taken over. `control` may be NULL. */
void control_answer(struct control *control, enum control_command command, json_t *answer);
/* {"error": …, "code": …} */
json_t *control_error(const struct bl_error *error);
/* Removes the socket and closes the handles; the loop must run on until they are closed. */
void control_close(struct control **control);

/* The client: sends the command, with the number that it takes or 0, to the coordinator of the run folder and waits for its answer, `patience_ms` at most, 0 = for as long
 * as the coordinator lives. *ret is the caller's (bl_json_free). -BL_EPEER: no coordinator answers; else the answer's own
 * error. */
int control_ask(const char *run_folder, enum control_command command, unsigned number,
                unsigned patience_ms, json_t **ret, struct bl_error *err);

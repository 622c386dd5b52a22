/* worker/caption_output.c - see caption_output.h. */
#include "worker/caption_output.h"

#include <string.h>
#include <unistd.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/deadline.h"
#include "common/file.h"
#include "common/json.h"
#include "common/limits.h"
#include "common/log.h"

enum { SHOWN_EVERY_S = 30 };

static int fail_settings(struct bl_error *err)
{
    bl_fail(err, BL_EUSAGE, "it has captions of another checkpoint, or made with other options");
    return bl_error_remedy(err, "choose another file for --out");
}

/* Keeps the line where it is a caption. */
static int take_line(struct caption_output *output, const char *text, size_t size, bool whole,
                     struct bl_bytes *kept, struct bl_error *err)
{
    bl_autojson json_t *line = json_loadb(text, size, 0, NULL);
    const char *name = json_string_value(json_object_get(line, "file_name"));
    const char *settings = json_string_value(json_object_get(line, "settings"));
    if (!whole)
        return 0; /* the last line, which a crash cut short */
    if (!name || !settings) {
        bl_fail(err, BL_EFORMAT, "expected a line written by --out");
        return bl_error_remedy(err, "choose another file for --out");
    }
    if (strcmp(settings, output->settings))
        return fail_settings(err);
    if (!json_object_get(line, "caption"))
        return 0;
    BL_TRY(bl_json_put(output->done, name, json_true(), err));
    return bl_bytes_add(kept, text, size) && bl_bytes_add(kept, "\n", 1)
               ? 0
               : bl_fail(err, BL_ENOMEM, "no memory for the lines of --out");
}

static int read_done(struct caption_output *output, struct bl_error *err)
{
    bl_autobytes struct bl_bytes kept = {0};
    bl_autofree char *text = NULL;
    size_t size;
    int number = 0;
    BL_TRY(bl_file_read(output->path, BL_LIST_BYTES_MAX, &text, &size, err));
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t length = end ? (size_t)(end - (text + at)) : size - at;
        number++;
        if (take_line(output, text + at, length, end != NULL, &kept, err) < 0) {
            bl_error_key(err, "line %d", number);
            return -err->code;
        }
        at += length + 1;
    }
    return kept.size == size
               ? 0
               : bl_file_write(output->path, kept.data ? kept.data : "", kept.size, err);
}

int caption_output_open(struct caption_output *output, const char *path, const char *settings,
                        struct bl_error *err)
{
    *output = (struct caption_output){.file = stdout, .settings = settings, .began_s = bl_now_s()};
    output->shown_s = output->began_s;
    if (!path)
        return 0;
    output->path = path;
    output->done = json_object();
    if (!output->done)
        return bl_fail(err, BL_ENOMEM, "out of memory");
    if (bl_path_is_file(path) && read_done(output, err) < 0)
        return bl_error_file(err, path);
    FILE *file = fopen(path, "ae");
    if (!file) {
        bl_fail_errno(err, "cannot be opened for writing");
        return bl_error_file(err, path);
    }
    output->file = file;
    return 0;
}

int caption_output_close(struct caption_output *output, struct bl_error *err)
{
    bl_json_free(&output->done);
    if (output->shown_s < 0)
        fputs("\r\033[K", stderr);
    if (!output->path)
        return bl_output_finish(err);
    if (output->file == stdout)
        return 0; /* it was never opened */
    int rc = fflush(output->file) == 0 && fsync(fileno(output->file)) == 0
                 ? 0
                 : bl_fail_errno(err, "cannot be written");
    if (fclose(output->file) != 0 && rc == 0)
        rc = bl_fail_errno(err, "cannot be written");
    return rc < 0 ? bl_error_file(err, output->path) : 0;
}

bool caption_output_has(const struct caption_output *output, const char *file_name)
{
    bl_autojson json_t *name = bl_json_text(file_name); /* as the line has it */
    return name && json_object_get(output->done, json_string_value(name));
}

int caption_output_put(struct caption_output *output, json_t *object, struct bl_error *err)
{
    bl_autojson json_t *owned = object;
    bl_autofree char *line = NULL;
    if (output->path)
        BL_TRY(bl_json_put(owned, "settings", json_string(output->settings), err));
    BL_TRY(bl_json_line(owned, 17, &line, err));
    if (fprintf(output->file, "%s\n", line) < 0 && output->path) {
        bl_fail_errno(err, "cannot be written");
        return bl_error_file(err, output->path);
    }
    return 0;
}

void caption_output_progress(struct caption_output *output, size_t images)
{
    const double now = bl_now_s(), elapsed = now - output->began_s;
    const bool terminal = isatty(STDERR_FILENO);
    char text[160];
    output->finished += images;
    if (output->path)
        fflush(output->file); /* what is shown as done is on disk */
    if ((!output->path && isatty(STDOUT_FILENO)) || output->finished >= output->total ||
        (!terminal && now - output->shown_s < SHOWN_EVERY_S))
        return;
    long left =
        (long)(elapsed * (double)(output->total - output->finished) / (double)output->finished);
    snprintf(text, sizeof text, "captioned %zu of %zu, %.1f/s, about %ld:%02ld left",
             output->finished, output->total, (double)output->finished / elapsed, left / 60,
             left % 60);
    output->shown_s = terminal ? -1 : now;
    if (terminal)
        fprintf(stderr, "\r\033[K%s", text);
    else
        bl_log(BL_LOG_INFO, "%s", text);
}

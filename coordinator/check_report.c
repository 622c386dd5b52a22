/* coordinator/check_report.c - the lines that `check` prints, and the first error. */
#include "coordinator/check_parts.h"

#include <stdarg.h>
#include <string.h>

#include "common/utf8.h"

static void say(struct check *c, const char *level, const char *topic, const char *format,
                va_list args)
{
    char line[2048];
    vsnprintf(line, sizeof line, format, args);
    utf8_clean(line); /* file names may hold anything */
    if (c->out)
        fprintf(c->out, "%-8s %-9s %s\n", level, topic, line);
    else if (!strcmp(level, "warning"))
        c->warn(line);
}

#define SAYER(name, count)                                                                         \
    void check_##name(struct check *c, const char *topic, const char *format, ...)                 \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, format);                                                                    \
        say(c, #name, topic, format, args);                                                        \
        va_end(args);                                                                              \
        count;                                                                                     \
    }
SAYER(ok, (void)0)
SAYER(note, (void)0)
SAYER(warning, c->warnings++)

bool check_passes(struct check *c, const char *topic, int rc, struct bl_error *err)
{
    char line[1600];
    if (rc >= 0)
        return true;
    bl_error_complete(err);
    bl_error_format(err, line, sizeof line);
    if (c->out)
        fprintf(c->out, "%-8s %-9s %s\n", "error", topic, line);
    if (!c->errors++)
        c->first = *err;
    return false;
}

bool check_model_passes(struct check *c, const char *topic, int rc, struct bl_error *err)
{
    if (rc < 0)
        bl_error_key(err, "%s.path", topic);
    return check_passes(c, topic, rc, err);
}

void check_wrong(struct check *c, const char *topic, const char *key, const char *remedy,
                 const char *format, ...)
{
    struct bl_error err;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bl_fail(&err, BL_ECONFIG, "%s", text);
    bl_error_key(&err, "%s", key);
    bl_error_file(&err, c->yaml);
    if (remedy)
        bl_error_remedy(&err, "%s", remedy);
    check_passes(c, topic, -BL_ECONFIG, &err);
}

const char *check_size_text(int64_t bytes)
{
    static char texts[4][32];
    static int at;
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1000 && unit < 4; unit++)
        value /= 1000;
    at = (at + 1) % 4;
    snprintf(texts[at], sizeof texts[at], "%.*f %s", unit && value < 100 ? 1 : 0, value,
             units[unit]);
    return texts[at];
}

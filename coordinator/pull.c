/* coordinator/pull.c - see pull.h. */
#include "coordinator/pull.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/config/config.h"
#include "common/deadline.h"
#include "common/hub/pull.h"
#include "common/log.h"

struct shown {
    uint64_t began_ms, shown_ms, fetched; /* of the repository under way */
    bool open;                            /* a line on the terminal is not ended yet */
};

static void end_line(struct shown *shown)
{
    if (shown->open)
        fputc('\n', stderr);
    shown->open = false;
}

static void show(void *context, const struct hub_progress *p)
{
    struct shown *shown = context;
    bool terminal = isatty(STDERR_FILENO), last = p->files_done == p->files;
    uint64_t now = bl_now_ms();
    char text[300], left[40] = "";
    if (!p->fetched || (!last && now - shown->shown_ms < (terminal ? 500 : 10000)))
        return;
    shown->shown_ms = now;
    double rate = (double)p->fetched / ((double)(now - shown->began_ms) / 1e3 + 1e-3);
    long s = (long)((double)(p->bytes - p->bytes_done) / rate + 0.5);
    if (s)
        snprintf(left, sizeof left, ", about %ld:%02ld:%02ld left", s / 3600, s / 60 % 60, s % 60);
    snprintf(text, sizeof text, "pull: %s: %d of %d files, %.3g of %.3g MB, %.3g MB/s%s",
             p->id->name, p->files_done, p->files, (double)p->bytes_done / 1e6,
             (double)p->bytes / 1e6, rate / 1e6, left);
    if (terminal)
        fprintf(stderr, "\r\033[K%s", text);
    else
        bl_log(BL_LOG_INFO, "%s", text);
    shown->open = terminal;
}

static void say(void *context, const char *line)
{
    end_line(context);
    bl_log(BL_LOG_INFO, "pull: %s", line);
}

static int pull_one(const struct config_repository *r, struct bl_error *err)
{
    char folder[4096];
    struct shown shown = {.began_ms = bl_now_ms(), .shown_ms = bl_now_ms()};
    struct hub_pull_options options = {.progress = show, .say = say, .context = &shown};
    struct hub_pulled pulled;
    if (!hub_find(&r->id, folder, sizeof folder))
        bl_log(BL_LOG_INFO, "pull: %s: no file or folder %s here: taken as a name on the Hub",
               r->key, r->id.name);
    int rc = hub_pull(&r->id, &options, &pulled, err);
    end_line(&shown);
    if (rc < 0)
        return bl_error_key(err, "%s", r->key);
    if (pulled.files)
        printf("%s %s: %d files, %.1f MB (%.1f MB fetched) in %s\n", r->key, r->id.name,
               pulled.files, (double)pulled.bytes / 1e6, (double)pulled.fetched / 1e6,
               pulled.folder);
    else
        printf("%s %s: offline, found in %s\n", r->key, r->id.name, pulled.folder);
    fflush(stdout);
    return 0;
}

static int pull_all(const struct config *config, bool missing_only, struct bl_error *err)
{
    char folder[4096];
    for (size_t i = 0; i < config->hub.count; i++)
        if (!missing_only || !hub_find(&config->hub.at[i].id, folder, sizeof folder))
            BL_TRY(pull_one(&config->hub.at[i], err));
    if (!config->hub.count && !missing_only)
        puts("nothing to pull: all paths are of files and folders here");
    return 0;
}

int pull_run(const char *yaml, bool missing_only, struct bl_error *err)
{
    struct config *config = NULL;
    BL_TRY(config_open(yaml, &config, err));
    int rc = pull_all(config, missing_only, err);
    config_free(&config);
    return rc;
}

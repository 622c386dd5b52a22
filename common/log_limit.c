/* common/log_limit.c - see log_limit.h. */
#include "common/log_limit.h"

#include <stdio.h>
#include <string.h>

static bool is_over(const struct log_limit_entry *e, uint64_t now_ms)
{
    return now_ms - e->since_ms >= LOG_LIMIT_MS;
}

/* FNV-1a. */
static uint32_t hash(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 16777619u;
    return h;
}

/* The peer's entry, a free one, or that of all others. Entries are looked for in a few neighbouring places only: a full table
 * costs no more than an empty one. */
static struct log_limit_entry *find(struct log_limit *limit, const char *peer, uint64_t now_ms)
{
    enum { PLACES = 8 };
    struct log_limit_entry *free = NULL;
    uint32_t first = hash(peer);
    for (uint32_t i = 0; i < PLACES; i++) {
        struct log_limit_entry *e = &limit->at[(first + i) % LOG_LIMIT_PEERS];
        if (strcmp(e->peer, peer) == 0)
            return e;
        if (!free && (!e->peer[0] || (is_over(e, now_ms) && !e->left_out)))
            free = e;
    }
    if (!free)
        return &limit->at[LOG_LIMIT_PEERS];
    *free = (struct log_limit_entry){.since_ms = now_ms};
    snprintf(free->peer, sizeof free->peer, "%s", peer);
    return free;
}

bool log_limit_may(struct log_limit *limit, const char *peer, uint64_t now_ms)
{
    char name[LOG_LIMIT_NAME_MAX];
    snprintf(name, sizeof name, "%s", peer[0] ? peer : "?");
    struct log_limit_entry *e = find(limit, name, now_ms);
    if (!e->left_out && is_over(e, now_ms)) {
        e->since_ms = now_ms;
        e->said = 0;
    }
    if (e->said < LOG_LIMIT_LINES) {
        e->said++;
        return true;
    }
    e->left_out++;
    return false;
}

bool log_limit_count(struct log_limit *limit, uint64_t now_ms, char ret_peer[LOG_LIMIT_NAME_MAX],
                     uint32_t *ret_count)
{
    for (uint32_t i = 0; i <= LOG_LIMIT_PEERS; i++) {
        struct log_limit_entry *e = &limit->at[i];
        if (!e->left_out || !is_over(e, now_ms))
            continue;
        snprintf(ret_peer, LOG_LIMIT_NAME_MAX, "%s", e->peer[0] ? e->peer : "other peers");
        *ret_count = e->left_out;
        *e = (struct log_limit_entry){0};
        return true;
    }
    return false;
}

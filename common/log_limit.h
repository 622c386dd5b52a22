/* common/log_limit.h - how many lines of the log one peer may provoke: so many a minute, then they are counted. The table has a
 * fixed size; peers beyond it share one entry. Pure: the caller has the clock, and the lock. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LOG_LIMIT_LINES 9 /* a minute; the tenth says how many were left out */
#define LOG_LIMIT_MS 60000
#define LOG_LIMIT_PEERS 1024 /* and one more for all others */
#define LOG_LIMIT_NAME_MAX 64

struct log_limit_entry {
    char peer[LOG_LIMIT_NAME_MAX]; /* the beginning of its name or address; empty: free */
    uint64_t since_ms;
    uint32_t said, left_out;
};
/* All zero at first. */
struct log_limit {
    struct log_limit_entry at[LOG_LIMIT_PEERS + 1];
};

/* Is this peer's next line to be written? If not, it is counted. */
bool log_limit_may(struct log_limit *limit, const char *peer, uint64_t now_ms);
/* A peer of which lines were left out in a minute that is over, and how many; each is told once. false: there is none. */
bool log_limit_count(struct log_limit *limit, uint64_t now_ms, char ret_peer[LOG_LIMIT_NAME_MAX],
                     uint32_t *ret_count);

/* common/data/indexing.c - see indexing.h. */
#include "common/data/indexing.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/deadline.h"
#include "common/log.h"

enum { LINE_EVERY_S = 5 };

void indexing_text(enum dataset_phase phase, uint64_t done, uint64_t total, double elapsed_s,
                   char *ret, size_t size)
{
    double share = total ? (double)done / (double)total : 1;
    int used = snprintf(ret, size, "%s: %llu of %llu (%d%%)", dataset_phase_words(phase),
                        (unsigned long long)done, (unsigned long long)total, (int)(share * 100));
    if (share < 0.001 || used < 0 || (size_t)used >= size)
        return;
    long left = (long)(elapsed_s * (1 - share) / share + 0.5);
    snprintf(ret + used, size - (size_t)used, ", about %ld:%02ld left", left / 60, left % 60);
}

bool indexing_show(void *context, enum dataset_phase phase, uint64_t done, uint64_t total)
{
    struct indexing *in = context;
    double now = bl_now_s();
    char text[160];
    if (!in->began_s || phase != in->phase)
        *in = (struct indexing){phase, now, now};
    indexing_text(phase, done, total, now - in->began_s, text, sizeof text);
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r\033[K%s", done < total ? text : "");
        fflush(stderr);
    } else if (now - in->shown_s >= LINE_EVERY_S) {
        in->shown_s = now;
        bl_log(BL_LOG_INFO, "%s", text);
    }
    return true;
}

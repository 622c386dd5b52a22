/* coordinator/loop_notes.c - what the rules say of peers, as lines of the log: who is lost, who is waited for, and for what. A flood
 * of them is cut: NOTES_AT_ONCE lines, then one in NOTE_EVERY_MS, and how many were left out. */
#include <inttypes.h>
#include <string.h>

#include "common/log.h"
#include "coordinator/loop_state.h"

#define NOTES_AT_ONCE 20
#define NOTE_EVERY_MS 500

static bool may_say(struct loop *l)
{
    uint64_t now = uv_now(&l->uv);
    uint64_t earned = (now - l->notes_ms) / NOTE_EVERY_MS;
    l->notes_ms += earned * NOTE_EVERY_MS;
    l->notes_said = earned > l->notes_said ? 0 : l->notes_said - (uint32_t)earned;
    if (l->notes_said == NOTES_AT_ONCE) {
        l->notes_cut++;
        return false;
    }
    if (l->notes_cut)
        bl_log(BL_LOG_WARNING, "%u lines like these were left out", l->notes_cut);
    l->notes_cut = 0;
    l->notes_said++;
    return true;
}

/* "; it was in phase=load, waiting for data" as its last Beat said. */
static void phase_of(const struct peer *peer, char *ret, size_t size)
{
    ret[0] = 0;
    if (peer && peer->phase[0])
        snprintf(ret, size, "; phase=%s%s%s", peer->phase, peer->waiting[0] ? " waiting=" : "",
                 peer->waiting);
}

static void micro_batch_of(const struct coord_action *a, char *ret, size_t size)
{
    ret[0] = 0;
    if (a->note.has_micro_batch)
        snprintf(ret, size, " (%s step=%" PRIu64 " micro-batch=%u)",
                 a->note.micro_batch_kind == BL_KIND_EMBED      ? "embedding"
                 : a->note.micro_batch_kind == BL_KIND_VALIDATE ? "validation"
                                                                : "training",
                 a->note.step, a->note.micro_batch);
}

void loop_note(struct loop *l, const struct coord_action *a)
{
    struct peer *peer = a->link ? peers_of_link(l->peers, a->link) : NULL;
    struct peer *other = a->note.other_link ? peers_of_link(l->peers, a->note.other_link) : NULL;
    char phase[BL_BEAT_WAITING_MAX + 64], micro_batch[96], line[1600];
    phase_of(peer, phase, sizeof phase);
    micro_batch_of(a, micro_batch, sizeof micro_batch);
    const char *name = peer ? peer->name : "";
    const char *to = other ? other->name : "", *space = other ? " " : "";
    double s = (double)a->note.ms / 1000;
    switch (a->note.kind) {
    case COORD_NOTE_LOST:
        snprintf(line, sizeof line, "peer=%s %s for %.1f s%s", name, a->note.text, s, phase);
        break;
    case COORD_NOTE_STALLED:
        snprintf(line, sizeof line,
                 "peer=%s is alive but made no progress for %.1f s, and is dropped; the run was "
                 "waiting for it %s%s",
                 name, s, a->note.text, phase);
        break;
    case COORD_NOTE_REVOKED:
        snprintf(line, sizeof line, "peer=%s %s%s%s%s; after %.1f s it goes to another loader",
                 name, a->note.text, space, to, micro_batch, s);
        break;
    case COORD_NOTE_HEDGED:
        snprintf(line, sizeof line, "peer=%s %s%s%s%s for %.1f s; another loader makes it, too",
                 name, a->note.text, space, to, micro_batch, s);
        break;
    case COORD_NOTE_RESTING:
    case COORD_NOTE_LEFT_OUT:
    case COORD_NOTE_UNFORMED:
        snprintf(line, sizeof line, "peer=%s %s%s%s", name, a->note.text, space, to);
        if (a->note.ms)
            snprintf(line + strlen(line), sizeof line - strlen(line), ", for %.1f s", s);
        break;
    default:
        snprintf(line, sizeof line, "no progress for %.1f s; waiting for %s%s%s%s%s%s%s", s,
                 peer ? "peer=" : "", name, peer ? " " : "", a->note.text, space, to, micro_batch);
        snprintf(line + strlen(line), sizeof line - strlen(line), "%s", phase);
        break;
    }
    if (a->note.kind == COORD_NOTE_UNFORMED || a->note.kind == COORD_NOTE_STALLED)
        snprintf(l->blame, sizeof l->blame, "%s", line);
    if (may_say(l))
        bl_log(BL_LOG_WARNING, "%s", line);
}

/* proto/core_member.c - see core_member.h. Numbers like W2 refer to docs/protocol.md. */
#include "proto/core_member.h"

#include "common/limits.h"

const char *core_rule_name(enum core_rule rule)
{
    static const char *const names[] = {
        [RULE_DO] = "do", [RULE_LATE] = "late", [RULE_PROTO] = "proto", [RULE_BUG] = "bug"};
    return names[rule];
}

static void connect_anew(struct core_member *m)
{
    m->link++;
    m->linked = false;
    m->connect_ms = m->now_ms;
    m->state = MEMBER_JOINING;
    m->calls->connect(m->core);
}

static void be_ready(struct core_member *m)
{
    m->state = MEMBER_READY;
    m->calls->ready(m->core);
}

void core_member_init(struct core_member *m, const struct core_member_config *config,
                      const struct core_member_calls *calls, void *core)
{
    *m = (struct core_member){.calls = calls,
                              .core = core,
                              .config = *config,
                              .timing = bl_timing_of(config->patience_ms)};
}

void core_member_start(struct core_member *m, uint64_t now_ms)
{
    m->now_ms = m->away_ms = now_ms;
    connect_anew(m);
}

bool core_member_admit(struct core_member *m, enum core_source source, uint64_t link,
                       uint64_t epoch, uint64_t now_ms)
{
    if (now_ms > m->now_ms)
        m->now_ms = now_ms;
    if (source == SOURCE_OWN)
        return true;
    bool link_is_dead = !m->linked && m->state != MEMBER_JOINING;
    if (link != m->link || link_is_dead) {
        m->late++;
        return false;
    }
    if (source == SOURCE_MESSAGE && epoch < m->epoch) { /* J4 */
        m->late++;
        core_member_lost(m);
        return false;
    }
    if (source == SOURCE_MESSAGE)
        m->heard_ms = m->now_ms;
    return true;
}

bool core_member_apply(struct core_member *m, enum core_rule rule, int type, int state)
{
    switch (rule) {
    case RULE_DO:
        return true;
    case RULE_LATE:
        m->late++;
        return false;
    case RULE_PROTO:
        core_member_wrong(m);
        return false;
    case RULE_BUG:
        bl_assert_failed_cmp("an event (number) that its state (number) excludes", type, state,
                             __FILE__, __LINE__, __func__);
    }
    return false;
}

void core_member_welcome(struct core_member *m, uint32_t patience_ms, uint64_t epoch)
{
    if (patience_ms < BL_PATIENCE_MS_MIN)
        return core_member_wrong(m);
    m->epoch = epoch;
    m->linked = true;
    m->timing = bl_timing_of(patience_ms);
    m->beat_ms = m->now_ms + m->timing.heartbeat_ms;
    if (m->opened)
        return be_ready(m);
    bool start = !m->opening;
    m->opening = true;
    m->state = MEMBER_OPENING;
    m->calls->open(m->core, start);
}

void core_member_opened(struct core_member *m)
{
    m->opened = true;
    if (m->state == MEMBER_OPENING)
        be_ready(m);
}

/* What the program holds goes first; then it comes back (W2). */
void core_member_lost(struct core_member *m)
{
    if (m->linked)
        m->away_ms = m->now_ms;
    m->linked = false;
    if (!m->calls->let_go(m->core))
        return;
    if (m->state != MEMBER_JOINING || m->now_ms >= m->connect_ms + m->timing.heartbeat_ms)
        connect_anew(m); /* else the last try is too young: TICK makes the next */
}

void core_member_wrong(struct core_member *m)
{
    m->violations++;
    core_member_lost(m);
}

void core_member_resume(struct core_member *m)
{
    if (m->linked)
        be_ready(m);
    else
        connect_anew(m);
}

void core_member_tick(struct core_member *m)
{
    if (!m->linked && m->now_ms >= m->away_ms + m->config.reconnect_ms)
        return core_member_exit(m, BL_EPEER, "no coordinator answered within --patience");
    if (m->linked && m->now_ms >= m->heard_ms + m->timing.lost_ms)
        return core_member_lost(m);
    if (m->state == MEMBER_JOINING && m->now_ms >= m->connect_ms + m->timing.lost_ms)
        return connect_anew(m);
    if (m->linked && m->now_ms >= m->beat_ms) {
        m->beat_ms = m->now_ms + m->timing.heartbeat_ms;
        m->calls->beat(m->core);
    }
}

void core_member_exit(struct core_member *m, int code, const char *text)
{
    m->state = MEMBER_GONE;
    m->calls->exit(m->core, code, text);
}

/* tests/unit/protocol_test.c - docs/protocol.md says what the code does: each state, what it waits for, and the entry of every
 * (state, event) pair; and the numbers that comments cite exist there. */
#include "tests/unit/unit.h"

#include <ctype.h>

#include "common/file.h"
#include "coordinator/core.h"
#include "loader/core.h"
#include "worker/core.h"

static char *read_source(const char *name)
{
    char path[4096], *text;
    size_t size;
    struct bl_error err = {0};
    snprintf(path, sizeof path, "%s/%s", getenv("BLIPREN_SOURCE"), name);
    assert_ok(bl_file_read(path, 1 << 20, &text, &size, &err), err);
    return text;
}

/* The text from one heading to the next of its kind, or to the end. */
static char *section(const char *document, const char *heading)
{
    const char *start = strstr(document, heading);
    assert_non_null(start);
    const char *end = strstr(start + strlen(heading), "\n### ");
    return end ? strndup(start, (size_t)(end - start)) : strdup(start);
}

static void assert_line(const char *text, const char *line)
{
    char wanted[4096];
    snprintf(wanted, sizeof wanted, "\n%s\n", line);
    if (!strstr(text, wanted))
        fail_msg("docs/protocol.md: expected the line: %s", line);
}

struct machine {
    const char *heading;
    int states, events;
    const char *(*state_name)(int), *(*event_name)(int), *(*rule_name)(int, int);
    const char *const *waits;
};

static void compare(const struct machine *machine)
{
    char *document = read_source("docs/protocol.md");
    char *text = section(document, machine->heading);
    char line[4096];
    size_t size = (size_t)snprintf(line, sizeof line, "| event |");
    for (int state = 0; state < machine->states; state++)
        size +=
            (size_t)snprintf(line + size, sizeof line - size, " %s |", machine->state_name(state));
    assert_line(text, line);
    for (int state = 0; state < machine->states; state++) {
        snprintf(line, sizeof line, "| %s | %s |", machine->state_name(state),
                 machine->waits[state]);
        assert_line(text, line);
    }
    int rows = 0;
    for (int event = 0; event < machine->events; event++) {
        size = (size_t)snprintf(line, sizeof line, "| %s |", machine->event_name(event));
        for (int state = 0; state < machine->states; state++)
            size += (size_t)snprintf(line + size, sizeof line - size, " %s |",
                                     machine->rule_name(state, event));
        assert_line(text, line);
    }
    for (const char *row = text; (row = strstr(row, "\n| ")); row++)
        rows++;
    assert_int_equal(rows, machine->states + machine->events + 4); /* two heads and two rulers */
    free(text);
    free(document);
}

#define WAITS(name, waits_for) waits_for,
#define MACHINE(prefix, PREFIX, heading)                                                           \
    static const char *prefix##_state(int state)                                                   \
    {                                                                                              \
        return prefix##_state_name((enum prefix##_state)state);                                    \
    }                                                                                              \
    static const char *prefix##_event(int event)                                                   \
    {                                                                                              \
        return prefix##_event_name((enum prefix##_event_type)event);                               \
    }                                                                                              \
    static const char *prefix##_rule(int state, int event)                                         \
    {                                                                                              \
        return prefix##_rule_name((enum prefix##_state)state, (enum prefix##_event_type)event);    \
    }                                                                                              \
    static const char *const prefix##_waits[] = {PREFIX##_STATES(WAITS)};                          \
    static void the_##prefix##_table_is_the_codes(void **state)                                    \
    {                                                                                              \
        compare(&(struct machine){heading, PREFIX##_STATE_COUNT, PREFIX##_EVENT_COUNT,             \
                                  prefix##_state, prefix##_event, prefix##_rule, prefix##_waits}); \
    }
MACHINE(coord, COORD, "### Coordinator")
MACHINE(worker, WORKER, "### Worker")
MACHINE(loader, LOADER, "### Loader")

/* "(M7)", "(C2)" and the like in a core's comments. */
static void every_number_that_the_code_cites_is_in_the_document(void **state)
{
    static const char *const sources[] = {
        "coordinator/core.c",        "coordinator/core_state.h",
        "coordinator/core_lease.c",  "coordinator/core_state.c",
        "coordinator/core_peers.c",  "coordinator/core_reach.c",
        "coordinator/core_save.c",   "coordinator/core_assign.c",
        "coordinator/core_hedge.c",  "coordinator/core_delivery.c",
        "coordinator/core_live.c",   "coordinator/core_generation.c",
        "coordinator/core_wait.c",   "coordinator/ledger.c",
        "proto/core_member.c",       "worker/core.c",
        "worker/core_generation.c",  "worker/core_membership.c",
        "worker/core_snapshot.c",    "worker/core_state.c",
        "worker/core_step.c",        "loader/core.c",
        "loader/core_assignments.c", "loader/core_state.c",
        "tests/sim/mutate"};
    char *document = read_source("docs/protocol.md");
    int cited = 0;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        char *text = read_source(sources[i]);
        for (const char *p = text; (p = strpbrk(p, "SMWOLJVCED")); p++) {
            char number[16], after = p[2];
            if (p == text || !strchr("( ,", p[-1]) || !isdigit((unsigned char)p[1]) ||
                !strchr("), -:", after))
                continue;
            snprintf(number, sizeof number, "%c%c", p[0], p[1]);
            char wanted[32], combined[32];
            snprintf(wanted, sizeof wanted, "**%s", number);
            snprintf(combined, sizeof combined, "/ %s**", number);
            if (!strstr(document, wanted) && !strstr(document, combined))
                fail_msg("%s cites %s, which docs/protocol.md does not have", sources[i], number);
            cited++;
        }
        free(text);
    }
    assert_true(cited > 30);
    free(document);
}

UNIT_MAIN(cmocka_unit_test(the_coord_table_is_the_codes),
          cmocka_unit_test(the_worker_table_is_the_codes),
          cmocka_unit_test(the_loader_table_is_the_codes),
          cmocka_unit_test(every_number_that_the_code_cites_is_in_the_document))

/* tests/unit/worker_process_test.c - the real worker process in the cluster of play.h. */
#include "tests/unit/unit.h"

#include "common/cleanup.h"
#include "tests/unit/play.h"

static void start_worker(void)
{
    play_start((const char *[]){getenv("BLIPREN_WORKER"), "--coord", play.endpoint, "--threads",
                                "1", "--patience", "5", NULL});
}

/* Its index lies on a slow disk: the coordinator must not take it for lost. */
static void a_worker_beats_while_it_opens_the_run(void **state)
{
    play_open(false);
    setenv("LD_PRELOAD", getenv("BLIPREN_SLOW_OPEN"), 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0", 1); /* where the worker is built with it */
    setenv("SLOW_OPEN_NAME", "/dataset.index", 1);
    setenv("SLOW_OPEN_MS", "3000", 1);
    start_worker();
    unsetenv("LD_PRELOAD");
    play_expect_and_drop(BLIPREN__ENVELOPE__BODY_HELLO);
    play_patience_ms = 1500;
    play_say_welcome();
    play_patience_ms = PLAY_PATIENCE_MS;
    int beats = 0;
    Blipren__Envelope *ended;
    while (!(ended = play_take(BLIPREN__ENVELOPE__BODY_ENDED))) {
        Blipren__Envelope *beat = play_take(BLIPREN__ENVELOPE__BODY_BEAT);
        if (!beat) {
            play_turn(PLAY_WAIT_MS);
            assert_false(play.expired);
            continue;
        }
        beats++;
        wire_envelope_free(&beat);
        play_say_pulse();
    }
    wire_envelope_free(&ended);
    assert_true(beats >= 4); /* one on a busy machine, if the loop had waited for the disk */
    play_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_beats_while_it_opens_the_run),
    };
    return cmocka_run_group_tests(tests, play_make_run, play_remove_run);
}

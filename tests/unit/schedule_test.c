/* tests/unit/schedule_test.c - learning rates step by step, against transformers' schedules.
 *
 * The tables are what transformers 5.23.0 gives with a peak of 2e-3, 4 steps of warm-up, 20 steps, a floor of 0.1:
 * get_cosine_with_min_lr_schedule_with_warmup, and get_wsd_schedule with 5 steps of linear decay. Its warm-up and its
 * linear decay are ours one step later: there the first step has the rate 0 and learns nothing. */
#include "tests/unit/unit.h"

#include <math.h>

#include "common/schedule.h"

static struct schedule of(enum schedule_kind kind)
{
    return (struct schedule){
        .kind = kind, .peak = 2e-3, .floor = 0.1, .warmup_steps = 4, .steps = 20, .decay_steps = 5};
}

static void assert_rate(double found, double expected, int64_t step)
{
    if (fabs(found - expected) > 1e-9 * fabs(expected))
        fail_msg("step %lld: expected a rate of %.10g, found %.10g", (long long)step, expected,
                 found);
}

static void warm_up_rises_from_the_first_step_to_the_peak(void **state)
{
    for (int kind = SCHEDULE_COSINE; kind <= SCHEDULE_WSD; kind++) {
        struct schedule s = of(kind);
        for (int64_t step = 0; step < 4; step++)
            assert_rate(schedule_rate(&s, step), 2e-3 * (double)(step + 1) / 4, step);
        assert_rate(schedule_rate(&s, 4), 2e-3, 4);
        s.warmup_steps = 0;
        s.steps = 100;
        assert_rate(schedule_rate(&s, 0), 2e-3, 0);
    }
}

static void cosine_is_that_of_transformers(void **state)
{
    static const double expected[] = {
        0.002,           0.001982706752,  0.001931491579,  0.001848322651,
        0.001736396103,  0.00160001321,   0.001444415089,  0.00127558129,
        0.0011,          0.0009244187102, 0.0007555849109, 0.0005999867903,
        0.0004636038969, 0.0003516773489, 0.0002685084207, 0.0002172932476};
    struct schedule s = of(SCHEDULE_COSINE);
    for (int64_t step = 4; step < 20; step++)
        assert_rate(schedule_rate(&s, step), expected[step - 4], step);
}

static void wsd_is_that_of_transformers_a_step_earlier(void **state)
{
    static const double expected[] = {0.002, 0.00164, 0.00128, 0.00092, 0.00056, 0.0002};
    struct schedule s = of(SCHEDULE_WSD);
    for (int64_t step = 4; step < 15; step++)
        assert_rate(schedule_rate(&s, step), 2e-3, step);
    for (int64_t step = 15; step < 20; step++) /* the last step has the floor, and still learns */
        assert_rate(schedule_rate(&s, step), expected[step + 1 - 15], step);
}

static void constant_stays_at_the_peak(void **state)
{
    struct schedule s = of(SCHEDULE_CONSTANT);
    for (int64_t step = 4; step < 30; step++)
        assert_rate(schedule_rate(&s, step), 2e-3, step);
}

/* A run that is made longer after its end, or resumed beyond it. */
static void beyond_the_end_the_rate_is_the_floor_and_never_rises(void **state)
{
    struct schedule cosine = of(SCHEDULE_COSINE), wsd = of(SCHEDULE_WSD);
    for (int64_t step = 20; step < 60; step++) {
        assert_rate(schedule_rate(&cosine, step), 2e-4, step);
        assert_rate(schedule_rate(&wsd, step), 2e-4, step);
    }
}

static void warm_up_may_take_the_whole_run(void **state)
{
    struct schedule s = of(SCHEDULE_COSINE);
    s.warmup_steps = s.steps;
    assert_rate(schedule_rate(&s, 19), 2e-3, 19);
    assert_rate(schedule_rate(&s, 20), 2e-4, 20);
}

UNIT_MAIN(cmocka_unit_test(warm_up_rises_from_the_first_step_to_the_peak),
          cmocka_unit_test(cosine_is_that_of_transformers),
          cmocka_unit_test(wsd_is_that_of_transformers_a_step_earlier),
          cmocka_unit_test(constant_stays_at_the_peak),
          cmocka_unit_test(beyond_the_end_the_rate_is_the_floor_and_never_rises),
          cmocka_unit_test(warm_up_may_take_the_whole_run))

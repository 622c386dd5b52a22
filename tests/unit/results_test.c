/* tests/unit/results_test.c - reports of ranks become one step's line, micro-batches one validation's. */
#include "tests/unit/unit.h"

#include <math.h>

#include "coordinator/results.h"

#define MICRO_BATCHES 3

static int open_results(void **state)
{
    return results_new(MICRO_BATCHES, (struct results **)state, NULL);
}

static int close_results(void **state)
{
    results_free((struct results **)state);
    return 0;
}

static Blipren__Report report_of(uint64_t step, double compute_s)
{
    Blipren__Report r = BLIPREN__REPORT__INIT;
    r.step = step;
    r.tokens = 200;
    r.images = 16;
    r.nll_sum = 500;
    r.grad_norm = 0.75;
    r.learning_rate = 1e-3;
    r.compute_s = compute_s;
    return r;
}

static void a_step_has_the_batchs_sums_and_the_slowest_ranks_times(void **state)
{
    struct metrics_step m;
    double share[BL_EXPERTS_MAX], shares[] = {0.25, 0.75};
    Blipren__Report first = report_of(5, 2), second = report_of(5, 1);
    first.reduce_wait_s = 0.1;
    second.reduce_wait_s = 1.1;
    second.data_wait_s = 0.5;
    first.n_expert_share = second.n_expert_share = 2;
    first.expert_share = second.expert_share = shares;
    results_report(*state, &first);
    results_report(*state, &second);
    assert_true(results_take_step(*state, 5, &m, share));
    assert_int_equal(m.step, 5);
    assert_true(m.loss == 2.5 && m.norm == 0.75 && m.rate == 1e-3);
    assert_int_equal(m.tokens, 200);
    assert_int_equal(m.images, 16);
    assert_false(m.skipped);
    assert_true(m.compute_s == 2 && m.reduce_wait_s == 1.1 && m.data_wait_s == 0.5);
    assert_int_equal(m.experts, 2);
    assert_true(m.share == share && share[0] == 0.25 && share[1] == 0.75);
}

static void a_step_is_taken_once_and_only_if_a_rank_reported_it(void **state)
{
    struct metrics_step m;
    double share[BL_EXPERTS_MAX];
    Blipren__Report report = report_of(9, 1);
    assert_false(results_take_step(*state, 0, &m, share)); /* step 0 of nothing */
    results_report(*state, &report);
    assert_false(results_take_step(*state, 8, &m, share));
    assert_false(results_take_step(*state, 1, &m, share)); /* its place in the ring */
    assert_true(results_take_step(*state, 9, &m, share));
    assert_false(results_take_step(*state, 9, &m, share));
}

/* Nothing of an older step, or of the same step before a rewind, is left in a later one's line. */
static void times_of_another_step_are_forgotten(void **state)
{
    struct metrics_step m;
    double share[BL_EXPERTS_MAX];
    Blipren__Report old = report_of(1, 50), new = report_of(9, 1), again = report_of(9, 70);
    results_report(*state, &old);
    results_report(*state, &new);
    assert_true(results_take_step(*state, 9, &m, share));
    assert_true(m.compute_s == 1);
    results_report(*state, &again);
    results_clear(*state);
    results_report(*state, &new);
    assert_true(results_take_step(*state, 9, &m, share));
    assert_true(m.compute_s == 1);
}

static void a_step_without_label_tokens_has_no_loss_and_says_that_it_was_skipped(void **state)
{
    struct metrics_step m;
    double share[BL_EXPERTS_MAX];
    Blipren__Report report = report_of(0, 1);
    report.tokens = 0;
    report.nll_sum = 0;
    report.skipped = true;
    results_report(*state, &report);
    assert_true(results_take_step(*state, 0, &m, share));
    assert_true(isnan(m.loss));
    assert_true(m.skipped);
}

/* -- validation */

struct one {
    Blipren__Validation v;
    Blipren__Caption caption, *captions[1];
    double weight[2];
};

/* Micro-batch i: i + 1 images, ten tokens each. */
static void make(struct one *o, uint32_t i)
{
    *o = (struct one){.v = BLIPREN__VALIDATION__INIT,
                      .caption = BLIPREN__CAPTION__INIT,
                      .weight = {0.25 * (i + 1), 0.75 * (i + 1)}};
    o->caption.sample = 40 + i;
    o->caption.text = i == 1 ? "two" : "text";
    o->caption.ended = i != 2;
    o->captions[0] = &o->caption;
    o->v.micro_batch = i;
    o->v.images = i + 1;
    o->v.tokens = 10 * (i + 1);
    o->v.nll_sum = 30 * (i + 1);
    o->v.correct = 5 * (i + 1);
    o->v.shuffled_tokens = i ? 10 * (i + 1) : 0; /* the first has no other image to exchange with */
    o->v.paired_nll_sum = i ? 30 * (i + 1) : 0;
    o->v.shuffled_nll_sum = i ? 40 * (i + 1) : 0;
    o->v.n_captions = 1;
    o->v.captions = o->captions;
    o->v.n_expert_weight = 2;
    o->v.expert_weight = o->weight;
}

static void give(struct results *results, uint32_t i)
{
    struct one o;
    make(&o, i);
    results_validation(results, &o.v);
}

static void note(void *context, uint64_t sample, const char *text, bool ended)
{
    char *list = context;
    snprintf(list + strlen(list), 100 - strlen(list), "%d:%s:%d ", (int)sample, text, ended);
}

static void assert_sums(struct results *results)
{
    double weight[BL_EXPERTS_MAX];
    struct metrics_validation m = {.step = 60};
    char list[100] = "";
    results_sum_validation(results, &m, weight);
    assert_int_equal(m.step, 60);
    assert_int_equal(m.images, 6);
    assert_int_equal(m.tokens, 60);
    assert_true(m.loss == 3 && m.accuracy == 0.5 && m.paired_loss == 3 && m.shuffled_loss == 4);
    assert_int_equal(m.experts, 2);
    assert_true(m.weight == weight && weight[0] == 0.25 && weight[1] == 0.75);
    assert_int_equal(m.captions, 3);
    assert_int_equal(m.ended, 2);
    results_each_caption(results, note, list);
    assert_string_equal(list, "40:text:1 41:two:1 42:text:0 ");
}

static void a_validation_is_its_micro_batches_in_whatever_order_they_come(void **state)
{
    give(*state, 2);
    give(*state, 0);
    give(*state, 1);
    assert_sums(*state);
}

/* After a worker is lost its micro-batch is computed by another, and both results may arrive. */
static void a_micro_batch_reported_twice_counts_once_and_one_out_of_range_not_at_all(void **state)
{
    for (uint32_t i = 0; i < MICRO_BATCHES; i++)
        give(*state, i);
    give(*state, 1);
    give(*state, MICRO_BATCHES);
    assert_sums(*state);
}

static void nothing_of_a_validation_is_left_for_the_next(void **state)
{
    struct one o;
    char list[100] = "";
    for (uint32_t i = 0; i < MICRO_BATCHES; i++) {
        make(&o, i);
        o.v.nll_sum = 1e9;
        results_validation(*state, &o.v);
    }
    results_clear_validation(*state);
    results_each_caption(*state, note, list);
    assert_string_equal(list, "");
    for (uint32_t i = 0; i < MICRO_BATCHES; i++)
        give(*state, i);
    assert_sums(*state);
}

#define ON_RESULTS(test) cmocka_unit_test_setup_teardown(test, open_results, close_results)

UNIT_MAIN(ON_RESULTS(a_step_has_the_batchs_sums_and_the_slowest_ranks_times),
          ON_RESULTS(a_step_is_taken_once_and_only_if_a_rank_reported_it),
          ON_RESULTS(times_of_another_step_are_forgotten),
          ON_RESULTS(a_step_without_label_tokens_has_no_loss_and_says_that_it_was_skipped),
          ON_RESULTS(a_validation_is_its_micro_batches_in_whatever_order_they_come),
          ON_RESULTS(a_micro_batch_reported_twice_counts_once_and_one_out_of_range_not_at_all),
          ON_RESULTS(nothing_of_a_validation_is_left_for_the_next))

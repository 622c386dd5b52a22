/* tests/unit/status_test.c - what `blipren-coord status` prints, from the answer it gets. */
#include "tests/unit/unit.h"

#include <stdlib.h>

#include "common/json.h"
#include "coordinator/status.h"

static void assert_text(const char *json, const char *expected)
{
    struct bl_error err = {0};
    json_t *status = NULL;
    char *text = NULL;
    assert_ok(bl_json_parse(json, strlen(json), &status, &err), err);
    assert_ok(status_text(status, &text, &err), err);
    assert_string_equal(text, expected);
    free(text);
    bl_json_free(&status);
}

static void a_training_run_shows_where_it_is_and_where_its_time_goes(void **state)
{
    assert_text(
        "{\"run_folder\": \"/data/run\", \"host\": \"head\", \"pid\": 812, \"endpoint\": "
        "\"tcp://192.0.2.1:5555\", \"security\": \"none\", \"state\": \"TRAINING\", \"stopping\": "
        "false, \"generation\": 3, \"step\": 812, \"steps\": 6000, \"epoch\": 1.204, \"loss\": "
        "2.10341, \"images_per_s\": 41.02, \"tokens_per_s\": 980.4, \"seconds_left\": 3723, "
        "\"bound_by\": \"data\", \"checkpoint\": 750, \"samples_seen\": 4000, \"samples_bad\": 12, "
        "\"workers_needed\": 0, \"waiting\": {\"peer\": \"node02:33\", \"for\": \"to make and ship "
        "a micro-batch to\", \"other\": \"node01:811\", \"kind\": \"training\", \"step\": 812, "
        "\"micro_batch\": 3, \"seconds\": 41.23},"
        "\"workers\": [{\"name\": \"node01:811\", \"host\": \"192.0.2.7\", \"state\": \"member\", "
        "\"doing\": \"train\", \"waiting\": \"data\", \"rank\": 0, \"step\": 812, \"data_s\": "
        "0.0102, \"compute_s\": 0.8118, \"reduce_s\": 0.0309, \"heard_s\": 0.1, \"progress_s\": "
        "41.2, \"left_out\": false},"
        "{\"name\": \"node03:5\", \"host\": \"192.0.2.9\", \"state\": \"opening\", \"doing\": "
        "\"load\", \"waiting\": \"\", \"rank\": null, \"step\": null, \"data_s\": null, "
        "\"compute_s\": null, \"reduce_s\": null, \"heard_s\": 7.2, \"progress_s\": 9, "
        "\"left_out\": true}],"
        "\"loaders\": [{\"name\": \"node02:33\", \"host\": \"192.0.2.8\", \"state\": \"ready\", "
        "\"doing\": \"load\", \"waiting\": \"workers\", \"assignments\": 3, \"capacity\": 64, "
        "\"heard_s\": 0, \"progress_s\": 2}]}",
        "run /data/run: TRAINING, generation 3\n"
        "coordinator head (process 812) at tcp://192.0.2.1:5555, insecure: nothing is encrypted "
        "or authenticated\n"
        "step 812/6000, epoch 1.20, loss 2.1034, 41.0 images/s, 980 tokens/s, ETA 1:02:03, most of "
        "the time: data\n"
        "newest checkpoint: step 750\n"
        "bad samples: 12 of 4000\n"
        "waiting for node02:33 to make and ship a micro-batch to node01:811 (training step 812, "
        "micro-batch 3), for 41.2 s\n"
        "\n"
        "rank  worker      host          step   data s  compute s  all-reduce s  state\n"
        "   0  node01:811  192.0.2.7      812    0.010      0.812         0.031  train, waits for "
        "data; no progress for 41 s\n"
        "   -  node03:5    192.0.2.9        -        -          -             -  opening; is left "
        "out for a while; silent for 7 s\n"
        "\n"
        "loader     host       assignments  state\n"
        "node02:33  192.0.2.8         3/64  ready, waits for workers\n");
}

static void a_run_that_waits_for_others_says_for_how_many(void **state)
{
    assert_text("{\"run_folder\": \"run\", \"host\": \"head\", \"pid\": 1, \"endpoint\": "
                "\"tcp://127.0.0.1:9\", \"security\": \"loopback\", \"state\": \"GATHERING\", "
                "\"stopping\": true, \"generation\": 0, \"step\": 0, \"steps\": 10, \"epoch\": 0, "
                "\"loss\": null, \"seconds_left\": null, \"checkpoint\": null, \"samples_bad\": 0, "
                "\"workers_needed\": 2, \"waiting\": null, \"workers\": [], \"loaders\": []}",
                "run run: GATHERING, stopping, generation 0\n"
                "coordinator head (process 1) at tcp://127.0.0.1:9\n"
                "step 0/10, epoch 0.00\n"
                "waiting for workers: 2 more\n"
                "waiting for a loader\n"
                "\n"
                "rank  worker  host     step   data s  compute s  all-reduce s  state\n"
                "\n"
                "loader  host  assignments  state\n");
}

static void a_wait_of_less_than_a_second_is_not_worth_a_line(void **state)
{
    assert_text("{\"run_folder\": \"run\", \"host\": \"h\", \"pid\": 1, \"endpoint\": \"e\", "
                "\"state\": \"FORMING\", \"generation\": 1, \"step\": 0, \"steps\": 10, \"epoch\": "
                "0, \"waiting\": {\"peer\": \"a:1\", \"for\": \"to form the generation\", "
                "\"other\": \"\", \"seconds\": 0.9}, \"workers\": [], \"loaders\": [{\"name\": "
                "\"l\", \"host\": \"h\", \"state\": \"opening\", \"capacity\": 4}]}",
                "run run: FORMING, generation 1\n"
                "coordinator h (process 1) at e\n"
                "step 0/10, epoch 0.00\n"
                "\n"
                "rank  worker  host     step   data s  compute s  all-reduce s  state\n"
                "\n"
                "loader  host  assignments  state\n"
                "l       h             0/4  opening\n");
}

UNIT_MAIN(cmocka_unit_test(a_training_run_shows_where_it_is_and_where_its_time_goes),
          cmocka_unit_test(a_run_that_waits_for_others_says_for_how_many),
          cmocka_unit_test(a_wait_of_less_than_a_second_is_not_worth_a_line))

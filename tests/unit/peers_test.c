/* tests/unit/peers_test.c - the table of connections: each is found by its id, its number, and what its Hello said. */
#include "tests/unit/unit.h"

#include "coordinator/peers.h"
#include "proto/wire.h"

#define MANY 3000 /* more than there are buckets: chains are walked */

static struct wire_id id_of(uint64_t number)
{
    struct wire_id id = {0};
    memcpy(id.bytes, &number, sizeof number);
    return id;
}

static void every_peer_is_found_by_id_and_by_link_until_it_is_removed(void **state)
{
    struct peers *peers = NULL;
    struct bl_error err;
    assert_ok(peers_new(&peers, &err), err);
    struct peer *at[MANY];
    for (uint64_t i = 0; i < MANY; i++) {
        struct wire_id id = id_of(i);
        assert_null(peers_of_id(peers, &id));
        at[i] = peers_add(peers, &id);
        assert_int_equal(at[i]->link, i + 1);
    }
    for (uint64_t i = 0; i < MANY; i += 3)
        peers_remove(peers, at[i]);
    for (uint64_t i = 0; i < MANY; i++) {
        struct wire_id id = id_of(i);
        struct peer *expected = i % 3 ? at[i] : NULL;
        assert_ptr_equal(peers_of_id(peers, &id), expected);
        assert_ptr_equal(peers_of_link(peers, i + 1), expected);
    }
    peers_free(&peers);
    assert_null(peers);
}

/* A link number in the journal, or in a message under way, never names another connection. */
static void a_link_number_is_never_used_twice(void **state)
{
    struct peers *peers = NULL;
    struct bl_error err;
    struct wire_id id = id_of(7);
    assert_ok(peers_new(&peers, &err), err);
    for (uint64_t link = 1; link < 20; link++) {
        struct peer *p = peers_add(peers, &id);
        assert_int_equal(p->link, link);
        peers_remove(peers, p);
        assert_null(peers_of_link(peers, link));
    }
    peers_free(&peers);
}

/* A process that reconnects is there twice until its first connection is given up. */
static void of_two_connections_of_a_process_the_newer_counts(void **state)
{
    struct peers *peers = NULL;
    struct bl_error err;
    assert_ok(peers_new(&peers, &err), err);
    for (uint64_t i = 0; i < 40; i++) { /* whichever bucket each is in */
        struct wire_id first = wire_id_make(100 + i, 1), second = wire_id_make(100 + i, 2);
        struct peer *old = peers_add(peers, &first), *new = peers_add(peers, &second);
        old->incarnation = new->incarnation = 100 + i;
        old->secret = new->secret = 1000 + i;
        assert_ptr_equal(peers_of_incarnation(peers, 100 + i), new);
        assert_ptr_equal(peers_of_secret(peers, 1000 + i), new);
        peers_remove(peers, new);
        assert_ptr_equal(peers_of_incarnation(peers, 100 + i), old);
        assert_ptr_equal(peers_of_secret(peers, 1000 + i), old);
    }
    assert_null(peers_of_incarnation(peers, 99));
    assert_null(peers_of_secret(peers, 99));
    peers_free(&peers);
}

static void count(void *context, struct peer *peer)
{
    (*(int *)context)++;
    peer->unreachable = true;
}

static void each_visits_every_peer_once(void **state)
{
    struct peers *peers = NULL;
    struct bl_error err;
    int visits = 0;
    assert_ok(peers_new(&peers, &err), err);
    for (uint64_t i = 0; i < MANY; i++) {
        struct wire_id id = id_of(i);
        peers_add(peers, &id);
    }
    peers_each(peers, count, &visits);
    assert_int_equal(visits, MANY);
    for (uint64_t link = 1; link <= MANY; link++)
        assert_true(peers_of_link(peers, link)->unreachable);
    peers_free(&peers);
}

UNIT_MAIN(cmocka_unit_test(every_peer_is_found_by_id_and_by_link_until_it_is_removed),
          cmocka_unit_test(a_link_number_is_never_used_twice),
          cmocka_unit_test(of_two_connections_of_a_process_the_newer_counts),
          cmocka_unit_test(each_visits_every_peer_once))

/* coordinator/peers.c - two small hash tables over the same peers: by connection id and by link number. */
#include "coordinator/peers.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024

struct peers {
    uint64_t last_link;
    struct peer *by_id[BUCKETS], *by_link[BUCKETS];
};

/* An id begins with its process's incarnation, random already, but for the lowest bit (wire_id_make). */
static size_t bucket_of(uint64_t incarnation)
{
    return (incarnation | 1) / 2 % BUCKETS;
}

static size_t id_bucket(const struct wire_id *id)
{
    uint64_t incarnation;
    memcpy(&incarnation, id->bytes, sizeof incarnation);
    return bucket_of(incarnation);
}

int peers_new(struct peers **ret, struct bl_error *err)
{
    *ret = calloc(1, sizeof **ret);
    return *ret ? 0 : bl_fail(err, BL_ENOMEM, "no memory for the table of peers");
}

void peers_free(struct peers **peers)
{
    if (!*peers)
        return;
    for (size_t b = 0; b < BUCKETS; b++)
        for (struct peer *p = (*peers)->by_id[b], *next; p; p = next) {
            next = p->next_id;
            free(p);
        }
    free(*peers);
    *peers = NULL;
}

struct peer *peers_of_id(struct peers *peers, const struct wire_id *id)
{
    struct peer *p = peers->by_id[id_bucket(id)];
    while (p && memcmp(&p->id, id, sizeof *id) != 0)
        p = p->next_id;
    return p;
}

struct peer *peers_add(struct peers *peers, const struct wire_id *id)
{
    struct peer **bucket = &peers->by_id[id_bucket(id)];
    struct peer *p = calloc(1, sizeof *p);
    BL_ASSERT(p != NULL);
    p->id = *id;
    p->link = ++peers->last_link;
    p->next_id = *bucket;
    *bucket = p;
    struct peer **links = &peers->by_link[p->link % BUCKETS];
    p->next_link = *links;
    *links = p;
    return p;
}

struct peer *peers_of_link(struct peers *peers, uint64_t link)
{
    struct peer *p = peers->by_link[link % BUCKETS];
    while (p && p->link != link)
        p = p->next_link;
    return p;
}

void peers_each(struct peers *peers, void (*visit)(void *context, struct peer *peer), void *context)
{
    for (size_t b = 0; b < BUCKETS; b++)
        for (struct peer *p = peers->by_id[b]; p; p = p->next_id)
            visit(context, p);
}

struct search {
    uint64_t secret;
    struct peer *found;
};

static void match(void *context, struct peer *peer)
{
    struct search *s = context;
    if (peer->secret == s->secret && (!s->found || peer->link > s->found->link))
        s->found = peer;
}

struct peer *peers_of_incarnation(struct peers *peers, uint64_t incarnation)
{
    struct peer *found = NULL;
    for (struct peer *p = peers->by_id[bucket_of(incarnation)]; p; p = p->next_id)
        if (p->incarnation == incarnation && (!found || p->link > found->link))
            found = p;
    return found;
}

struct peer *peers_of_secret(struct peers *peers, uint64_t secret)
{
    struct search s = {.secret = secret};
    peers_each(peers, match, &s);
    return s.found;
}

void peers_remove(struct peers *peers, struct peer *peer)
{
    struct peer **at = &peers->by_id[id_bucket(&peer->id)];
    while (*at != peer)
        at = &(*at)->next_id;
    *at = peer->next_id;
    at = &peers->by_link[peer->link % BUCKETS];
    while (*at != peer)
        at = &(*at)->next_link;
    *at = peer->next_link;
    free(peer);
}

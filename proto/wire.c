/* proto/wire.c - see wire.h. */
#include "proto/wire.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/limits.h"

struct wire_id wire_id_make(uint64_t incarnation, uint64_t link)
{
    struct wire_id id;
    memcpy(id.bytes, &incarnation, 8);
    memcpy(id.bytes + 8, &link, 8);
    id.bytes[0] |= 1; /* ids that begin with a zero byte are ZeroMQ's own */
    return id;
}

uint64_t wire_incarnation(void)
{
    uint64_t x = 0;
    while (!x)
        randombytes_buf(&x, sizeof x);
    return x;
}

/* -- memory bounded by what honest messages need -- */

struct budget {
    size_t left;
};

static void *budget_alloc(void *data, size_t size)
{
    struct budget *b = data;
    if (size > b->left)
        return NULL;
    b->left -= size;
    return malloc(size);
}

static void budget_free(void *data, void *p)
{
    free(p);
}

/* -- checks -- */

static bool is_text(const char *text)
{
    utf8proc_int32_t point;
    for (const char *p = text; *p;) {
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)p, -1, &point);
        if (n <= 0)
            return false;
        p += n;
    }
    return true;
}

void wire_text(char *text)
{
    utf8proc_int32_t point;
    for (char *p = text; *p;) {
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)p, -1, &point);
        if (n <= 0)
            *p = '?';
        p += n > 0 ? n : 1;
    }
}

#define CHECK(cond, field)                                                                         \
    do {                                                                                           \
        if (!(cond))                                                                               \
            return bl_fail(err, BL_EPROTO, "a message's field %s is out of range", field);         \
    } while (0)

static bool is_digest(const ProtobufCBinaryData *d)
{
    return d->len == 0 || d->len == 32;
}

static bool is_kind(Blipren__Kind kind)
{
    return kind == BLIPREN__KIND__KIND_TRAIN || kind == BLIPREN__KIND__KIND_VALIDATE;
}

static int check_hello(const Blipren__Hello *m, struct bl_error *err)
{
    CHECK(m->role == BLIPREN__ROLE__ROLE_WORKER || m->role == BLIPREN__ROLE__ROLE_LOADER,
          "Hello.role");
    CHECK(is_text(m->name) && strlen(m->name) < 128, "Hello.name");
    CHECK(is_text(m->build) && strlen(m->build) < 512, "Hello.build");
    CHECK(is_text(m->data_endpoint) && strlen(m->data_endpoint) < SOCKET_ENDPOINT_MAX,
          "Hello.data_endpoint");
    CHECK(is_text(m->token) && strlen(m->token) < 128, "Hello.token");
    CHECK(is_digest(&m->state_digest), "Hello.state_digest");
    return 0;
}

static int check_order(const Blipren__Order *m, struct bl_error *err)
{
    CHECK(is_kind(m->kind), "Order.kind");
    CHECK(m->n_sample >= 1 && m->n_sample <= BL_GROUP_SLOTS_MAX, "Order.sample");
    CHECK(m->n_epoch == m->n_sample, "Order.epoch");
    CHECK(is_text(m->endpoint) && strlen(m->endpoint) < SOCKET_ENDPOINT_MAX, "Order.endpoint");
    return 0;
}

static int check_sent(const Blipren__Sent *m, struct bl_error *err)
{
    CHECK(is_kind(m->kind), "Sent.kind");
    CHECK(m->n_voids <= BL_GROUP_SLOTS_MAX, "Sent.voids");
    for (size_t i = 0; i < m->n_voids; i++)
        CHECK(m->voids[i]->slot < BL_GROUP_SLOTS_MAX && is_text(m->voids[i]->reason), "Sent.voids");
    return 0;
}

static int check_report(const Blipren__Report *m, struct bl_error *err)
{
    CHECK(m->n_trained <= BL_GROUP_SLOTS_MAX, "Report.trained");
    CHECK(m->n_expert_share <= 64, "Report.expert_share");
    return 0;
}

static int check_validation(const Blipren__Validation *m, struct bl_error *err)
{
    CHECK(m->n_captions <= BL_GROUP_SLOTS_MAX, "Validation.captions");
    CHECK(m->n_expert_weight <= 64, "Validation.expert_weight");
    for (size_t i = 0; i < m->n_captions; i++)
        CHECK(is_text(m->captions[i]->text), "Validation.captions.text");
    return 0;
}

static int check_form(const Blipren__Form *m, struct bl_error *err)
{
    CHECK(m->world >= 1 && m->world <= BL_WORKERS_MAX && m->rank < m->world, "Form.rank");
    CHECK(m->source >= -1 && m->source < (int32_t)m->world, "Form.source");
    CHECK(is_text(m->checkpoint) && strlen(m->checkpoint) < 256, "Form.checkpoint");
    return 0;
}

static int check_body(const Blipren__Envelope *e, struct bl_error *err)
{
    switch (e->body_case) {
    case BLIPREN__ENVELOPE__BODY_HELLO:
        return check_hello(e->hello, err);
    case BLIPREN__ENVELOPE__BODY_BEAT:
        CHECK(is_text(e->beat->phase) && is_text(e->beat->waiting), "Beat.phase");
        return 0;
    case BLIPREN__ENVELOPE__BODY_ENDED:
        CHECK(is_digest(&e->ended->state_digest), "Ended.state_digest");
        CHECK(e->ended->applied_step >= -1, "Ended.applied_step");
        return 0;
    case BLIPREN__ENVELOPE__BODY_RENDEZVOUS:
        CHECK(is_text(e->rendezvous->key) && strlen(e->rendezvous->key) < 64, "Rendezvous.key");
        return 0;
    case BLIPREN__ENVELOPE__BODY_FORMED:
        CHECK(is_digest(&e->formed->state_digest), "Formed.state_digest");
        return 0;
    case BLIPREN__ENVELOPE__BODY_GOT:
        CHECK(is_kind(e->got->kind), "Got.kind");
        return 0;
    case BLIPREN__ENVELOPE__BODY_USED:
        CHECK(is_kind(e->used->kind), "Used.kind");
        return 0;
    case BLIPREN__ENVELOPE__BODY_REPORT:
        return check_report(e->report, err);
    case BLIPREN__ENVELOPE__BODY_VALIDATION:
        return check_validation(e->validation, err);
    case BLIPREN__ENVELOPE__BODY_BROKEN:
        CHECK(is_text(e->broken->text), "Broken.text");
        return 0;
    case BLIPREN__ENVELOPE__BODY_SAVED:
        CHECK(is_text(e->saved->folder) && is_text(e->saved->error), "Saved.folder");
        return 0;
    case BLIPREN__ENVELOPE__BODY_SENT:
        return check_sent(e->sent, err);
    case BLIPREN__ENVELOPE__BODY_GOODBYE:
        CHECK(is_text(e->goodbye->reason), "Goodbye.reason");
        return 0;
    case BLIPREN__ENVELOPE__BODY_WELCOME:
        CHECK(is_text(e->welcome->run_folder) && strlen(e->welcome->run_folder) < 4096,
              "Welcome.run_folder");
        CHECK(e->welcome->patience_ms >= 60, "Welcome.patience_ms");
        return 0;
    case BLIPREN__ENVELOPE__BODY_REFUSE:
        CHECK(is_text(e->refuse->text) && is_text(e->refuse->remedy), "Refuse.text");
        return 0;
    case BLIPREN__ENVELOPE__BODY_PULSE:
        return 0;
    case BLIPREN__ENVELOPE__BODY_END:
        CHECK(is_text(e->end->reason), "End.reason");
        return 0;
    case BLIPREN__ENVELOPE__BODY_FORM:
        return check_form(e->form, err);
    case BLIPREN__ENVELOPE__BODY_ORDER:
        return check_order(e->order, err);
    case BLIPREN__ENVELOPE__BODY_SAVE:
        CHECK(is_text(e->save->folder) && strlen(e->save->folder) < 256, "Save.folder");
        return 0;
    case BLIPREN__ENVELOPE__BODY_STOP:
        CHECK(is_text(e->stop->reason), "Stop.reason");
        return 0;
    default:
        return bl_fail(err, BL_EPROTO, "a message has no known body");
    }
}

static int check_envelope(const Blipren__Envelope *e, struct bl_error *err)
{
    CHECK(e->run.len == 0 || e->run.len == WIRE_RUN_BYTES, "run");
    CHECK(e->peer != 0, "peer");
    return check_body(e, err);
}

static int check_header(const Blipren__BatchHeader *h, struct bl_error *err)
{
    CHECK(h->run.len == WIRE_RUN_BYTES, "BatchHeader.run");
    CHECK(is_kind(h->kind), "BatchHeader.kind");
    CHECK(h->image_side >= 1 && h->image_side <= BL_IMAGE_SIDE_MAX, "BatchHeader.image_side");
    CHECK(h->n_slots >= 1 && h->n_slots <= BL_GROUP_SLOTS_MAX, "BatchHeader.slots");
    CHECK(h->first <= INT32_MAX - BL_GROUP_SLOTS_MAX, "BatchHeader.first");
    for (size_t i = 0; i < h->n_slots; i++) {
        const Blipren__Slot *s = h->slots[i];
        CHECK(s->tokens <= BL_CAPTION_TOKENS_MAX && s->label_first <= s->tokens &&
                  s->prefix <= s->tokens,
              "BatchHeader.slots");
    }
    return 0;
}

/* -- packing -- */

static uint8_t *must_alloc(size_t size)
{
    uint8_t *p = malloc(size ? size : 1);
    BL_ASSERT(p != NULL); /* a message of at most BL_HEADER_BYTES_MAX */
    return p;
}

void wire_pack(const Blipren__Envelope *envelope, uint8_t **ret, size_t *ret_size)
{
    *ret_size = blipren__envelope__get_packed_size(envelope);
    *ret = must_alloc(*ret_size);
    blipren__envelope__pack(envelope, *ret);
}

void wire_pack_header(const Blipren__BatchHeader *header, uint8_t **ret, size_t *ret_size)
{
    *ret_size = blipren__batch_header__get_packed_size(header);
    *ret = must_alloc(*ret_size);
    blipren__batch_header__pack(header, *ret);
}

int wire_unpack(const void *data, size_t size, Blipren__Envelope **ret, struct bl_error *err)
{
    struct budget budget = {BL_HEADER_MEMORY_MAX};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    if (size > BL_HEADER_BYTES_MAX)
        return bl_fail(err, BL_EPROTO, "expected a message of at most %d bytes, found %zu",
                       BL_HEADER_BYTES_MAX, size);
    Blipren__Envelope *e = blipren__envelope__unpack(&allocator, size, data);
    if (!e)
        return bl_fail(err, BL_EPROTO, "%zu bytes are no message of this protocol", size);
    int rc = check_envelope(e, err);
    if (rc < 0)
        wire_envelope_free(&e);
    *ret = e;
    return rc;
}

int wire_unpack_header(const void *data, size_t size, Blipren__BatchHeader **ret,
                       struct bl_error *err)
{
    struct budget budget = {BL_HEADER_MEMORY_MAX};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    if (size > BL_HEADER_BYTES_MAX)
        return bl_fail(err, BL_EPROTO, "expected a header of at most %d bytes, found %zu",
                       BL_HEADER_BYTES_MAX, size);
    Blipren__BatchHeader *h = blipren__batch_header__unpack(&allocator, size, data);
    if (!h)
        return bl_fail(err, BL_EPROTO, "%zu bytes are no batch header", size);
    int rc = check_header(h, err);
    if (rc < 0)
        wire_header_free(&h);
    *ret = h;
    return rc;
}

void wire_envelope_free(Blipren__Envelope **envelope)
{
    ProtobufCAllocator allocator = {budget_alloc, budget_free, NULL};
    blipren__envelope__free_unpacked(*envelope, &allocator);
    *envelope = NULL;
}

void wire_header_free(Blipren__BatchHeader **header)
{
    ProtobufCAllocator allocator = {budget_alloc, budget_free, NULL};
    blipren__batch_header__free_unpacked(*header, &allocator);
    *header = NULL;
}

const char *wire_body_name(const Blipren__Envelope *e)
{
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(
        &blipren__envelope__descriptor, (unsigned)e->body_case);
    return field ? field->name : "nothing";
}

/* proto/wire.c - see wire.h. */
#include "proto/wire.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/utf8.h"
#include "proto/check.h"

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

/* -- texts -- */

void wire_text(char *text)
{
    utf8_repair(text);
}

/* What a Validation holds besides its captions: sums, and 8 bytes for each expert. */
#define VALIDATION_BYTES_MAX 1024
_Static_assert(VALIDATION_BYTES_MAX >= 8 * BL_EXPERTS_MAX + 256, "room for sums and envelope");

size_t wire_captions_fit(Blipren__Caption *const *captions, size_t count)
{
    size_t room = BL_HEADER_BYTES_MAX - VALIDATION_BYTES_MAX, fit = 0;
    for (; fit < count; fit++) {
        size_t bytes = blipren__caption__get_packed_size(captions[fit]) + 6; /* tag and length */
        if (bytes > room)
            break;
        room -= bytes;
    }
    return fit;
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
    BL_ASSERT_CMP(*ret_size, <=, BL_HEADER_BYTES_MAX);
    *ret = must_alloc(*ret_size);
    blipren__envelope__pack(envelope, *ret);
}

void wire_pack_header(const Blipren__BatchHeader *header, uint8_t **ret, size_t *ret_size)
{
    *ret_size = blipren__batch_header__get_packed_size(header);
    BL_ASSERT_CMP(*ret_size, <=, BL_HEADER_BYTES_MAX);
    *ret = must_alloc(*ret_size);
    blipren__batch_header__pack(header, *ret);
}

static int check_ours(const Blipren__Envelope *e, const void *data, size_t size,
                      struct bl_error *err)
{
    BL_TRY(check_fields(&e->base, err));
    BL_TRY(check_canonical(&e->base, data, size, err));
    return check_envelope(e, err);
}

/* Another version may differ in anything but the two messages by which that is found out. */
static int check_foreign(const Blipren__Envelope *e, struct bl_error *err)
{
    if (e->body_case == BLIPREN__ENVELOPE__BODY_HELLO ||
        e->body_case == BLIPREN__ENVELOPE__BODY_REFUSE)
        return 0;
    bl_fail(err, BL_EPROTO, "expected version %d, found %u", BL_PROTOCOL_VERSION, e->version);
    bl_error_remedy(err, "install the same version of BLIPren on every host");
    return bl_error_key(err, "Envelope.version");
}

int wire_unpack(const void *data, size_t size, Blipren__Envelope **ret, struct bl_error *err)
{
    struct budget budget = {BL_HEADER_MEMORY_MAX};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    *ret = NULL;
    if (size > BL_HEADER_BYTES_MAX)
        return bl_fail(err, BL_EPROTO, "expected a message of at most %d bytes, found %zu",
                       BL_HEADER_BYTES_MAX, size);
    Blipren__Envelope *e = blipren__envelope__unpack(&allocator, size, data);
    if (!e)
        return bl_fail(err, BL_EPROTO, "%zu bytes are no message of this protocol", size);
    int rc =
        e->version == BL_PROTOCOL_VERSION ? check_ours(e, data, size, err) : check_foreign(e, err);
    if (rc < 0)
        wire_envelope_free(&e); /* then NULL */
    *ret = e;
    return rc;
}

int wire_unpack_frames(struct wire_frames *frames, Blipren__Envelope **ret, struct bl_error *err)
{
    *ret = NULL;
    if (frames->count != 1)
        return bl_fail(err, BL_EPROTO, "expected 1 frame, found %d", frames->count);
    return wire_unpack(zmq_msg_data(&frames->at[0]), zmq_msg_size(&frames->at[0]), ret, err);
}

int wire_unpack_header(const void *data, size_t size, Blipren__BatchHeader **ret,
                       struct bl_error *err)
{
    struct budget budget = {BL_HEADER_MEMORY_MAX};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    *ret = NULL;
    if (size > BL_HEADER_BYTES_MAX)
        return bl_fail(err, BL_EPROTO, "expected a header of at most %d bytes, found %zu",
                       BL_HEADER_BYTES_MAX, size);
    Blipren__BatchHeader *h = blipren__batch_header__unpack(&allocator, size, data);
    if (!h)
        return bl_fail(err, BL_EPROTO, "%zu bytes are no batch header", size);
    int rc = check_fields(&h->base, err);
    if (rc == 0)
        rc = check_canonical(&h->base, data, size, err);
    if (rc == 0)
        rc = check_header(h, err);
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

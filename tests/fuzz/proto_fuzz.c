/* tests/fuzz/proto_fuzz.c - any bytes, as a control message (first byte even) or as the header of a
 * batch (odd): refused with a message, or within every limit and packed again to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"

static void packed_again(uint8_t *again, size_t again_size, const uint8_t *data, size_t size)
{
    BL_ASSERT_CMP(again_size, ==, size);
    BL_ASSERT(memcmp(again, data, size) == 0);
    free(again);
}

static void touch_envelope(Blipren__Envelope *e, const uint8_t *data, size_t size)
{
    uint8_t *again;
    size_t again_size;
    BL_ASSERT(strcmp(wire_body_name(e), "nothing") != 0);
    if (e->version == BL_PROTOCOL_VERSION) {
        wire_pack(e, &again, &again_size);
        packed_again(again, again_size, data, size);
    }
    if (e->body_case == BLIPREN__ENVELOPE__BODY_ASSIGNMENT)
        for (size_t i = 0; i < e->assignment->n_sample; i++)
            BL_ASSERT_CMP(e->assignment->epoch[i] + (e->assignment->sample[i] & 1), >=, 0);
}

static void touch_header(Blipren__BatchHeader *h, const uint8_t *data, size_t size)
{
    uint8_t *again;
    size_t again_size;
    uint64_t tokens = 0;
    for (size_t i = 0; i < h->n_slots; i++) {
        BL_ASSERT(h->slots[i]->bad || h->slots[i]->label_first < h->slots[i]->tokens);
        tokens += h->slots[i]->tokens;
    }
    BL_ASSERT_CMP(tokens, <=, (uint64_t)BL_MICRO_BATCH_SLOTS_MAX * BL_CAPTION_TOKENS_MAX);
    wire_pack_header(h, &again, &again_size);
    packed_again(again, again_size, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    Blipren__Envelope *e;
    Blipren__BatchHeader *h;
    if (!size)
        return 0;
    bool header = data[0] % 2;
    data++;
    size--;
    int rc = header ? wire_unpack_header(data, size, &h, &err) : wire_unpack(data, size, &e, &err);
    if (rc < 0) {
        BL_ASSERT(err.text[0] != '\0');
    } else if (header) {
        touch_header(h, data, size);
        wire_header_free(&h);
    } else {
        touch_envelope(e, data, size);
        wire_envelope_free(&e);
    }
    return 0;
}

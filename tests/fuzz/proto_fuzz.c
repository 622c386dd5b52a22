/* tests/fuzz/proto_fuzz.c - any bytes, as a control message (first byte even) or as the header of a
 * batch (odd): refused with a message, or what packs and unpacks to the same bytes again. */
#include <string.h>

#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"

static void read_envelope(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    Blipren__Envelope *first = NULL, *second = NULL;
    uint8_t *packed, *again;
    size_t packed_size, again_size;
    if (wire_unpack(data, size, &first, &err) < 0) {
        BL_ASSERT(first == NULL && err.code == BL_EPROTO && err.text[0] != '\0');
        return;
    }
    BL_ASSERT(strcmp(wire_body_name(first), "nothing") != 0);
    wire_pack(first, &packed, &packed_size);
    BL_ASSERT(wire_unpack(packed, packed_size, &second, &err) == 0);
    wire_pack(second, &again, &again_size);
    BL_ASSERT(again_size == packed_size && !memcmp(again, packed, packed_size));
    wire_envelope_free(&first);
    wire_envelope_free(&second);
    free(packed);
    free(again);
}

static void read_header(const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    Blipren__BatchHeader *header = NULL;
    uint8_t *packed;
    size_t packed_size;
    if (wire_unpack_header(data, size, &header, &err) < 0) {
        BL_ASSERT(header == NULL && err.code == BL_EPROTO && err.text[0] != '\0');
        return;
    }
    wire_pack_header(header, &packed, &packed_size);
    fuzz_touch(packed, packed_size);
    free(packed);
    wire_header_free(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && data[0] % 2 == 0)
        read_envelope(data + 1, size - 1);
    else if (size)
        read_header(data + 1, size - 1);
    return 0;
}

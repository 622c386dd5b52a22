/* tests/fuzz/batch_fuzz.c - any bytes, as a data message: a byte with the size of the header, one
 * with that of the images, then header, images, ids; as pixels are expected, and as rows of the
 * feature cache are. Refused with a message, or a batch whose every part may be read. */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "worker/batch.h"

#define SIDE 2
#define VOCABULARY 100
#define ROW_BYTES 20

static void put_frame(struct wire_frames *frames, const uint8_t **data, size_t *left, size_t size)
{
    zmq_msg_t *frame = &frames->at[frames->count++];
    if (size > *left)
        size = *left;
    BL_ASSERT(zmq_msg_init_size(frame, size) == 0);
    memcpy(zmq_msg_data(frame), *data, size);
    *data += size;
    *left -= size;
}

static void touch(const struct batch *b, size_t row_bytes)
{
    size_t tokens = 0;
    for (int64_t i = 0; i < b->good; i++) {
        const struct batch_slot *s = &b->slots[i];
        BL_ASSERT(s->prefix >= 0 && s->prefix <= s->tokens);
        BL_ASSERT(s->label_first >= 0 && s->label_first <= s->tokens);
        BL_ASSERT((uint32_t)s->index >= b->first && (uint32_t)s->index < b->first + b->count);
        tokens += (size_t)s->tokens;
    }
    for (size_t i = 0; i < tokens; i++)
        BL_ASSERT(b->ids[i] >= 0 && b->ids[i] < VOCABULARY);
    fuzz_touch(b->pixels, (size_t)b->good * (b->cached ? row_bytes : SIDE * SIDE * 3));
}

static void read_message(const struct batch_rules *rules, const uint8_t *data, size_t size)
{
    struct bl_error err = {0};
    struct batch *batch = NULL;
    struct wire_frames frames = {0};
    size_t header = data[0], images = data[1];
    data += 2;
    size -= 2;
    put_frame(&frames, &data, &size, header);
    put_frame(&frames, &data, &size, images);
    put_frame(&frames, &data, &size, size);
    if (batch_read(rules, &frames, &batch, &err) < 0)
        BL_ASSERT(batch == NULL && err.text[0] != '\0');
    else
        touch(batch, rules->row_bytes);
    batch_free(&batch);
    wire_frames_close(&frames);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t run[] = "sixteen bytes...";
    const struct bl_plan plan = {
        .train_samples = 100, .validate_samples = 7, .batch = 12, .micro_batch = 5, .steps = 10};
    const struct batch_rules pixels = {
        .run = run, .plan = &plan, .image_side = SIDE, .vocabulary = VOCABULARY, .fill = true};
    struct batch_rules rows = pixels;
    rows.cached = true;
    rows.row_bytes = ROW_BYTES;
    if (size < 2)
        return 0;
    read_message(&pixels, data, size);
    read_message(&rows, data, size);
    return 0;
}

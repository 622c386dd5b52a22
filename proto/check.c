/* proto/check.c - see check.h. Ranges are those of common/limits.h. */
#include "proto/check.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/cleanup.h"
#include "common/limits.h"
#include "common/data/run.h"
#include "proto/wire.h"

/* -- all fields alike ------------------------------------------------------------------------- */

static bool is_utf8(const char *text)
{
    utf8proc_int32_t point;
    utf8proc_ssize_t n;
    for (const char *p = text; *p; p += n)
        if ((n = utf8proc_iterate((const utf8proc_uint8_t *)p, -1, &point)) <= 0)
            return false;
    return true;
}

/* One value of a field; at points to it. */
static int check_value(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field,
                       const void *at, struct bl_error *err)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        ProtobufCMessage *const *inner = at;
        return *inner ? check_fields(*inner, err) : 0;
    }
    if (field->type == PROTOBUF_C_TYPE_STRING && !is_utf8(*(char *const *)at))
        bl_fail(err, BL_EPROTO, "expected UTF-8");
    else if (field->type == PROTOBUF_C_TYPE_ENUM &&
             !protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)at))
        bl_fail(err, BL_EPROTO, "expected one of the names of %s, found number %d",
                ((const ProtobufCEnumDescriptor *)field->descriptor)->short_name, *(const int *)at);
    else
        return 0;
    return bl_error_key(err, "%s.%s", message->descriptor->short_name, field->name);
}

int check_fields(const ProtobufCMessage *message, struct bl_error *err)
{
    const ProtobufCMessageDescriptor *d = message->descriptor;
    const char *base = (const char *)message;
    if (message->n_unknown_fields) {
        bl_fail(err, BL_EPROTO, "found field number %u, which is not supported by this version",
                message->unknown_fields[0].tag);
        return bl_error_key(err, "%s", d->short_name);
    }
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &d->fields[i];
        const void *count = base + field->quantifier_offset;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            /* Only texts, enums and messages are looked at, and all of those are lists of pointers. */
            if (field->type != PROTOBUF_C_TYPE_MESSAGE && field->type != PROTOBUF_C_TYPE_STRING)
                continue;
            void *const *list = *(void *const *const *)(const void *)(base + field->offset);
            for (size_t n = 0; n < *(const size_t *)count; n++)
                BL_TRY(check_value(message, field, &list[n], err));
        } else if (!(field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) ||
                   *(const uint32_t *)count == field->id) {
            BL_TRY(check_value(message, field, base + field->offset, err));
        }
    }
    return 0;
}

int check_canonical(const ProtobufCMessage *message, const void *data, size_t size,
                    struct bl_error *err)
{
    size_t packed_size = protobuf_c_message_get_packed_size(message);
    bl_autofree uint8_t *packed = malloc(packed_size ? packed_size : 1);
    if (!packed)
        return bl_fail(err, BL_ENOMEM, "no memory for a message");
    protobuf_c_message_pack(message, packed);
    if (packed_size == size && (!size || memcmp(packed, data, size) == 0))
        return 0;
    return bl_fail(err, BL_EPROTO,
                   "a field twice, a number written too long or a NUL in a text of %s",
                   message->descriptor->short_name);
}

/* -- each message's own ----------------------------------------------------------------------- */

#define CHECK(cond, field, ...)                                                                    \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            bl_fail(err, BL_EPROTO, __VA_ARGS__);                                                  \
            return bl_error_key(err, "%s", field);                                                 \
        }                                                                                          \
    } while (0)
#define CHECK_RANGE(value, low, high, field)                                                       \
    BL_TRY(check_range((int64_t)(value), (int64_t)(low), (int64_t)(high), field, err))
#define CHECK_TEXT(text, most, field)                                                              \
    CHECK(strlen(text) < (most), field, "expected a text below %zu bytes, found %zu",              \
          (size_t)(most), strlen(text))

static int check_range(int64_t value, int64_t low, int64_t high, const char *field,
                       struct bl_error *err)
{
    CHECK(value >= low && value <= high, field,
          "expected %" PRId64 " to %" PRId64 ", found %" PRId64, low, high, value);
    return 0;
}

static int check_kind(Blipren__Kind kind, const char *field, struct bl_error *err)
{
    CHECK(kind != BLIPREN__KIND__KIND_NONE, field, "expected TRAIN, VALIDATE or EMBED");
    return 0;
}

static int check_digest(const ProtobufCBinaryData *digest, const char *field, struct bl_error *err)
{
    CHECK(digest->len == 0 || digest->len == 32, field, "expected 0 or 32 bytes, found %zu",
          digest->len);
    return 0;
}

static int check_seconds(double value, const char *field, struct bl_error *err)
{
    CHECK(isfinite(value) && value >= 0, field, "expected seconds, found %g", value);
    return 0;
}

static int check_endpoint(const char *endpoint, const char *field, struct bl_error *err)
{
    struct bl_error why;
    CHECK(wire_check_endpoint(endpoint, true, &why) == 0, field, "%s", why.text);
    return 0;
}

/* The name of a checkpoint's folder, which stays inside the run's. */
static int check_name(const char *name, const char *field, struct bl_error *err)
{
    CHECK_TEXT(name, 256, field);
    CHECK(name[0] && name[0] != '.' && !strchr(name, '/'), field,
          "expected a folder's name, found \"%.60s\"", name);
    return 0;
}

static int check_hello(const Blipren__Hello *m, struct bl_error *err)
{
    CHECK(m->role != BLIPREN__ROLE__ROLE_NONE, "Hello.role", "expected WORKER or LOADER");
    CHECK_TEXT(m->name, 128, "Hello.name");
    CHECK_TEXT(m->build, 512, "Hello.build");
    CHECK_RANGE(m->applied_step, -1, INT64_MAX, "Hello.applied_step");
    BL_TRY(check_digest(&m->state_digest, "Hello.state_digest", err));
    if (m->role == BLIPREN__ROLE__ROLE_WORKER)
        return check_endpoint(m->data_endpoint, "Hello.data_endpoint", err);
    CHECK_RANGE(m->capacity, 1, BL_LOADER_CAPACITY_MAX, "Hello.capacity");
    return 0;
}

/* Of 32 bytes, or empty. */
static int check_hex(const char *hex, const char *field, struct bl_error *err)
{
    size_t digits = strspn(hex, "0123456789abcdef");
    CHECK(!hex[digits] && (digits == 0 || digits == 64), field,
          "expected 0 or 64 hexadecimal digits, found %zu of %zu", digits, strlen(hex));
    return 0;
}

static int check_entry(const Blipren__Rendezvous *m, struct bl_error *err)
{
    CHECK_TEXT(m->key, 64, "Rendezvous.key");
    CHECK_RANGE(m->value.len, 0, BL_ENTRY_BYTES_MAX, "Rendezvous.value");
    return 0;
}

static int check_report(const Blipren__Report *m, struct bl_error *err)
{
    CHECK_RANGE(m->n_trained, 0, BL_MICRO_BATCH_SLOTS_MAX, "Report.trained");
    for (size_t i = 0; i < m->n_trained; i++) {
        CHECK_RANGE(m->trained[i]->first, 0, BL_GLOBAL_BATCH_MAX, "Report.trained.first");
        CHECK_RANGE(m->trained[i]->count, 0, BL_GLOBAL_BATCH_MAX - m->trained[i]->first,
                    "Report.trained.count");
    }
    CHECK_RANGE(m->n_expert_share, 0, BL_EXPERTS_MAX, "Report.expert_share");
    CHECK_RANGE(m->n_source, 0, BL_SOURCES_MAX, "Report.source");
    BL_TRY(check_seconds(m->data_wait_s, "Report.data_wait_s", err));
    BL_TRY(check_seconds(m->compute_s, "Report.compute_s", err));
    return check_seconds(m->reduce_wait_s, "Report.reduce_wait_s", err);
}

static int check_validation(const Blipren__Validation *m, struct bl_error *err)
{
    CHECK_RANGE(m->n_captions, 0, BL_MICRO_BATCH_SLOTS_MAX, "Validation.captions");
    CHECK_RANGE(m->captions_left_out, 0, BL_MICRO_BATCH_SLOTS_MAX, "Validation.captions_left_out");
    CHECK_RANGE(m->n_expert_weight, 0, BL_EXPERTS_MAX, "Validation.expert_weight");
    CHECK_RANGE(m->n_source, 0, BL_SOURCES_MAX, "Validation.source");
    return 0;
}

static int check_broken(const Blipren__Broken *m, struct bl_error *err)
{
    CHECK_RANGE(m->n_unreached, 0, BL_WORKERS_MAX - 1, "Broken.unreached");
    for (size_t i = 0; i < m->n_unreached; i++)
        CHECK_RANGE(m->unreached[i], 0, BL_WORKERS_MAX - 1, "Broken.unreached");
    return 0;
}

static int check_ended(const Blipren__Ended *m, struct bl_error *err)
{
    CHECK_RANGE(m->applied_step, -1, INT64_MAX, "Ended.applied_step");
    CHECK_RANGE(m->n_probe_hash, 0, BL_PROBE_SAMPLES_MAX, "Ended.probe_hash");
    BL_TRY(check_hex(m->vision_sha256, "Ended.vision_sha256", err));
    BL_TRY(check_hex(m->llm_sha256, "Ended.llm_sha256", err));
    return check_digest(&m->state_digest, "Ended.state_digest", err);
}

static int check_completed(const Blipren__Completed *m, struct bl_error *err)
{
    BL_TRY(check_kind(m->kind, "Completed.kind", err));
    CHECK_RANGE(m->n_voids, 0, BL_MICRO_BATCH_SLOTS_MAX, "Completed.voids");
    CHECK_RANGE(m->n_damaged, 0, BL_MICRO_BATCH_SLOTS_MAX, "Completed.damaged");
    for (size_t i = 0; i < m->n_voids; i++)
        CHECK_RANGE(m->voids[i]->slot, i ? m->voids[i - 1]->slot + 1 : 0,
                    BL_MICRO_BATCH_SLOTS_MAX - 1, "Completed.voids.slot");
    return 0;
}

static int check_welcome(const Blipren__Welcome *m, struct bl_error *err)
{
    CHECK_TEXT(m->run_folder, 4096, "Welcome.run_folder");
    CHECK(m->run_folder[0] == '/', "Welcome.run_folder",
          "expected an absolute path, found \"%.60s\"", m->run_folder);
    BL_TRY(check_hex(m->cache_tower, "Welcome.cache_tower", err));
    CHECK(m->kind == BLIPREN__KIND__KIND_TRAIN || m->kind == BLIPREN__KIND__KIND_EMBED,
          "Welcome.kind", "expected TRAIN or EMBED");
    CHECK_RANGE(m->n_probe, 0, BL_PROBE_SAMPLES_MAX, "Welcome.probe");
    CHECK(m->token.len == 0 || m->token.len == BL_TOKEN_BYTES, "Welcome.token",
          "expected 0 or %d bytes, found %zu", BL_TOKEN_BYTES, m->token.len);
    CHECK_RANGE(m->files_port, 0, 65535, "Welcome.files_port");
    CHECK_RANGE(m->patience_ms, BL_PATIENCE_MS_MIN, BL_PATIENCE_S_MAX * 1000,
                "Welcome.patience_ms");
    return 0;
}

static int check_form(const Blipren__Form *m, struct bl_error *err)
{
    CHECK_RANGE(m->world, 1, BL_WORKERS_MAX, "Form.world");
    CHECK_RANGE(m->rank, 0, m->world - 1, "Form.rank");
    CHECK_RANGE(m->source, -1, (int)m->world - 1, "Form.source");
    return m->checkpoint[0] ? check_name(m->checkpoint, "Form.checkpoint", err) : 0;
}

static int check_assignment(const Blipren__Assignment *m, struct bl_error *err)
{
    BL_TRY(check_kind(m->kind, "Assignment.kind", err));
    CHECK_RANGE(m->n_sample, 1, BL_MICRO_BATCH_SLOTS_MAX, "Assignment.sample");
    CHECK_RANGE(m->n_epoch, m->n_sample, m->n_sample, "Assignment.epoch");
    CHECK_RANGE(m->n_missing, 0, m->n_sample, "Assignment.missing");
    CHECK_RANGE(m->first, 0, INT32_MAX - BL_MICRO_BATCH_SLOTS_MAX, "Assignment.first");
    CHECK(m->worker != 0, "Assignment.worker", "expected an incarnation, found 0");
    return check_endpoint(m->endpoint, "Assignment.endpoint", err);
}

/* Names of files that stay inside their folder; a checkpoint's may be empty where `none` is true. */
static int check_file(const char *checkpoint, bool none, const char *file, bool no_file,
                      const char *message, struct bl_error *err)
{
    char field[64];
    snprintf(field, sizeof field, "%s.checkpoint", message);
    if (!none || checkpoint[0])
        BL_TRY(check_name(checkpoint, field, err));
    snprintf(field, sizeof field, "%s.file", message);
    return no_file && !file[0] ? 0 : check_name(file, field, err);
}

static int check_token(const ProtobufCBinaryData *token, const char *field, struct bl_error *err)
{
    CHECK(token->len == BL_TOKEN_BYTES, field, "expected %d bytes, found %zu", BL_TOKEN_BYTES,
          token->len);
    return 0;
}

static int check_fetch(const Blipren__Fetch *m, struct bl_error *err)
{
    BL_TRY(check_token(&m->token, "Fetch.token", err));
    CHECK(m->offset <= BL_SENT_FILE_BYTES_MAX, "Fetch.offset", "expected a file's offset");
    return check_file(m->checkpoint, true, m->file, false, "Fetch", err);
}

/* A piece lies inside its file. */
static int check_piece_of(uint64_t offset, size_t bytes, uint64_t size, const char *field,
                          struct bl_error *err)
{
    CHECK(size <= BL_SENT_FILE_BYTES_MAX && bytes <= BL_PIECE_BYTES_MAX && offset <= size &&
              bytes <= size - offset,
          field,
          "expected at most %d bytes inside of the file, found %zu at %" PRIu64 " of %" PRIu64,
          BL_PIECE_BYTES_MAX, bytes, offset, size);
    return 0;
}

static int check_piece(const Blipren__Piece *m, struct bl_error *err)
{
    BL_TRY(check_digest(&m->sha256, "Piece.sha256", err));
    CHECK_TEXT(m->error, 1024, "Piece.error");
    BL_TRY(check_piece_of(m->offset, m->data.len, m->size, "Piece.data", err));
    return check_file(m->checkpoint, true, m->file, false, "Piece", err);
}

static int check_put(const Blipren__Put *m, struct bl_error *err)
{
    BL_TRY(check_token(&m->token, "Put.token", err));
    BL_TRY(check_piece_of(m->offset, m->data.len, m->size, "Put.data", err));
    return check_file(m->checkpoint, false, m->file, true, "Put", err);
}

static int check_kept(const Blipren__Kept *m, struct bl_error *err)
{
    CHECK_TEXT(m->error, 1024, "Kept.error");
    return check_file(m->checkpoint, false, m->file, true, "Kept", err);
}

static int check_body(const Blipren__Envelope *e, struct bl_error *err)
{
    switch (e->body_case) {
    case BLIPREN__ENVELOPE__BODY_HELLO:
        return check_hello(e->hello, err);
    case BLIPREN__ENVELOPE__BODY_ENDED:
        return check_ended(e->ended, err);
    case BLIPREN__ENVELOPE__BODY_RENDEZVOUS:
        return check_entry(e->rendezvous, err);
    case BLIPREN__ENVELOPE__BODY_STORE:
        for (size_t i = 0; i < e->store->n_entry; i++)
            BL_TRY(check_entry(e->store->entry[i], err));
        return 0;
    case BLIPREN__ENVELOPE__BODY_FORMED:
        return check_digest(&e->formed->state_digest, "Formed.state_digest", err);
    case BLIPREN__ENVELOPE__BODY_RECEIVED:
        return check_kind(e->received->kind, "Received.kind", err);
    case BLIPREN__ENVELOPE__BODY_CONSUMED:
        return check_kind(e->consumed->kind, "Consumed.kind", err);
    case BLIPREN__ENVELOPE__BODY_REPORT:
        return check_report(e->report, err);
    case BLIPREN__ENVELOPE__BODY_VALIDATION:
        return check_validation(e->validation, err);
    case BLIPREN__ENVELOPE__BODY_SAVED:
        return check_name(e->saved->folder, "Saved.folder", err);
    case BLIPREN__ENVELOPE__BODY_COMPLETED:
        return check_completed(e->completed, err);
    case BLIPREN__ENVELOPE__BODY_WELCOME:
        return check_welcome(e->welcome, err);
    case BLIPREN__ENVELOPE__BODY_FORM:
        return check_form(e->form, err);
    case BLIPREN__ENVELOPE__BODY_ASSIGNMENT:
        return check_assignment(e->assignment, err);
    case BLIPREN__ENVELOPE__BODY_SAVE:
        return check_name(e->save->folder, "Save.folder", err);
    case BLIPREN__ENVELOPE__BODY_BROKEN:
        return check_broken(e->broken, err);
    case BLIPREN__ENVELOPE__BODY_FETCH:
        return check_fetch(e->fetch, err);
    case BLIPREN__ENVELOPE__BODY_PIECE:
        return check_piece(e->piece, err);
    case BLIPREN__ENVELOPE__BODY_PUT:
        return check_put(e->put, err);
    case BLIPREN__ENVELOPE__BODY_KEPT:
        return check_kept(e->kept, err);
    case BLIPREN__ENVELOPE__BODY_BEAT:
    case BLIPREN__ENVELOPE__BODY_GOODBYE:
    case BLIPREN__ENVELOPE__BODY_REFUSE:
    case BLIPREN__ENVELOPE__BODY_PULSE:
    case BLIPREN__ENVELOPE__BODY_END:
    case BLIPREN__ENVELOPE__BODY_STOP:
        return 0; /* any text will do */
    default:
        return bl_fail(err, BL_EPROTO, "expected a body, found none");
    }
}

int check_envelope(const Blipren__Envelope *e, struct bl_error *err)
{
    CHECK(e->run.len == 0 || e->run.len == RUN_ID_BYTES, "Envelope.run",
          "expected %d bytes, found %zu", RUN_ID_BYTES, e->run.len);
    CHECK(e->peer != 0, "Envelope.peer", "expected an incarnation, found 0");
    return check_body(e, err);
}

static int check_slot(const Blipren__Slot *s, struct bl_error *err)
{
    CHECK_RANGE(s->tokens, s->bad ? 0 : 1, s->bad ? 0 : BL_CAPTION_TOKENS_MAX, "Slot.tokens");
    long long last = s->bad ? 0 : (long long)s->tokens - 1; /* one label at least */
    CHECK_RANGE(s->prefix, 0, last, "Slot.prefix");
    CHECK_RANGE(s->label_first, 0, last, "Slot.label_first");
    if (s->label_end)
        CHECK_RANGE(s->label_end, s->label_first + 1, s->tokens, "Slot.label_end");
    return 0;
}

int check_header(const Blipren__BatchHeader *h, struct bl_error *err)
{
    CHECK(h->run.len == RUN_ID_BYTES, "BatchHeader.run", "expected %d bytes, found %zu",
          RUN_ID_BYTES, h->run.len);
    BL_TRY(check_kind(h->kind, "BatchHeader.kind", err));
    CHECK_TEXT(h->loader, 128, "BatchHeader.loader");
    CHECK(h->worker != 0, "BatchHeader.worker", "expected an incarnation, found 0");
    CHECK_RANGE(h->image_side, 1, BL_MODEL_IMAGE_SIZE_MAX, "BatchHeader.image_side");
    CHECK_RANGE(h->n_slots, 1, BL_MICRO_BATCH_SLOTS_MAX, "BatchHeader.slots");
    CHECK_RANGE(h->first, 0, INT32_MAX - BL_MICRO_BATCH_SLOTS_MAX, "BatchHeader.first");
    for (size_t i = 0; i < h->n_slots; i++)
        BL_TRY(check_slot(h->slots[i], err));
    return 0;
}

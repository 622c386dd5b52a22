/* proto/coordinators.c - see coordinators.h. */
#include "proto/coordinators.h"

#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/file.h"

#define FILE_BYTES_MAX 4096

static const char separators[] = ", \t\r\n";

/* Address number `turn`, counted round; checks them all on the way. */
static int choose(const char *text, unsigned turn, bool permitted, char *ret, struct bl_error *err)
{
    char address[SOCKET_ENDPOINT_MAX], chosen[SOCKET_ENDPOINT_MAX] = "";
    unsigned count = 0;
    for (const char *at = text; *(at += strspn(at, separators)); count++)
        at += strcspn(at, separators);
    if (count == 0)
        return bl_fail(err, BL_EUSAGE, "expected an address like tcp://127.0.0.1:5555, found none");
    const char *at = text;
    for (unsigned i = 0; i < count; i++) {
        at += strspn(at, separators);
        size_t size = strcspn(at, separators);
        snprintf(address, sizeof address, "%.*s", (int)size, at);
        BL_TRY(wire_check_endpoint(size < sizeof address ? address : at, permitted, err));
        if (i == turn % count)
            memcpy(chosen, address, sizeof chosen);
        at += size;
    }
    memcpy(ret, chosen, sizeof chosen);
    return 0;
}

static int look(const struct coordinators *c, unsigned turn, char *ret, struct bl_error *err)
{
    bl_autofree char *text = NULL;
    size_t size;
    if (!c->file)
        return choose(c->given, turn, c->permitted, ret, err);
    BL_TRY(bl_file_read(c->given, FILE_BYTES_MAX, &text, &size, err));
    return choose(text, turn, c->permitted, ret, err);
}

int coordinators_open(struct coordinators *c, const char *given, bool permitted, char *ret_first,
                      struct bl_error *err)
{
    *c = (struct coordinators){.given = given,
                               .permitted = permitted,
                               .file = strchr(given, '/') && !strstr(given, "://")};
    *ret_first = 0;
    if (!c->file)
        return look(c, 0, ret_first, err);
    (void)look(c, 0, ret_first, NULL); /* it may appear later */
    return 0;
}

int coordinators_next(struct coordinators *c, char *ret, struct bl_error *err)
{
    return look(c, c->turn++, ret, err);
}

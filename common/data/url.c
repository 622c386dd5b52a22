/* common/data/url.c - see url.h. */
#include "common/data/url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/array.h"
#include "common/cleanup.h"
#include "common/file.h"
#include "common/hash.h"
#include "common/limits.h"

static const char *skip_space(const char *text)
{
    return text + strspn(text, " \t\r\n");
}

bool url_is(const char *text)
{
    static const char *const schemes[] = {"http://", "https://", "file://"};
    text = skip_space(text);
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (!strncasecmp(text, schemes[i], strlen(schemes[i])))
            return true;
    return false;
}

/* Printable ASCII stays as it is: what is encoded already is not encoded again. */
static bool encode(const char *url, struct bl_bytes *ret)
{
    size_t size = strlen(url = skip_space(url));
    while (size && strchr(" \t\r\n", url[size - 1]))
        size--;
    for (size_t i = 0; i < size; i++) {
        size_t plain = i;
        while (plain < size && url[plain] > ' ' && url[plain] < 0x7f)
            plain++;
        if (!bl_bytes_add(ret, url + i, plain - i))
            return false;
        if ((i = plain) == size)
            break;
        char escaped[4];
        snprintf(escaped, sizeof escaped, "%%%02X", (unsigned char)url[i]);
        if (!bl_bytes_add(ret, escaped, 3))
            return false;
    }
    return bl_bytes_add(ret, "", 1);
}

int url_locate(const char *url, const char *cache, char **ret, struct bl_error *err)
{
    bl_autobytes struct bl_bytes encoded = {0};
    bl_autofree char *path = NULL;
    uint8_t hash[32];
    char hex[65];
    if (!encode(url, &encoded))
        return bl_fail(err, BL_ENOMEM, "no memory for a URL");
    size_t length = encoded.size - 1;
    if (length > BL_URL_BYTES_MAX)
        return bl_fail(err, BL_ELIMIT, "expected a URL of at most %d bytes, found %zu",
                       BL_URL_BYTES_MAX, length);
    bl_sha256(encoded.data, length, hash);
    bl_hex(hash, sizeof hash, hex);
    if (asprintf(&path, "%s/url/%.2s/%s", cache, hex, hex + 2) < 0) {
        path = NULL;
        return bl_fail(err, BL_ENOMEM, "no memory for a URL");
    }
    struct location location = {
        .kind = LOCATION_URL, .path = path, .url = encoded.data, .url_length = length};
    return location_format(&location, ret, err);
}

int url_identify(const char *url, uint8_t ret[32], struct bl_error *err)
{
    bl_autobytes struct bl_bytes encoded = {0};
    if (!encode(url, &encoded))
        return bl_fail(err, BL_ENOMEM, "no memory for a URL");
    bl_sha256(encoded.data, encoded.size - 1, ret);
    return 0;
}

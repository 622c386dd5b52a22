/* common/image/exif.c - the orientation of a picture, from EXIF or XMP, as PIL's getexif finds it.
 *
 * EXIF is a TIFF header (8 bytes: byte order, 42, offset of the first directory) and directories: a
 * 16-bit count, then entries of 12 bytes: tag, type, count, value. */
#include <string.h>

#include "common/image/format.h"

enum { TAG_ORIENTATION = 274, TYPE_SHORT = 3, TYPE_LONG = 4 };

static bool read_u16(struct bl_cursor *cursor, bool little, uint16_t *ret)
{
    return little ? bl_cursor_u16le(cursor, ret) : bl_cursor_u16be(cursor, ret);
}

static bool read_u32(struct bl_cursor *cursor, bool little, uint32_t *ret)
{
    return little ? bl_cursor_u32le(cursor, ret) : bl_cursor_u32be(cursor, ret);
}

/* The first entry of a type that holds a whole number counts, whatever the number is. */
static bool directory_orientation(struct bl_cursor *tiff, bool little, uint32_t *ret)
{
    uint16_t count;
    if (!read_u16(tiff, little, &count))
        return false;
    for (; count > 0; count--) {
        uint16_t tag = 0, type = 0, narrow = 0;
        uint32_t values = 0;
        const uint8_t *value;
        read_u16(tiff, little, &tag);
        read_u16(tiff, little, &type);
        read_u32(tiff, little, &values);
        if (!bl_cursor_take(tiff, 4, &value))
            return false;
        if (tag != TAG_ORIENTATION || values != 1)
            continue;
        struct bl_cursor field = bl_cursor(value, 4);
        if (type == TYPE_LONG)
            return read_u32(&field, little, ret);
        if (type != TYPE_SHORT)
            continue;
        read_u16(&field, little, &narrow);
        *ret = narrow;
        return true;
    }
    return false;
}

static bool exif_orientation(const uint8_t *exif, size_t size, uint32_t *ret)
{
    /* PIL strips the prefix twice: some writers put it into PNG and WebP, which need none. */
    for (int i = 0; i < 2 && size >= 6 && memcmp(exif, "Exif\0\0", 6) == 0; i++) {
        exif += 6;
        size -= 6;
    }
    struct bl_cursor tiff = bl_cursor(exif, size);
    const uint8_t *magic;
    uint32_t offset;
    if (!bl_cursor_take(&tiff, 4, &magic))
        return false;
    bool little = memcmp(magic, "II*\0", 4) == 0;
    if (!little && memcmp(magic, "MM\0*", 4) != 0)
        return false;
    return read_u32(&tiff, little, &offset) && bl_cursor_seek(&tiff, offset) &&
           directory_orientation(&tiff, little, ret);
}

/* tiff:Orientation as an attribute (="6") or as an element (>6). */
static bool xmp_orientation(const uint8_t *xmp, size_t size, uint32_t *ret)
{
    static const char name[] = "tiff:Orientation";
    const size_t name_size = sizeof name - 1;
    const uint8_t *end = xmp + size, *found;
    while ((found = memmem(xmp, (size_t)(end - xmp), name, name_size))) {
        struct bl_cursor rest = bl_cursor(found + name_size, (size_t)(end - found) - name_size);
        uint8_t mark = 0, quote, digit;
        bl_cursor_u8(&rest, &mark);
        if (mark == '=' && (!bl_cursor_u8(&rest, &quote) || quote != '"'))
            mark = 0;
        if ((mark == '=' || mark == '>') && bl_cursor_u8(&rest, &digit) && digit >= '0' &&
            digit <= '9') {
            *ret = (uint32_t)(digit - '0');
            return true;
        }
        xmp = found + name_size;
    }
    return false;
}

bool image_orientation(const uint8_t *exif, size_t exif_size, const uint8_t *xmp, size_t xmp_size,
                       int *ret)
{
    uint32_t orientation;
    if (!(exif && exif_orientation(exif, exif_size, &orientation)) &&
        !(xmp && xmp_orientation(xmp, xmp_size, &orientation)))
        return false;
    *ret = orientation >= 1 && orientation <= 8 ? (int)orientation : 1;
    return true;
}

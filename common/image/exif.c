/* common/image/exif.c - the orientation of a picture, from EXIF or XMP, as PIL's getexif finds it.
 *
 * EXIF is a TIFF header (8 bytes: byte order, 42, offset of the first directory) and directories: a
 * 16-bit count, then entries of 12 bytes: tag, type, count, value. */
#include <string.h>

#include "common/image/format.h"

enum { TAG_ORIENTATION = 274 };

/* TIFF's types of values, and the bytes each takes; 0: none that PIL reads. */
enum type {
    TYPE_SHORT = 3,
    TYPE_LONG = 4,
    TYPE_RATIONAL = 5,
    TYPE_SIGNED_BYTE = 6,
    TYPE_SIGNED_SHORT = 8,
    TYPE_SIGNED_LONG = 9,
    TYPE_SIGNED_RATIONAL = 10,
    TYPE_FLOAT = 11,
    TYPE_DOUBLE = 12,
    TYPE_IFD = 13,
    TYPE_LONG8 = 16,
    TYPE_COUNT
};
static const uint8_t type_bytes[TYPE_COUNT] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};

static bool read_u16(struct bl_cursor *cursor, bool little, uint16_t *ret)
{
    return little ? bl_cursor_u16le(cursor, ret) : bl_cursor_u16be(cursor, ret);
}

static bool read_u32(struct bl_cursor *cursor, bool little, uint32_t *ret)
{
    return little ? bl_cursor_u32le(cursor, ret) : bl_cursor_u32be(cursor, ret);
}

static uint64_t read_uint(const uint8_t *bytes, size_t size, bool little)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[little ? size - 1 - i : i];
    return value;
}

static double read_double(const uint8_t *bytes, size_t size, bool little)
{
    uint64_t bits = read_uint(bytes, size, little);
    uint32_t narrow_bits = (uint32_t)bits;
    double wide;
    float narrow;
    memcpy(&wide, &bits, sizeof wide);
    memcpy(&narrow, &narrow_bits, sizeof narrow);
    return size == sizeof narrow ? (double)narrow : wide;
}

/* The first value of an entry, 0 where it is no number: PIL compares it with 2 to 8, of whatever type it is. A negative
 * number stays out of that range when it is read without its sign. */
static double entry_value(unsigned type, const uint8_t *data, bool little)
{
    switch (type) {
    case TYPE_SHORT:
    case TYPE_LONG:
    case TYPE_SIGNED_BYTE:
    case TYPE_SIGNED_SHORT:
    case TYPE_SIGNED_LONG:
    case TYPE_IFD:
    case TYPE_LONG8:
        return (double)read_uint(data, type_bytes[type], little);
    case TYPE_RATIONAL:
    case TYPE_SIGNED_RATIONAL: {
        double over = (double)read_uint(data, 4, little);
        double under = (double)read_uint(data + 4, 4, little);
        return under > 0 ? over / under : 0;
    }
    case TYPE_FLOAT:
    case TYPE_DOUBLE:
        return read_double(data, type_bytes[type], little);
    default:
        return 0;
    }
}

/* The first entry of the tag that holds a value counts, whatever it is. As PIL: values that lie outside the file end the
 * directory, values larger than all of it are passed over. */
static bool directory_orientation(struct bl_cursor *tiff, bool little, uint32_t *ret)
{
    const size_t file_size = (size_t)(tiff->pos - tiff->start) + tiff->left;
    uint64_t outside = 0; /* bytes of values that do not fit into their entries */
    uint16_t count;
    if (!read_u16(tiff, little, &count))
        return false;
    for (; count > 0; count--) {
        uint16_t tag = 0, type = 0;
        uint32_t values = 0;
        const uint8_t *value;
        read_u16(tiff, little, &tag);
        read_u16(tiff, little, &type);
        read_u32(tiff, little, &values);
        if (!bl_cursor_take(tiff, 4, &value))
            return false;
        uint64_t size = type < TYPE_COUNT ? (uint64_t)values * type_bytes[type] : 0;
        if (!size)
            continue;
        if (size > 4) {
            uint64_t offset = read_uint(value, 4, little);
            outside += size;
            if (outside > file_size)
                continue;
            if (offset + size > file_size)
                return false;
            value = tiff->start + offset;
        }
        if (tag != TAG_ORIENTATION)
            continue;
        double found = entry_value(type, value, little);
        *ret = found >= 1 && found <= 8 && found == (int)found ? (uint32_t)found : 1;
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
    bool little = magic[0] == 'I';
    if (memcmp(magic, little ? "II" : "MM", 2) != 0 ||
        (memcmp(magic + 2, "*\0", 2) != 0 && memcmp(magic + 2, "\0*", 2) != 0))
        return false; /* the number 42 is in the wrong order in some files */
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

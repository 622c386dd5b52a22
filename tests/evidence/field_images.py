"""tests/evidence/field_images.py - image files of all kinds, beside PIL."""
import io
import os
import struct
import sys
import zlib

from field_table import ROOT, case, photo, pictures, run, run_yaml, write

SHORT, LONG, RATIONAL, FLOAT, DOUBLE, BYTE, ASCII, SIGNED_SHORT, LONG8 = 3, 4, 5, 11, 12, 1, 2, 8, 16


def exif(order="<", kind=SHORT, values=(6,), magic=None, before=b"", header=b""):
    """An EXIF block whose first directory holds `before` (whole entries) and the orientation."""
    code = {SHORT: "H", LONG: "I", RATIONAL: "II", FLOAT: "f", DOUBLE: "d", BYTE: "B", ASCII: "c", SIGNED_SHORT: "h", LONG8: "Q"}[kind]
    data = struct.pack(order + code * (len(values) // len(code)), *values)
    count = len(before) // 12 + 1
    place = 8 + 2 + 12 * count + 4
    value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", place)
    entry = before + struct.pack(order + "HHI", 274, kind, len(values) // len(code)) + value
    start = magic or (b"II*\0" if order == "<" else b"MM\0*")
    return header + start + struct.pack(order + "IH", 8, count) + entry + b"\0" * 4 + (data if len(data) > 4 else b"")


def jpeg(**options):
    out = io.BytesIO()
    photo().save(out, "JPEG", **options)
    return out.getvalue()


def with_segments(data, *segments):
    """APP1 segments behind the start of a JPEG file."""
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + data[2:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before=b"", after=b""):
    """A PNG file with chunks in front of the pixels and behind."""
    out = io.BytesIO()
    photo().save(out, "PNG")
    data = out.getvalue()
    at = data.index(b"IDAT") - 4
    return data[:at] + before + data[at:-12] + after + data[-12:]


def webp(**options):
    out = io.BytesIO()
    photo().save(out, "WEBP", lossless=True, **options)
    return out.getvalue()


def compare(place, files, within=1):
    return pictures([write(place.path(name), content) for name, content in files.items()], within)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
ELEMENT = b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>"
NAMED = b"http://ns.adobe.com/xap/1.0/\0"


def hexadecimal(data):
    text = data.hex()
    return b"\nexif\n%8d\n" % len(data) + "\n".join(text[i:i + 72] for i in range(0, len(text), 72)).encode() + b"\n"


@case("orientation")
def the_tag_is_read_in_every_way_it_can_be_stored(place):
    many = struct.pack("<HHII", 271, ASCII, 900, 26)
    ways = {"little": exif(), "big": exif(">"), "long": exif(kind=LONG), "rational": exif(kind=RATIONAL, values=(12, 2)),
            "float": exif(kind=FLOAT, values=(6.0,)), "double": exif(kind=DOUBLE, values=(6.0,)), "byte": exif(kind=BYTE),
            "signed": exif(kind=SIGNED_SHORT), "long8": exif(kind=LONG8), "text": exif(kind=ASCII, values=(b"6",)),
            "two": exif(values=(6, 1)), "three": exif(values=(6, 1, 1)), "zero": exif(values=(0,)), "nine": exif(values=(9,)),
            "half": exif(kind=RATIONAL, values=(13, 2)), "wrong-magic": exif(">", magic=b"MM*\0"),
            "twice-named": exif(header=b"Exif\0\0"), "behind-a-large-value": exif(before=many),
            "short-directory": exif()[:-10] + b"\0"}
    plain = jpeg()
    return compare(place, {name + ".jpg": with_segments(plain, b"Exif\0\0" + block) for name, block in ways.items()})


@case("orientation")
def xmp_counts_where_exif_has_no_orientation(place):
    other = exif().replace(struct.pack("<H", 274), struct.pack("<H", 270))
    plain = jpeg()
    return compare(place, {
        "xmp.jpg": with_segments(plain, NAMED + XMP % 6), "element.jpg": with_segments(plain, NAMED + ELEMENT % 8),
        "both.jpg": with_segments(plain, b"Exif\0\0" + exif(values=(3,)), NAMED + XMP % 6),
        "other.jpg": with_segments(plain, b"Exif\0\0" + other, NAMED + XMP % 6),
        "two.jpg": with_segments(plain, NAMED + XMP % 6, NAMED + XMP % 8),
        "parts.jpg": with_segments(plain, b"Exif\0\0" + exif()[:20], b"Exif\0\0" + exif()[20:])})


@case("orientation")
def png_has_it_in_exif_chunks_and_in_text_chunks(place):
    profile = hexadecimal(b"Exif\0\0" + exif())
    key = b"Raw profile type exif\0"
    xmp = b"XML:com.adobe.xmp\0"
    chunks = {"exif": chunk(b"eXIf", exif()), "exif-named": chunk(b"eXIf", exif(header=b"Exif\0\0")),
              "profile": chunk(b"tEXt", key + profile), "profile-compressed": chunk(b"zTXt", key + b"\0" + zlib.compress(profile)),
              "profile-international": chunk(b"iTXt", key + b"\0\0\0\0" + profile),
              "profile-app1": chunk(b"tEXt", b"Raw profile type APP1\0" + profile),
              "text-exif": chunk(b"tEXt", b"exif\0Exif\0\0" + exif()),
              "xmp": chunk(b"iTXt", xmp + b"\0\0\0\0" + XMP % 6),
              "xmp-compressed": chunk(b"iTXt", xmp + b"\1\0\0\0" + zlib.compress(ELEMENT % 5)),
              "xmp-not-utf8": chunk(b"iTXt", xmp + b"\0\0\0\0\xff" + XMP % 6), "xmp-text": chunk(b"tEXt", xmp + XMP % 7),
              "exif-before-xmp": chunk(b"iTXt", xmp + b"\0\0\0\0" + XMP % 6) + chunk(b"eXIf", exif(values=(3,))),
              "exif-and-profile": chunk(b"tEXt", key + profile) + chunk(b"eXIf", exif(values=(3,)))}
    files = {name + ".png": png(before=data) for name, data in chunks.items()}
    return compare(place, files | {name + "-behind.png": png(after=data) for name, data in chunks.items()})


@case("orientation")
def webp_has_it_in_exif_and_xmp(place):
    return compare(place, {"exif.webp": webp(exif=exif()), "named.webp": webp(exif=b"Exif\0\0" + exif(">", values=(8,))),
                           "xmp.webp": webp(xmp=XMP % 6), "both.webp": webp(exif=exif(values=(3,)), xmp=XMP % 6)})


@case("leniency")
def a_jpeg_with_damaged_data_decodes_as_pil_does_and_is_counted(place):
    plain = jpeg(quality=95)
    cut = plain[:-200] + b"\xff\xd9"  # its last bytes are gone, the end mark is there
    scan = plain.index(b"\xff\xda") + 400
    flipped = bytearray(plain)
    flipped[scan] ^= 0x55
    restarts = jpeg(restart_marker_blocks=2)
    lost = restarts.replace(b"\xff\xd3", b"", 1)
    files = {"cut.jpg": cut, "flipped.jpg": bytes(flipped), "lost-restart.jpg": lost}
    found = compare(place, {"data/" + name: content for name, content in files.items()})
    for name in files:
        write(place.path("data", name[:-3] + "txt"), "a red circle")
    page = run("blipren-coord", "check", run_yaml(place, place.path("data"))).stdout
    return (found[0], "decoded have damaged data" in page), ([], True)


@case("leniency")
def a_file_that_ends_early_is_refused_as_by_pil(place):
    import field_table
    from PIL import Image
    out = []
    for name, data in (("end.jpg", jpeg()[:-2]), ("half.jpg", jpeg()[:1500]), ("half.png", png()[:1500]), ("half.webp", webp()[:900])):
        path = write(place.path(name), data)
        try:
            Image.open(path).convert("RGB")
            reference = True
        except Exception:
            reference = False
        out.append((name, field_table.decoded([path])[0] is not None, reference))
    return [name for name, ours, reference in out if ours != reference], []


@case("leniency")
def a_png_whose_checksums_are_wrong_decodes_as_pil_does(place):
    data = bytearray(png())
    at = data.index(b"IDAT") - 4
    size = struct.unpack(">I", data[at:at + 4])[0]
    data[at + 8 + size] ^= 1
    return compare(place, {"crc.png": bytes(data)})

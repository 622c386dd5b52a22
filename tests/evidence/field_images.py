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


def gif(image, **options):
    out = io.BytesIO()
    image.save(out, "GIF", **options)
    return out.getvalue()


@case("GIF, BMP, TIFF")
def gif_gives_pils_first_frame(place):
    palette = photo().quantize(200)
    plain = gif(palette)
    moving = gif(palette, save_all=True, append_images=[photo(1).quantize(9)], duration=40, loop=0)
    screen = plain.index(b",", 13 + 3 * 256)  # behind the palette
    larger = plain[:6] + struct.pack("<HH", 50, 44) + plain[10:screen + 1] + struct.pack("<HH", 7, 9) + plain[screen + 5:]
    smaller = plain[:6] + struct.pack("<HH", 10, 10) + plain[10:]
    files = {"palette": plain, "moving": moving, "grey": gif(photo(mode="L")), "one-bit": gif(photo(mode="1")),
             "transparent": gif(palette, transparency=3), "interlaced": gif(palette, interlace=1), "plain-rows": gif(palette, interlace=0),
             "larger-canvas": larger, "frame-beyond-canvas": smaller,
             "larger-transparent": larger[:screen] + b"!\xf9\4\1\0\0\5\0" + larger[screen:], "two-colours": gif(photo().quantize(2)),
             "long": gif(photo(2, 300, 300).quantize(256))}
    return compare(place, {name + ".gif": data for name, data in files.items()}, 0)


def bmp(image, **options):
    out = io.BytesIO()
    image.save(out, "BMP", **options)
    return out.getvalue()


def bitmap(bits, masks=None, rows=b"", width=5, height=4, compression=0, palette=b"", header=40, upside_down=False):
    """A BMP file by hand."""
    info = struct.pack("<IiiHHIIiiII", header, width, -height if upside_down else height, 1, bits, compression, len(rows), 0, 0,
                       len(palette) // 4, 0)
    extra = struct.pack("<%dI" % len(masks), *masks) if masks else b""
    info += extra.ljust(header - 40, b"\0") if header > 40 else extra
    at = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + info + palette + rows


@case("GIF, BMP, TIFF")
def bmp_of_every_kind_that_pil_reads(place):
    noise = np_random(4 * 5 * 4)
    colours = b"".join(bytes([i * 7 % 256, i * 13 % 256, i * 29 % 256, 0]) for i in range(256))
    rle8 = bytes([3, 9, 2, 200, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 5, 7, 0, 0, 4, 1, 1, 250, 0, 1])
    rle4 = bytes([5, 0x12, 0, 0, 0, 5, 0x12, 0x34, 0x50, 0, 0, 0, 3, 0xab, 2, 0xcd, 0, 0, 5, 0xff, 0, 1])
    skip = bytes([2, 9, 0, 2, 1, 1, 2, 7, 0, 0, 5, 3, 0, 0, 5, 4, 0, 1])
    os2 = b"BM" + struct.pack("<IHHI", 0, 0, 0, 26 + 48) + struct.pack("<IHHHH", 12, 5, 4, 1, 4) + \
        b"".join(colours[4 * i:4 * i + 3] for i in range(16)) + noise[:16]
    files = {"rgb": bmp(photo()), "palette": bmp(photo().quantize(200)), "grey": bmp(photo(mode="L")), "one-bit": bmp(photo(mode="1")),
             "alpha": bmp(photo(mode="RGBA")), "odd-width": bmp(photo(0, 37, 21)),
             "16": bitmap(16, rows=noise[:48]), "565": bitmap(16, (0xf800, 0x7e0, 0x1f), noise[:48], compression=3),
             "32": bitmap(32, rows=noise), "rgba-masks": bitmap(32, (0xff, 0xff00, 0xff0000, 0xff000000), noise, compression=3, header=56),
             "xbgr": bitmap(32, (0xff000000, 0xff0000, 0xff00), noise, compression=3), "down": bitmap(24, rows=noise[:64], upside_down=True),
             "4": bitmap(4, rows=noise[:16], palette=colours[:64]), "1": bitmap(1, rows=noise[:16], palette=colours[12:20]),
             "few-colours": bitmap(8, rows=noise[:32], palette=colours[:40]), "v5": bitmap(24, rows=noise[:64], header=124),
             "rle8": bitmap(8, rows=rle8, palette=colours, compression=1), "rle4": bitmap(4, rows=rle4, palette=colours[:64], compression=2),
             "rle8-skip": bitmap(8, rows=skip, palette=colours, compression=1), "os2": os2}
    return compare(place, {name + ".bmp": data for name, data in files.items()}, 0)


def np_random(size):
    import numpy as np
    return np.random.default_rng(3).integers(0, 256, size).astype(np.uint8).tobytes()


def tiff(image, **options):
    out = io.BytesIO()
    image.save(out, "TIFF", **options)
    return out.getvalue()


def tiff_by_hand(tags, data, order="<"):
    """A TIFF file of one strip: tags are {number: (type, values)}."""
    sizes = {SHORT: "H", LONG: "I"}
    tags = dict(tags, **{})
    tags[273] = (LONG, [8])
    tags[279] = (LONG, [len(data)])
    place = 8 + len(data) + len(data) % 2
    entries, extra = b"", b""
    for number, (kind, values) in sorted(tags.items()):
        packed = struct.pack(order + sizes[kind] * len(values), *values)
        if len(packed) > 4:
            at = place + 2 + 12 * len(tags) + 4 + len(extra)
            extra += packed
            packed = struct.pack(order + "I", at)
        entries += struct.pack(order + "HHI", number, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    return head + data + b"\0" * (len(data) % 2) + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + extra


@case("GIF, BMP, TIFF")
def tiff_gives_pils_first_page(place):
    import numpy as np
    from PIL import Image
    modes = {"rgb": photo(), "grey": photo(mode="L"), "one-bit": photo(mode="1"), "palette": photo().quantize(200), "alpha": photo(mode="RGBA"),
             "grey-alpha": photo(mode="LA"), "cmyk": photo(mode="CMYK"),
             "grey-16": Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)}
    files = {name + ".tif": tiff(image) for name, image in modes.items()}
    for packing in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        files.update({"%s-%s.tif" % (name, packing): tiff(modes[name], compression=packing) for name in ("rgb", "palette", "cmyk", "one-bit")})
    files["group4.tif"] = tiff(modes["one-bit"], compression="group4")
    files["jpeg.tif"] = tiff(modes["rgb"], compression="jpeg")
    files["pages.tif"] = tiff(modes["rgb"], save_all=True, append_images=[photo(3)])
    files["strips.tif"] = tiff(modes["rgb"], compression="tiff_lzw", tiffinfo={278: 7})
    files["big.tif"] = tiff(modes["rgb"], big_tiff=True)
    noise = np_random(4 * 6 * 4 * 2)
    base = {256: (SHORT, [6]), 257: (SHORT, [4]), 259: (SHORT, [1]), 278: (SHORT, [4])}
    for name, more, data in (
            ("white-is-0", {258: (SHORT, [8]), 262: (SHORT, [0]), 277: (SHORT, [1])}, noise[:24]),
            ("four-bits", {258: (SHORT, [4]), 262: (SHORT, [1]), 277: (SHORT, [1])}, noise[:12]),
            ("two-bits", {258: (SHORT, [2]), 262: (SHORT, [1]), 277: (SHORT, [1])}, noise[:8]),
            ("planes", {258: (SHORT, [8] * 3), 262: (SHORT, [2]), 277: (SHORT, [3]), 284: (SHORT, [1])}, noise[:72]),
            ("rgb-16", {258: (SHORT, [16] * 3), 262: (SHORT, [2]), 277: (SHORT, [3])}, noise[:144]),
            ("premultiplied", {258: (SHORT, [8] * 4), 262: (SHORT, [2]), 277: (SHORT, [4]), 338: (SHORT, [1])}, noise[:96])):
        for order in "<>":
            files["%s%s.tif" % (name, "-big-endian" if order == ">" else "")] = tiff_by_hand(base | more, data, order)
    for orientation in (3, 6, 8):
        files["orientation-%d.tif" % orientation] = tiff(modes["rgb"], tiffinfo={274: orientation})
    files["xmp.tif"] = tiff(modes["rgb"], tiffinfo={700: XMP % 6})
    return compare(place, files)


@case("AVIF, HEIC")
def avif_and_heic_decode_where_libheif_is_built_in(place):
    import field_table
    import numpy as np
    import pillow_heif
    pillow_heif.register_heif_opener()
    files = {}
    for name, kind, options in (("a.avif", "AVIF", {"quality": 90}), ("turned.avif", "AVIF", {"quality": 90, "exif": b"Exif\0\0" + exif()}),
                                ("full.avif", "AVIF", {"quality": 100, "subsampling": "4:4:4"}), ("a.heic", "HEIF", {"quality": 90}),
                                ("turned.heic", "HEIF", {"quality": 90, "exif": b"Exif\0\0" + exif()})):
        out = io.BytesIO()
        photo(0, 64, 48).save(out, kind, **options)
        files[name] = out.getvalue()
    paths = [write(place.path(name), data) for name, data in files.items()]
    if field_table.decoded(paths[:1])[0] is None:
        return "built without libheif", "built without libheif"
    # Another decoder of the same coefficients: with half the chroma resolution libheif repeats a value where libavif blends.
    means = [float(np.abs(found - field_table.upright(path)).mean()) for path, found in zip(paths, field_table.decoded(paths))]
    whole = [path for path in paths if not path.endswith((os.sep + "a.avif", os.sep + "turned.avif"))]
    return (pictures(whole, 4)[0], [mean for mean in means if mean > 3]), ([], [])

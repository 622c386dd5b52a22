#!/usr/bin/env python3
"""Makes the image fixtures: small files of every kind, and what Pillow reads from them.

Usage: make.py   (Pillow 13, numpy; writes beside itself)

cases.txt has a line for each expectation: FILE EXPECTED FILTER WIDTH HEIGHT. EXPECTED is a PPM of
what exif_transpose and convert("RGB") give (16-bit grey by its high byte, where Pillow would clip),
resized to WIDTH x HEIGHT by FILTER (2 bilinear, 3 bicubic), or as it is where WIDTH is 0.
"""
import io
import os
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HEIGHT = 23, 17
cases = []


def picture(width=WIDTH, height=HEIGHT, channels=3, seed=1):
    """Slopes and a little noise: compresses well, and no two corners are alike."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, channels))
    slopes = [x * 215 // max(width - 1, 1), y * 215 // max(height - 1, 1),
              (x + y) * 215 // max(width + height - 2, 1), 215 - x * 215 // max(width - 1, 1)]
    return (np.stack(slopes[:channels], -1) + noise).astype(np.uint8)


def reference(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    image.info.clear()  # a transparent colour kept there makes transformers composite onto white
    return image


def expect(name, image, filter=3, width=0, height=0):
    stem = name.replace(".", "-") + (f"-{width}x{height}-{filter}" if width else "") + ".ppm"
    if width:
        image = image.resize((width, height), filter)
    image.save(os.path.join(HERE, stem))
    cases.append(f"{name} {stem} {filter} {width} {height}")


def add(name, data):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(data)
    expect(name, reference(data))


def encode(array, kind, mode=None, **options):
    out = io.BytesIO()
    Image.fromarray(array, mode).save(out, kind, **options)
    return out.getvalue()


def exif(orientation, order="<", kind=3):
    """A TIFF block of one directory: a text tag first, then the orientation (kind 3 short, 4 long)."""
    value = struct.pack(order + ("HH" if kind == 3 else "L"), *([orientation, 0][:2 if kind == 3 else 1]))
    return ((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, 2) +
            struct.pack(order + "HHL", 271, 2, 4) + b"abc\0" +
            struct.pack(order + "HHL", 274, kind, 1) + value + struct.pack(order + "L", 0))


XMP = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="%d"/>'
       b"</rdf:RDF></x:xmpmeta>")


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_segment(jpeg, data, marker=0xE1):
    return jpeg[:2] + segment(marker, data) + jpeg[2:]


def without_segment(jpeg, marker):
    at = jpeg.index(b"\xff" + bytes([marker]))
    return jpeg[:at] + jpeg[at + 2 + struct.unpack(">H", jpeg[at + 2:at + 4])[0]:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_rows(samples, depth):
    """Rows of samples (height, width * channels) as PNG packs them, each with filter byte 0."""
    rows = []
    for row in samples:
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        elif depth == 8:
            packed = row.astype(np.uint8).tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
            packed = np.packbits(bits.reshape(-1)).tobytes()
        rows.append(b"\0" + packed)
    return b"".join(rows)


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, depth, colour, interlaced=False, before=b"", after=b""):
    """samples (height, width, channels). before, after: chunks around the pixels."""
    height, width, _ = samples.shape
    if interlaced:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        raw = b"".join(pack_rows(p.reshape(p.shape[0], -1), depth) for p in parts if p.size)
    else:
        raw = pack_rows(samples.reshape(height, -1), depth)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(raw, 9)) +
            after + chunk(b"IEND", b""))


def webp_chunk(kind, data):
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def u24(value):
    return struct.pack("<I", value)[:3]


def animated_webp(still, x, y, canvas_width, canvas_height):
    """Twice the frame `still` (a simple lossless file, WIDTH x HEIGHT) at x, y (even) of a larger canvas."""
    frame = (u24(x // 2) + u24(y // 2) + u24(WIDTH - 1) + u24(HEIGHT - 1) + u24(100) + b"\0" + still[12:])
    body = (b"WEBP" + webp_chunk(b"VP8X", b"\x02\0\0\0" + u24(canvas_width - 1) + u24(canvas_height - 1)) +
            webp_chunk(b"ANIM", b"\xff\xff\xff\xff\0\0") + webp_chunk(b"ANMF", frame) * 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def make_jpeg():
    rgb, grey = picture(), picture()[:, :, 0]
    plain = encode(rgb, "JPEG", quality=90)
    add("rgb.jpg", plain)
    add("rgb-444.jpg", encode(rgb, "JPEG", quality=90, subsampling=0))
    add("rgb-422.jpg", encode(rgb, "JPEG", quality=90, subsampling=1))
    add("progressive.jpg", encode(rgb, "JPEG", quality=90, progressive=True))
    add("restart.jpg", encode(rgb, "JPEG", quality=90, restart_marker_blocks=1))
    add("not-ycc.jpg", encode(rgb, "JPEG", quality=90, keep_rgb=True))
    add("grey.jpg", encode(grey, "JPEG", quality=90))
    add("one.jpg", encode(picture(1, 1), "JPEG", quality=90))
    cmyk = encode(picture(channels=4), "JPEG", mode="CMYK", quality=90)
    add("cmyk.jpg", cmyk)
    add("cmyk-no-adobe.jpg", without_segment(cmyk, 0xEE))
    transform = cmyk.index(b"Adobe") + 11
    add("ycck.jpg", cmyk[:transform] + b"\x02" + cmyk[transform + 1:])
    for orientation in range(1, 9):
        order, kind = ("<", 3) if orientation % 2 else (">", 3 if orientation % 4 else 4)
        add(f"orientation-{orientation}.jpg",
            with_segment(plain, b"Exif\0\0" + exif(orientation, order, kind)))
    add("orientation-9.jpg", with_segment(plain, b"Exif\0\0" + exif(9)))
    add("orientation-xmp.jpg", with_segment(plain, b"http://ns.adobe.com/xap/1.0/\0" + XMP % 6))
    add("exif-damaged.jpg", with_segment(plain, b"Exif\0\0" + exif(6)[:20]))
    add("stray-bytes.jpg", plain[:-2] + b"\x12\x34" + plain[-2:])


def make_png():
    rgb, rgba = picture(), picture(channels=4)
    grey, grey_alpha = picture(channels=1), picture(channels=2)
    wide = np.random.default_rng(3).integers(0, 65536, (HEIGHT, WIDTH, 4))
    palette = bytes(np.random.default_rng(4).integers(0, 256, 768).astype(np.uint8))
    add("rgb.png", png(rgb, 8, 2))
    add("rgb-interlaced.png", png(rgb, 8, 2, interlaced=True))
    add("rgb-transparent-colour.png", png(rgb, 8, 2, before=chunk(b"tRNS", struct.pack(">HHH", *rgb[0, 0]))))
    add("rgb-16.png", png(wide[:, :, :3], 16, 2))
    add("rgba.png", png(rgba, 8, 6))
    add("rgba-16-interlaced.png", png(wide, 16, 6, interlaced=True))
    add("rgb-gamma.png", png(rgb, 8, 2, before=chunk(b"gAMA", struct.pack(">I", 100000))))
    add("grey-alpha.png", png(grey_alpha, 8, 4))
    add("grey-alpha-16.png", png(wide[:, :, :2], 16, 4))
    add("grey-16.png", png(wide[:, :, :1], 16, 0))
    add("one.png", png(picture(1, 1), 8, 2))
    for depth in (1, 2, 4, 8):
        samples = grey >> (8 - depth)
        add(f"grey-{depth}.png", png(samples, depth, 0))
        entries = chunk(b"PLTE", palette[:3 << depth])
        add(f"palette-{depth}.png", png(samples, depth, 3, before=entries))
    add("grey-1-interlaced.png", png(grey >> 7, 1, 0, interlaced=True))
    add("palette-transparent.png", png(grey >> 4, 4, 3, before=chunk(b"PLTE", palette[:48]) +
                                       chunk(b"tRNS", b"\0\x80\xff")))
    add("palette-short.png", png(grey >> 4, 4, 3, before=chunk(b"PLTE", palette[:18])))
    add("orientation.png", png(rgb, 8, 2, before=chunk(b"eXIf", exif(6))))
    add("orientation-behind.png", png(rgb, 8, 2, after=chunk(b"eXIf", exif(5, ">"))))
    add("orientation-prefix.png", png(rgb, 8, 2, before=chunk(b"eXIf", b"Exif\0\0" + exif(8))))
    add("orientation-xmp.png", png(rgb, 8, 2, before=chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % 3)))
    add("no-end.png", png(rgb, 8, 2)[:-12])


def make_webp():
    rgb, rgba = picture(), picture(channels=4)
    still = encode(rgb, "WEBP", lossless=True)
    add("lossy.webp", encode(rgb, "WEBP", quality=80))
    add("lossless.webp", still)
    add("alpha.webp", encode(rgba, "WEBP", quality=80))
    add("alpha-lossless.webp", encode(rgba, "WEBP", lossless=True, exact=True))
    add("one.webp", encode(picture(1, 1), "WEBP", lossless=True))
    add("orientation.webp", encode(rgb, "WEBP", lossless=True, exif=exif(7, ">")))
    add("orientation-xmp.webp", encode(rgb, "WEBP", lossless=True, xmp=XMP % 2))
    add("animated.webp", animated_webp(still, 4, 6, 31, 29))


def make_text_chunks():
    """Orientation where programs put it before PNG had eXIf."""
    block = b"Exif\0\0" + exif(6)
    profile = b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"
    key, xmp = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
    for name, data in (("profile", chunk(b"tEXt", key + profile)), ("profile-compressed", chunk(b"zTXt", key + b"\0" + zlib.compress(profile))),
                       ("xmp-compressed", chunk(b"iTXt", xmp + b"\1\0\0\0" + zlib.compress(XMP % 5))),
                       ("xmp-not-utf8", chunk(b"iTXt", xmp + b"\0\0\0\0\xff" + XMP % 8))):
        add(f"orientation-{name}.png", png(picture(), 8, 2, before=data))


def make_gif():
    rgb = Image.fromarray(picture())
    save = lambda image, **options: encode_image(image, "GIF", **options)
    plain = save(rgb.quantize(60), interlace=0)
    screen = plain.index(b",", 13 + 3 * 64)  # behind the palette of 64 colours
    add("palette.gif", plain)
    add("interlaced.gif", save(rgb.quantize(60), interlace=1))
    add("grey.gif", save(rgb.convert("L")))
    add("animated.gif", save(rgb.quantize(9), save_all=True, append_images=[rgb.rotate(90).resize((WIDTH, HEIGHT)).quantize(9)]))
    add("canvas.gif", plain[:6] + struct.pack("<HH", 31, 29) + plain[10:screen] + b"!\xf9\4\1\0\0\5\0," + struct.pack("<HH", 3, 7) +
        plain[screen + 5:])


def encode_image(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bitmap(bits, rows, masks=(), colours=b"", compression=0, downwards=False):
    """A BMP file of 5 x 4 pixels."""
    info = struct.pack("<IiiHHIIiiII", 40, 5, -4 if downwards else 4, 1, bits, compression, len(rows), 0, 0, len(colours) // 4, 0)
    info += struct.pack("<%dI" % len(masks), *masks)
    at = 14 + len(info) + len(colours)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + info + colours + rows


def make_bmp():
    noise = np.random.default_rng(6).integers(0, 256, 80).astype(np.uint8).tobytes()
    colours = b"".join(bytes([i * 7 % 256, i * 13 % 256, i * 29 % 256, 0]) for i in range(256))
    rgb = Image.fromarray(picture())
    add("rgb.bmp", encode_image(rgb, "BMP"))
    add("palette.bmp", encode_image(rgb.quantize(60), "BMP"))
    add("one-bit.bmp", bitmap(1, noise[:16], colours=colours[12:20]))
    add("four-bits.bmp", bitmap(4, noise[:16], colours=colours[:64]))
    add("555.bmp", bitmap(16, noise[:48]))
    add("565.bmp", bitmap(16, noise[:48], (0xF800, 0x7E0, 0x1F), compression=3))
    add("32.bmp", bitmap(32, noise))
    add("downwards.bmp", bitmap(24, noise[:64], downwards=True))
    add("runs-8.bmp", bitmap(8, bytes([3, 9, 2, 200, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0, 2, 1, 1, 3, 7, 0, 0, 5, 250, 0, 1]), colours=colours,
                             compression=1))
    add("runs-4.bmp", bitmap(4, bytes([5, 0x12, 0, 0, 0, 5, 0x12, 0x34, 0x50, 0, 0, 0, 3, 0xAB, 2, 0xCD, 0, 0, 5, 0xFF, 0, 1]),
                             colours=colours[:64], compression=2))


def make_tiff():
    rgb = Image.fromarray(picture())
    for name, image, options in (("rgb", rgb, {}), ("lzw", rgb, {"compression": "tiff_lzw", "tiffinfo": {278: 5}}), ("grey", rgb.convert("L"), {}),
                                 ("one-bit", rgb.convert("1"), {"compression": "group4"}), ("palette", rgb.quantize(60), {}),
                                 ("cmyk", rgb.convert("CMYK"), {}), ("alpha", Image.fromarray(picture(channels=4), "RGBA"), {}),
                                 ("jpeg", rgb, {"compression": "jpeg"}), ("orientation", rgb, {"tiffinfo": {274: 6}}),
                                 ("pages", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]})):
        add(f"{name}.tif", encode_image(image, "TIFF", **options))


def make_resized():
    sizes = {"rgb.png": [(5, 7), (64, 48), (23, 7), (7, 17), (1, 1), (24, 5), (41, 37)],
             "tall.png": [(8, 8), (11, 40)], "wide.png": [(8, 8)], "line.png": [(7, 9)],
             "one.png": [(16, 9)]}
    shapes = {"tall.png": (9, 80), "wide.png": (97, 9), "line.png": (1, 300)}
    for name, (width, height) in shapes.items():
        add(name, png(np.random.default_rng(5).integers(0, 256, (height, width, 3)), 8, 2))
    for name, targets in sizes.items():
        with open(os.path.join(HERE, name), "rb") as file:
            image = reference(file.read())
        for width, height in targets:
            for filter in (2, 3):
                expect(name, image, filter, width, height)


def main():
    assert PIL.__version__.startswith("13."), "the fixtures are Pillow 13's"
    for old in os.listdir(HERE):
        if old.endswith((".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".ppm")):
            os.remove(os.path.join(HERE, old))
    make_jpeg()
    make_png()
    make_webp()
    make_text_chunks()
    make_gif()
    make_bmp()
    make_tiff()
    make_resized()
    with open(os.path.join(HERE, "cases.txt"), "w", encoding="ascii") as file:
        file.write("\n".join(cases) + "\n")


if __name__ == "__main__":
    main()

"""The judge of tests/evidence/pixels: image_dump's pictures against SiglipImageProcessorPil's.

Usage: pixels.py IMAGE_DUMP DATA_FOLDER SCRATCH_FOLDER
"""
import glob
import os
import struct
import subprocess
import sys

import numpy as np
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden/image"))
import make  # noqa: E402

SIZES = [(64, 64), (224, 224), (384, 384), (97, 131), (301, 49)]
MAX_PIXELS = 100_000_000
Image.MAX_IMAGE_PIXELS = None
SHAPES = [(1, 1), (2, 3), (3, 3), (1, 5000), (5000, 1), (7, 3001), (2999, 5), (640, 480), (481, 641),
          (1023, 97), (8000, 6000)]


def scene(width, height, channels, seed):
    """Slopes, noise and hard edges, in any number of channels."""
    picture = make.picture(width, height, channels, seed)
    if width > 8 and height > 8:
        picture[height // 4:height // 2, width // 3:width // 2] = 255 - picture[:1, :1]
        picture[::max(height // 9, 1)] = 0
    return picture


def generated():
    """(name, bytes) of every mode and orientation, at varied shapes."""
    for i, (w, h) in enumerate(SHAPES):
        yield f"{w}x{h}.jpg", make.encode(scene(w, h, 3, i), "JPEG", quality=85)
        yield f"{w}x{h}.png", make.png(scene(w, h, 3, i), 8, 2)
        if w < 8000:
            yield f"{w}x{h}.webp", make.encode(scene(w, h, 3, i), "WEBP", lossless=i % 2 == 0, method=0)
    w, h = 333, 251
    for name, options in {"444": {"subsampling": 0}, "422": {"subsampling": 1}, "420": {"subsampling": 2},
                          "progressive": {"progressive": True}, "quality-5": {"quality": 5},
                          "quality-100": {"quality": 100}, "restart": {"restart_marker_rows": 1},
                          "not-ycc": {"keep_rgb": True}, "optimized": {"optimize": True}}.items():
        yield f"{name}.jpg", make.encode(scene(w, h, 3, 20), "JPEG", **options)
    grey = scene(w, h, 1, 21)
    yield "grey.jpg", make.encode(grey[:, :, 0], "JPEG")
    yield "grey-progressive.jpg", make.encode(grey[:, :, 0], "JPEG", progressive=True)
    cmyk = make.encode(scene(w, h, 4, 22), "JPEG", mode="CMYK")
    at = cmyk.index(b"Adobe") + 11
    yield "cmyk.jpg", cmyk
    yield "cmyk-progressive.jpg", make.encode(scene(w, h, 4, 22), "JPEG", mode="CMYK", progressive=True)
    yield "cmyk-no-adobe.jpg", make.without_segment(cmyk, 0xEE)
    yield "ycck.jpg", cmyk[:at] + b"\x02" + cmyk[at + 1:]
    plain = make.encode(scene(w, h, 3, 23), "JPEG")
    for orientation in range(1, 9):
        order = "<>"[orientation % 2]
        yield f"orientation-{orientation}.jpg", make.with_segment(
            plain, b"Exif\0\0" + make.exif(orientation, order))
        yield f"orientation-{orientation}.png", make.png(
            scene(w, h, 3, 24), 8, 2, after=make.chunk(b"eXIf", make.exif(orientation, order)))
        yield f"orientation-{orientation}.webp", make.encode(
            scene(w, h, 3, 25), "WEBP", method=0, exif=make.exif(orientation, order))
    colours = np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes()
    wide = np.random.default_rng(2).integers(0, 65536, (h, w, 4))
    for interlaced in (False, True):
        suffix = "-interlaced.png" if interlaced else ".png"
        for depth in (1, 2, 4, 8):
            samples = grey >> (8 - depth)
            yield f"grey-{depth}{suffix}", make.png(samples, depth, 0, interlaced)
            yield f"palette-{depth}{suffix}", make.png(
                samples, depth, 3, interlaced, before=make.chunk(b"PLTE", colours[:3 << depth]))
        for colour, channels in ((0, 1), (4, 2), (2, 3), (6, 4)):
            yield f"colour-{colour}-8{suffix}", make.png(scene(w, h, channels, 26), 8, colour, interlaced)
            yield f"colour-{colour}-16{suffix}", make.png(wide[:, :, :channels], 16, colour, interlaced)
    yield "transparent-colour.png", make.png(
        scene(w, h, 3, 27), 8, 2, before=make.chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0)))
    yield "alpha.webp", make.encode(scene(w, h, 4, 28), "WEBP", quality=70)
    yield "alpha-lossless.webp", make.encode(scene(w, h, 4, 29), "WEBP", lossless=True, exact=True)


def collect(data, scratch):
    paths = sorted(glob.glob(os.path.join(data, "photos_original", "*.jpg")))
    paths += sorted(glob.glob(os.path.join(data, "photos", "*.jpg")))[::115]
    for name, content in generated():
        path = os.path.join(scratch, name)
        with open(path, "wb") as file:
            file.write(content)
        paths.append(path)
    return paths


def ours(program, paths, filter, width, height):
    """Yields a (height, width, 3) array for each path, or the program's error line."""
    command = [program, str(MAX_PIXELS), str(filter), str(width), str(height)] + paths
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for _ in paths:
            line = process.stdout.readline().decode().split(" ", 2)
            if line[0] != "ok":
                yield " ".join(line)
                continue
            width, height = int(line[1]), int(line[2])
            yield np.frombuffer(process.stdout.read(width * height * 3), np.uint8).reshape(height, width, 3)


class Judge:
    def __init__(self):
        self.compared, self.worst, self.different, self.values, self.worst_float = 0, 0, 0, 0, 0.0
        self.failures = []

    def compare(self, name, found, expected):
        if isinstance(found, str) or found.shape != expected.shape:
            self.failures.append(f"{name}: {found if isinstance(found, str) else found.shape}")
            return
        difference = np.abs(found.astype(np.int16) - expected)
        self.compared += 1
        self.values += difference.size
        self.different += int(np.count_nonzero(difference))
        self.worst = max(self.worst, int(difference.max()))
        if difference.max() > 1:
            self.failures.append(f"{name}: differs by {difference.max()}")


def main():
    program, data, scratch = sys.argv[1:]
    paths = collect(data, scratch)
    names = [os.path.basename(path) for path in paths]
    judge, references = Judge(), []
    for path, name, found in zip(paths, names, ours(program, paths, 3, 0, 0)):
        with open(path, "rb") as file:
            reference = make.reference(file.read())
        judge.compare(f"{name} decoded", found, np.asarray(reference))
        references.append(reference)
    for width, height in SIZES:
        for filter in (2, 3):
            processor = SiglipImageProcessorPil(size={"width": width, "height": height}, resample=filter)
            for name, reference, found in zip(names, references, ours(program, paths, filter, width, height)):
                raw = processor(images=reference, do_rescale=False, do_normalize=False, return_tensors="np")
                expected = np.moveaxis(raw["pixel_values"][0], 0, -1)
                judge.compare(f"{name} {width}x{height} filter {filter}", found, expected)
                if isinstance(found, str):
                    continue
                normal = processor(images=reference, return_tensors="np")["pixel_values"][0]
                mean, std = np.float32(processor.image_mean), np.float32(processor.image_std)
                mine = (found * np.float32(processor.rescale_factor) - mean) / std
                judge.worst_float = max(judge.worst_float, float(np.abs(np.moveaxis(mine, -1, 0) - normal).max()))
    for failure in judge.failures[:20]:
        print(failure)
    holds = not judge.failures and len(paths) >= 100 and judge.worst_float < 1.01 / 127.5
    print(f"pixels: images={len(paths)} comparisons={judge.compared} failures={len(judge.failures)} "
          f"worst={judge.worst} different={judge.different}/{judge.values} worst_normalised={judge.worst_float:.2g}")
    return 0 if holds else 1


sys.exit(main())

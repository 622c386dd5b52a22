"""tests/evidence/field_table.py - the table of cases, and what the cases share."""
import json
import os
import subprocess

import numpy as np
from PIL import Image, ImageOps

from lib import BUILD, ROOT, program

CASES = []
DEMO = os.path.join(ROOT, "deploy/demo/models")


def case(line):
    """Adds a function to the table: its name says what is tried, `line` which habit of users it is about. It takes a Workplace of
    its own and returns (found, expected), which must be equal: what the programs give, and what the reference gives."""
    def add(function):
        CASES.append((line, function))
        return function
    return add


def run(name, *arguments):
    return subprocess.run([program(name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="surrogateescape", timeout=300)


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return path


def upright(path):
    """As PIL has it: exif_transpose, RGB (16-bit grey by its high byte, where PIL would clip)."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB")).astype(int)


def decoded(paths):
    """Pixels of each picture as the programs decode it, or None where they refuse it."""
    command = [os.path.join(BUILD, "tests/tools/image_dump"), "100000000", "3", "0", "0", *paths]
    out = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for _ in paths:
            line = process.stdout.readline().decode().split(" ", 2)
            if line[0] != "ok":
                out.append(None)
                continue
            width, height = int(line[1]), int(line[2])
            out.append(np.frombuffer(process.stdout.read(width * height * 3), np.uint8).reshape(height, width, 3).astype(int))
    return out


def pictures(paths, within=1):
    """(found, expected): the names of pictures that differ from PIL's by more than `within` of 255, and none."""
    wrong = []
    for path, found in zip(paths, decoded(paths)):
        expected = upright(path)
        if found is None:
            wrong.append(os.path.basename(path) + " refused")
        elif found.shape != expected.shape:
            wrong.append("%s %s, not %s" % (os.path.basename(path), found.shape, expected.shape))
        elif np.abs(found - expected).max() > within:
            wrong.append("%s by %d" % (os.path.basename(path), np.abs(found - expected).max()))
    return wrong, []


def run_yaml(place, folder, keys="", model=DEMO, name="run"):
    """A run.yaml over the demo's models, or those in another folder."""
    return write(place.path(name + ".yaml"), "run_dir: %s\nprecision: f32\nvision: {path: %s/vision}\nllm: {path: %s/llm}\n"
                 "data: {source: %s%s}\ntrain: {steps: 4, global_batch: 4, validate_every: 0}\n" %
                 (place.path(name), model, model, folder, keys and ", " + keys))


def photo(seed=0, width=40, height=30, mode="RGB"):
    """A picture no two corners of which are alike."""
    y, x = np.mgrid[0:height, 0:width]
    bands = [x * 200 // width, y * 200 // height, (x + y) * 200 // (width + height), (width - x) * 200 // width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 4))
    array = (np.stack(bands, -1) + noise).astype(np.uint8)
    return Image.fromarray(array[:, :, :3]) if mode == "RGB" else Image.fromarray(array, mode) if mode in ("RGBA", "CMYK") \
        else Image.fromarray(array[:, :, :3]).convert(mode)


def jsonl(*lines):
    return "".join(json.dumps(line) + "\n" for line in lines)

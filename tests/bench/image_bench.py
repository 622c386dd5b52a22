"""The measuring part of tests/bench/image_bench.

Usage: image_bench.py IMAGE_SPEED PHOTO_FOLDER COMMIT
"""
import glob
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import PIL
from PIL import Image

ROUNDS = 7


def ours(program, side, paths):
    """(decode seconds, resize seconds, sum of the results' bytes)"""
    words = subprocess.run([program, str(side)] + paths, stdout=subprocess.PIPE, check=True).stdout.split()
    return float(words[0]), float(words[1]), int(words[2])


def pillow(side, files):
    decoding, resizing, total = 0.0, 0.0, 0
    for data in files:
        start = time.process_time()
        image = Image.open(io.BytesIO(data)).convert("RGB")
        decoded = time.process_time()
        image = image.resize((side, side), Image.Resampling.BICUBIC)
        resizing += time.process_time() - decoded
        decoding += decoded - start
        total += int(np.asarray(image).sum())
    return decoding, resizing, total


def processor_name():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), "unknown")


def main():
    program, folder, commit = sys.argv[1:]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it
    paths = sorted(glob.glob(os.path.join(folder, "*.jpg")))
    files = []
    for path in paths:
        with open(path, "rb") as file:
            files.append(file.read())
    for side in (224, 384):
        # Processor time, the least of several turns: others on the machine disturb neither side.
        turns = [(ours(program, side, paths), pillow(side, files)) for _ in range(ROUNDS)]
        if any(mine[2] != theirs[2] for mine, theirs in turns):
            print(f"image_bench: side={side} results differ")
            return 1
        best = [[min(turn[who][part] for turn in turns) / len(paths) * 1e3 for part in (0, 1)] for who in (0, 1)]
        rates = [1e3 / sum(parts) for parts in best]
        print(json.dumps({
            "bench": "image", "side": side, "images": len(paths), "images_per_s": round(rates[0]),
            "decode_ms": round(best[0][0], 2), "resize_ms": round(best[0][1], 2),
            "pillow_images_per_s": round(rates[1]), "pillow_decode_ms": round(best[1][0], 2),
            "pillow_resize_ms": round(best[1][1], 2), "ratio": round(rates[0] / rates[1], 2),
            "pillow": PIL.__version__, "machine": processor_name(), "commit": commit}))
    return 0


sys.exit(main())

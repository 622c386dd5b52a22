"""tests/evidence/photographs.py - what `photos` and `real` share: the captioned photographs of the test data as folders to train on, the
mean photograph, losses and captions by blipren-worker, and their comparison pair by pair."""
import json
import math
import os
import subprocess

import numpy as np
from PIL import Image

import lib

HELD_OUT, SIDE = 460, 224
PHOTOS = os.path.join(lib.SHARED, "data/photos")
MODELS = os.path.join(lib.SHARED, "data/models")
VISION = os.path.join(MODELS, "vit-tiny-patch16-224-tinyimagenet")


def split():
    """(rows to train on, rows held out) of the metadata; its lines are in random order."""
    with open(os.path.join(PHOTOS, "metadata.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    return rows[:-HELD_OUT], rows[-HELD_OUT:]


def write_rows(folder, rows):
    with open(os.path.join(folder, "metadata.jsonl"), "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def lay_out(folder, rows):
    os.makedirs(folder)
    for row in rows:
        os.symlink(os.path.abspath(os.path.join(PHOTOS, row["file_name"])), os.path.join(folder, row["file_name"]))
    write_rows(folder, rows)


def mean_image(rows):
    """Mean of the photographs, squeezed to the size the tower sees."""
    total = np.zeros((SIDE, SIDE, 3))
    for row in rows:
        with Image.open(os.path.join(PHOTOS, row["file_name"])) as image:
            total += np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return Image.fromarray(np.round(total / len(rows)).astype(np.uint8))


def lay_out_mean(folder, rows, mean):
    """Every photograph is replaced by the same pixels. The files differ in a comment, because samples are known by the
    SHA-256 of their file: equal files would be one image, and their captions one image's."""
    os.makedirs(folder)
    for row in rows:
        mean.save(os.path.join(folder, row["file_name"]), "JPEG", quality=95, comment="in place of " + row["file_name"])
    write_rows(folder, rows)


def score(checkpoint, images, captions, *more):
    """nll and number of tokens of each caption under the image at its place (an absolute path), by blipren-worker score."""
    pairs = checkpoint.rstrip("/") + "-pairs.jsonl"
    with open(pairs, "w") as f:
        f.writelines(json.dumps({"file_name": i, "caption": c}) + "\n" for i, c in zip(images, captions))
    done = subprocess.run([lib.program("blipren-worker"), "score", "--checkpoint", checkpoint, "--pairs", pairs, *more],
                          stdout=subprocess.PIPE, check=True)
    os.unlink(pairs)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return np.array([line["nll"] for line in lines]), np.array([line["tokens"] for line in lines])


def caption(checkpoint, images, *more):
    done = subprocess.run([lib.program("blipren-worker"), "caption", "--checkpoint", checkpoint, "--json", *more, *images],
                          stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def paired(more, less):
    """Mean difference of two lists of nll, in nats a caption, and how many standard errors that is."""
    difference = more - less
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    return mean, mean / error

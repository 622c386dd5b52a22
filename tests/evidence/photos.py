"""The runs and the judgement of tests/evidence/photos."""
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

import lib

FOLDER = os.environ.get("PHOTOS_RUN", os.path.join(lib.ROOT, "runs/photos"))
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
HELD_OUT, SIDE = 460, 224
PHOTOS = os.path.join(lib.SHARED, "data/photos")
MODELS = os.path.join(lib.SHARED, "data/models")


def path(*parts):
    return os.path.join(FOLDER, *parts)


def read_rows():
    with open(os.path.join(PHOTOS, "metadata.jsonl")) as f:
        return [json.loads(line) for line in f]


def write_rows(folder, rows):
    with open(os.path.join(folder, "metadata.jsonl"), "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


# -- data: two folders, once with the photographs and once with their mean ---------------------------


def lay_out_photographs(name, rows):
    os.makedirs(path(name))
    for row in rows:
        os.symlink(os.path.abspath(os.path.join(PHOTOS, row["file_name"])), path(name, row["file_name"]))
    write_rows(path(name), rows)


def mean_image(rows):
    """Mean of the training photographs, squeezed to the size the tower sees."""
    total = np.zeros((SIDE, SIDE, 3))
    for row in rows:
        with Image.open(os.path.join(PHOTOS, row["file_name"])) as image:
            total += np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return Image.fromarray(np.round(total / len(rows)).astype(np.uint8))


def lay_out_mean(name, rows, mean):
    """Every photograph is replaced by the same pixels. The files differ in a comment, because samples are known by the
    SHA-256 of their file: equal files would be one image, and their captions one image's."""
    os.makedirs(path(name))
    for row in rows:
        mean.save(path(name, row["file_name"]), "JPEG", quality=95, comment="in place of " + row["file_name"])
    write_rows(path(name), rows)


# -- runs --------------------------------------------------------------------------------------------


def train(name, source, validation):
    """The recipe of docs/photos.md. Held-out photographs lie in a folder of their own, since a split by content would part
    the mean images otherwise than the photographs."""
    lib.write_yaml(path(name + ".yaml"), path(source), path(name), seed=1, threads=0, data__validation=0,
                   data__validation_source=path(validation), data__captions="[{column: captions}]",
                   data__caption_choice="first", vision__path=os.path.join(MODELS, "vit-tiny-patch16-224-tinyimagenet"),
                   llm__path=os.path.join(MODELS, "TinyStories-656K"), qformer__width="auto", qformer__queries=8,
                   qformer__layers=2, qformer__heads=4, train__steps=STEPS,
                   train__global_batch=32, train__micro_batch=8, train__grain=8, train__lr=0.002,
                   train__warmup_steps="auto", train__validate_every=0, train__checkpoint_every=0,
                   cluster__patience_s=20)
    lib.train(path(name + ".yaml"), "1,1", timeout=7200)
    return lib.metrics(path(name), "validation")[-1]


def checkpoint(name):
    return path(name, "checkpoints/latest")


def score(name, folder, images, captions):
    """nll and number of tokens of each caption under the image at its place, by blipren-worker score."""
    with open(path("pairs.jsonl"), "w") as f:
        for image, caption in zip(images, captions):
            f.write(json.dumps({"file_name": os.path.join(folder, image), "caption": caption}) + "\n")
    done = subprocess.run([lib.program("blipren-worker"), "score", "--checkpoint", checkpoint(name), "--pairs",
                           path("pairs.jsonl")], stdout=subprocess.PIPE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return np.array([line["nll"] for line in lines]), np.array([line["tokens"] for line in lines])


def caption(name, images, *more):
    done = subprocess.run([lib.program("blipren-worker"), "caption", "--checkpoint", checkpoint(name), "--json", *more,
                           *images], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


# -- judgement ---------------------------------------------------------------------------------------


def paired(more, less):
    """Mean difference of two lists of nll, in nats a caption, and how many standard errors that is."""
    difference = more - less
    mean, error = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    return mean, mean / error


def main():
    lib.build()
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    rows = read_rows()
    training, held_out = rows[:-HELD_OUT], rows[-HELD_OUT:]
    mean = mean_image(training)
    lay_out_photographs("train", training)
    lay_out_photographs("validation", held_out)
    lay_out_mean("train-mean", training, mean)
    lay_out_mean("validation-mean", held_out, mean)

    for name, source in (("run", ""), ("run-mean", "-mean")):
        v = train(name, "train" + source, "validation" + source)
        print("%s: validation loss %.4f nats a token, accuracy %.3f, %d of %d captions ended" %
              (name, v["loss_nats"], v["token_accuracy"], v["captions_ended"], v["captions"]), flush=True)

    captions = [row["captions"][0] for row in held_out]
    images = [row["file_name"] for row in held_out]
    others = images[1:] + images[:1]
    true, tokens = score("run", "validation", images, captions)
    shuffled, _ = score("run", "validation", others, captions)
    without, _ = score("run-mean", "validation-mean", images, captions)
    for name, words in (("shuffled", shuffled), ("mean_image", without)):
        print("%s - true: %.3f nats a caption, %.1f standard errors" % (name, *paired(words, true)))

    shown = caption("run", [path("validation", image) for image in images[:12]], "--attention", path("attention.png"))
    for row, line in zip(held_out, shown):
        print("%s\n    by a person: %s\n    by the run:  %s%s" %
              (row["file_name"], row["captions"][0], line["caption"], "" if line["ended"] else " …"))
    print("sheet with photographs, not to be published: " + path("attention.png"))

    count = tokens.sum()
    errors = paired(shuffled, true)[1]
    print("photos: val=%.4f shuffled=%.4f mean_image=%.4f standard_errors=%.1f mean_image_standard_errors=%.1f captions=%d "
          "steps=%d" % (true.sum() / count, shuffled.sum() / count, without.sum() / count, errors,
                        paired(without, true)[1], len(captions), STEPS))
    return 0 if errors > 2 and true.sum() < without.sum() else 1


sys.exit(main())

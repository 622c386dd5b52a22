"""The runs and the judgement of tests/evidence/photos."""
import os
import shutil
import sys

import lib
from photographs import MODELS, VISION, caption, lay_out, lay_out_mean, mean_image, paired, score, split

FOLDER = os.environ.get("PHOTOS_RUN", os.path.join(lib.ROOT, "runs/photos"))
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000


def path(*parts):
    return os.path.join(FOLDER, *parts)


def train(name, source, validation):
    """The recipe of docs/photos.md. Held-out photographs lie in a folder of their own, since a split by content would part
    the mean images otherwise than the photographs."""
    lib.write_yaml(path(name + ".yaml"), path(source), path(name), seed=1, threads=0, data__validation=0,
                   data__validation_source=path(validation), data__captions="[{column: captions}]",
                   data__caption_choice="first", vision__path=VISION, llm__path=os.path.join(MODELS, "TinyStories-656K"),
                   qformer__width="auto", qformer__queries=8, qformer__layers=2, qformer__heads=4, train__steps=STEPS,
                   train__global_batch=32, train__micro_batch=8, train__grain=8, train__lr=0.002,
                   train__warmup_steps="auto", train__validate_every=0, train__checkpoint_every=0,
                   cluster__patience_s=20)
    lib.train(path(name + ".yaml"), "1,1", timeout=7200)
    return lib.metrics(path(name), "validation")[-1]


def checkpoint(name):
    return path(name, "checkpoints/latest")


def main():
    lib.build()
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    training, held_out = split()
    mean = mean_image(training)
    lay_out(path("train"), training)
    lay_out(path("validation"), held_out)
    lay_out_mean(path("train-mean"), training, mean)
    lay_out_mean(path("validation-mean"), held_out, mean)

    for name, source in (("run", ""), ("run-mean", "-mean")):
        v = train(name, "train" + source, "validation" + source)
        print("%s: validation loss %.4f nats a token, accuracy %.3f, %d of %d captions ended" %
              (name, v["loss_nats"], v["token_accuracy"], v["captions_ended"], v["captions"]), flush=True)

    captions = [row["captions"][0] for row in held_out]
    images = [path("validation", row["file_name"]) for row in held_out]
    means = [path("validation-mean", row["file_name"]) for row in held_out]
    true, tokens = score(checkpoint("run"), images, captions)
    shuffled, _ = score(checkpoint("run"), images[1:] + images[:1], captions)
    without, _ = score(checkpoint("run-mean"), means, captions)
    for name, words in (("shuffled", shuffled), ("mean_image", without)):
        print("%s - true: %.3f nats a caption, %.1f standard errors" % (name, *paired(words, true)))

    shown = caption(checkpoint("run"), images[:12], "--attention", path("attention.png"))
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

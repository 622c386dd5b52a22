"""`blipren-worker score` held against PyTorch, for parity.py: captioners are trained a few steps by the programs, then the nll
of captions under images is computed by the program and, from the checkpoint's files alone, by transformers, tokenizers and PIL.
"""

import json
import os
import subprocess
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../evidence"))

import data  # noqa: E402
import lib  # noqa: E402
import recipe  # noqa: E402

KINDS = {"f32": "score", "bf16": "bf16_score"}
IMAGES, STEPS = 12, 3


def first_lines(folder, count):
    with open(os.path.join(folder, "metadata.jsonl")) as file:
        return [json.loads(next(file)) for _ in range(count)]


def cases(place):
    """The demo's models on scenes, and the real models on untouched photographs where they are at hand."""
    lib.scenes(place.path("scenes"), 40)
    demo = f"{lib.ROOT}/deploy/demo/models"
    yield {"name": "demo", "data": place.path("scenes"), "vision": f"{demo}/vision", "llm": f"{demo}/llm", "width": 36,
           "queries": 5, "layers": 2, "heads": 3, "projector": "moe", "experts": 3, "routing": "pooled", "bos": "first",
           "captions": [("short_caption", "Short caption:"), ("caption", "Long caption:")]}
    models = f"{lib.SHARED}/data/models"
    for llm, bos in (("TinyStories-656K", "after_image"), ("stories260K/hf", "first")):
        yield {"name": llm, "data": f"{lib.SHARED}/data/photos_original",
               "vision": f"{models}/vit-tiny-patch16-224-tinyimagenet", "llm": f"{models}/{llm}", "width": 0, "queries": 8,
               "layers": 2, "heads": 4, "projector": "normal", "experts": 4, "routing": "pooled", "bos": bos,
               "captions": [("caption", "")]}


def train(place, case):
    """A run's checkpoint after a few steps that move the weights far from where they began."""
    run = place.path("run-" + case["name"].replace("/", "-"))
    captions = ", ".join('{column: %s, prefix: "%s"}' % pair for pair in case["captions"])
    lib.write_yaml(run + ".yaml", case["data"], run, data__captions=f"[{captions}]", data__caption_choice="first",
                   vision__path=case["vision"], llm__path=case["llm"], llm__bos=case["bos"],
                   qformer__width=case["width"] or "auto", qformer__queries=case["queries"],
                   qformer__layers=case["layers"], qformer__heads=case["heads"], projector__kind=case["projector"],
                   projector__experts=case["experts"], projector__routing=case["routing"], train__steps=STEPS,
                   train__lr=0.01, train__warmup_steps=0)
    lib.train(run + ".yaml", "1,1")
    return os.path.join(run, "checkpoints/latest")


def pairs(case):
    """Every image under its own caption and under the next one's, with every prefix of the run."""
    rows = first_lines(case["data"], IMAGES)
    for i, row in enumerate(rows):
        for column, prefix in case["captions"]:
            for caption in (row[column], rows[(i + 1) % IMAGES][column]):
                yield {"file_name": os.path.join(case["data"], row["file_name"]), "prefix": prefix, "caption": caption}


def by_program(place, checkpoint, lines, precision):
    path = place.path("pairs.jsonl")
    with open(path, "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([lib.program("blipren-worker"), "score", "--checkpoint", checkpoint, "--pairs", path,
                           "--precision", precision], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_pytorch(case, checkpoint, lines):
    """(nll, tokens) of each line."""
    text, look = data.Text(case["llm"]), data.Look(case["vision"])
    captioner = recipe.Captioner(case | {"bos_id": text.bos}).load(checkpoint).eval()
    found = []
    with torch.no_grad():
        for line in lines:
            ids, labels = text.caption(line["prefix"], line["caption"])
            queries, _ = captioner.project(*captioner.see(look(line["file_name"])[None]))
            nll = captioner.nll(queries[0], ids, labels)[0].double()
            found.append((nll.sum().item(), len(nll)))
    return found


def compare(expected, found, name):
    """Largest relative difference of the nll; token counts must agree."""
    if [t for _, t in expected] != [line["tokens"] for line in found]:
        raise SystemExit(f"parity: {name}: score has other numbers of label tokens")
    return max(abs(line["nll"] / nll - 1) for (nll, _), line in zip(expected, found))


def errors():
    """Yields (kind, largest relative error, where) of every case and precision."""
    with lib.Workplace("scored") as place:
        for case in cases(place):
            checkpoint, lines = train(place, case), list(pairs(case))
            expected = by_pytorch(case, checkpoint, lines)
            for precision, kind in KINDS.items():
                yield kind, compare(expected, by_program(place, checkpoint, lines, precision), case["name"]), case["name"]

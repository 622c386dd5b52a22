#!/usr/bin/env python3
"""Trains deploy/demo/models/vision: a small SiglipVisionModel that sees what the demo's scenes are made of.

The task is not captioning. Each patch that shows an object tells colour, shape and size of that object, how many of
its kind the image holds, and on which side of the other group it lies; each patch tells whether it shows an object,
and texture and tone of the background; the attention-pooling head tells texture, tone, the relation and the number of
all objects. The scenes are those of split "train" (see scene.h), made as they are needed, each seen once; accuracy is
measured on split "held-out".

usage: train_encoder.py --scenes PROGRAM --out DIR [--images N] [--seed S] [--threads T]
"""
import argparse
import math
import subprocess
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

PIXELS, PATCH = 64, 8
GRID = PIXELS // PATCH
SCENE_BYTES = 12 + PIXELS * PIXELS * 4
OBJECT_PIXELS = 5  # a patch shows an object from this many of its pixels on; with 1 to 4 it is not judged
WIDTH = 128
PATCH_HEADS = {"colour": 7, "shape": 5, "size": 2, "count": 4, "side": 5, "texture": 4, "tone": 4}
POOLED_HEADS = {"texture": 4, "tone": 4, "relation": 5, "objects": 8}
OTHER_SIDE = [0, 2, 1, 4, 3]  # of the relation of the first group: the relation of the second
FIXED_SCALE = 1.5
WEIGHTS = {"count": 2.0, "texture": 0.5, "tone": 0.5}


def stream(program, split, seed, images, batch):
    """Yields (pixels (B, 3, 64, 64) in -1 .. 1, patch labels, pooled labels); label -1 is not judged."""
    command = [program, "--raw", "--count", str(images), "--seed", str(seed), "--split", split]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=SCENE_BYTES * 64) as process:
        for _ in range(images // batch):
            raw = np.frombuffer(process.stdout.read(SCENE_BYTES * batch), np.uint8).reshape(batch, SCENE_BYTES)
            yield unpack(raw)


def unpack(raw):
    batch = raw.shape[0]
    facts = torch.from_numpy(raw[:, :12].astype(np.int64))
    owner = raw[:, 12:12 + PIXELS * PIXELS].reshape(batch, GRID, PATCH, GRID, PATCH)
    pixels = raw[:, 12 + PIXELS * PIXELS:].reshape(batch, PIXELS, PIXELS, 3)
    pixels = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    covered = torch.from_numpy((owner > 0).sum((2, 4))).reshape(batch, -1)  # cells keep groups in patches of their own
    group = torch.from_numpy(owner.max((2, 4)).astype(np.int64)).reshape(batch, -1)
    seen = covered >= OBJECT_PIXELS
    own = torch.where(seen, group, 1) - 1  # (B, N), 0 or 1

    def of_group(offset):
        return torch.gather(facts[:, [1 + offset, 5 + offset]], 1, own)

    def judged(label):
        return torch.where(seen, label, -1)

    everywhere = torch.ones_like(own)
    relation = facts[:, 9:10] * everywhere
    patch = {
        "colour": torch.where(seen, of_group(1) + 1, torch.where(covered == 0, 0, -1)),
        "shape": judged(of_group(2)), "size": judged(of_group(3)), "count": judged(of_group(0) - 1),
        "side": judged(torch.where(own == 0, relation, torch.tensor(OTHER_SIDE)[relation])),
        "texture": facts[:, 10:11] * everywhere, "tone": facts[:, 11:12] * everywhere,
    }
    pooled = {"texture": facts[:, 10], "tone": facts[:, 11], "relation": facts[:, 9],
              "objects": facts[:, 1] + facts[:, 5] - 1}
    return pixels, patch, pooled


def sine_positions():
    """(N, WIDTH): a quarter of the width each for sine and cosine of row and column; training continues from there."""
    rates = 1 / 30 ** (torch.arange(WIDTH // 4) / (WIDTH // 4))
    angles = torch.arange(GRID)[:, None] * rates
    rows = angles.repeat_interleave(GRID, 0)
    columns = angles.repeat(GRID, 1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], 1) * 0.5


def heads_of(sizes, fixed):
    """One classifier per label. Fixed ones are orthonormal directions times FIXED_SCALE: since they cannot grow, every
    label has to take its share of the features' variance, and a captioner then finds rare and common ones alike."""
    heads = torch.nn.ModuleDict({k: torch.nn.Linear(WIDTH, n, bias=not fixed) for k, n in sizes.items()})
    if fixed:
        directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0].split([*sizes.values(), WIDTH - sum(sizes.values())])
        for head, rows in zip(heads.values(), directions):
            head.weight = torch.nn.Parameter(FIXED_SCALE * rows, requires_grad=False)
    return heads


class Trainee(torch.nn.Module):
    def __init__(self, start=None):
        super().__init__()
        config = SiglipVisionConfig(hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=3,
                                    num_attention_heads=4, image_size=PIXELS, patch_size=PATCH)
        if start:
            self.vision = SiglipVisionModel.from_pretrained(start, dtype=torch.float32)
        else:
            self.vision = SiglipVisionModel(config)
            embeddings = next(m for n, m in self.vision.named_modules() if n.endswith("embeddings"))
            embeddings.position_embedding.weight.data.copy_(sine_positions())
        self.patch_heads = heads_of(PATCH_HEADS, fixed=start is not None)
        self.pooled_heads = heads_of(POOLED_HEADS, fixed=start is not None)

    def forward(self, pixels):
        out = self.vision(pixel_values=pixels)
        patch = {k: head(out.last_hidden_state) for k, head in self.patch_heads.items()}
        pooled = {k: head(out.pooler_output) for k, head in self.pooled_heads.items()}
        return patch, pooled


def cross_entropy(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-1)


def loss_of(model, pixels, patch_labels, pooled_labels):
    patch, pooled = model(pixels)
    loss = sum(WEIGHTS.get(k, 1.0) * cross_entropy(patch[k], patch_labels[k]) for k in patch)
    return loss + 0.3 * sum(cross_entropy(pooled[k], pooled_labels[k]) for k in pooled)


@torch.no_grad()
def accuracy(model, program, images):
    """Share of right labels among the judged ones, by name."""
    right, total = {}, {}
    for pixels, patch_labels, pooled_labels in stream(program, "held-out", 99, images, 100):
        patch, pooled = model(pixels)
        for mark, logits, labels in (("", patch, patch_labels), ("pooled ", pooled, pooled_labels)):
            for k in logits:
                judged = labels[k] >= 0
                right[mark + k] = right.get(mark + k, 0) + (logits[k].argmax(-1) == labels[k])[judged].sum().item()
                total[mark + k] = total.get(mark + k, 0) + judged.sum().item()
    return {k: right[k] / total[k] for k in right}


def save(model, out):
    model.vision.save_pretrained(out)
    SiglipImageProcessor(size={"height": PIXELS, "width": PIXELS}).save_pretrained(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", metavar="DIR", help="an encoder to go on from, with fixed classifiers")
    parser.add_argument("--images", type=int, default=240000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = Trainee(args.start)
    print("parameters", sum(p.numel() for p in model.vision.parameters()), flush=True)
    steps = args.images // args.batch
    optimizer = torch.optim.AdamW(model.parameters(), args.rate, betas=(0.9, 0.98), weight_decay=0.02)
    warm = min(300, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.51 + 0.49 * math.cos(math.pi * s / steps)))
    compiled_loss = torch.compile(loss_of)
    start, running = time.time(), 0.0
    for step, scene in enumerate(stream(args.scenes, "train", args.seed, args.images, args.batch), 1):
        loss = compiled_loss(model, *scene)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step}/{steps} loss {running / 100:.3f} seconds {time.time() - start:.0f}", flush=True)
            running = 0.0
        if step % 500 == 0:
            save(model, args.out)
            print({k: round(v, 3) for k, v in accuracy(model, args.scenes, 500).items()}, flush=True)
    model.vision.to(torch.bfloat16)
    save(model, args.out)
    model.vision.to(torch.float32)
    print("final", {k: round(v, 4) for k, v in accuracy(model, args.scenes, 4000).items()})


if __name__ == "__main__":
    main()

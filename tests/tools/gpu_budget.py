#!/usr/bin/env python3
"""tests/tools/gpu_budget.py [BUILD] - the tables of docs/gpu.md (what an H100 allows) and docs/scaling.md, from counted operations.

Runs BUILD/tests/tools/step_count at the shapes of SigLIP-so400m/384 and Llama-3.2-1B, whose folders are headers over empty
files, and prints Markdown. Ceilings are measured ones (docs/gpu.md); the networks are what their makers promise."""
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests/evidence"))
from random_models import MISSION_LLM, MISSION_VISION, llm_shapes, vision_shapes, write_preprocessing

TFLOPS, TBYTES = 798, 3.0  # an H100's bf16 product of 8192^3, and a copy counted in both directions
IMAGES, TOKENS = 32, 45
PARTS = ("vision tower", "Q-Former", "projector", "language model", "optimizer")
BUCKET = 8 << 20  # elements, worker/trainer.c
LATENCY = 8e-6  # seconds from one GPU to another, a message of nothing
# bytes/s that a ring over all GPUs moves: within a host of 8, and out of a host of 8
NETWORKS = [("NVLink, one host", 370e9), ("8 x 400 Gb/s a host", 370e9), ("400 Gb/s a host", 48e9), ("100 Gb/s a host", 12e9)]


def write_folder(folder, config, shapes):
    """A model of the right size with no weights in it."""
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)


def count(build, place, projector, recompute=False):
    path = os.path.join(place, projector + ".yaml")
    with open(path, "w") as f:
        f.write("run_dir: run\ndata: {source: data}\nvision: {path: vision}\nllm: {path: llm}\nprojector: {kind: %s}\n"
                "train: {steps: 1, global_batch: 32, micro_batch: 32, recompute: %s}\n" % (projector, str(recompute).lower()))
    command = [os.path.join(build, "tests/tools/step_count"), path, str(IMAGES), str(TOKENS), str(TFLOPS), str(TBYTES)]
    rows = [json.loads(line) for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()]
    chosen = "%d classes of products, their algorithms found in %.2f s" % (rows[-1]["classes"], rows[-1]["choosing_s"])
    return rows[:-1], rows[-1]["count"], chosen


def print_parts(normal, moe):
    print("| part | operations | TFLOP | GB | ms at the ceilings | the same, moe |\n| --- | --- | --- | --- | --- | --- |")
    for a, b in zip(normal, moe):
        print("| %s | %d | %.2f | %.1f | %.1f | %.1f |" % (a["part"], a["operations"], a["flop"] / 1e12, a["bytes"] / 1e9,
                                                          1e3 * a["seconds"], 1e3 * b["seconds"]))
    total = {key: [sum(row[key] for row in rows) for rows in (normal, moe)] for key in ("operations", "flop", "bytes", "seconds")}
    print("| all | %d | %.2f | %.1f | %.1f | %.1f |" % (total["operations"][0], total["flop"][0] / 1e12, total["bytes"][0] / 1e9,
                                                       1e3 * total["seconds"][0], 1e3 * total["seconds"][1]))
    for name, rows in (("normal", normal), ("moe", moe)):
        whole = sum(row["seconds"] for row in rows)
        tower = rows[0]["seconds"]
        print("\n%s: %.0f images/s, %.0f from cached features; %.3f TFLOP an image" % (
            name, IMAGES / whole, IMAGES / (whole - tower), sum(row["flop"] for row in rows) / IMAGES / 1e12))
    return [(sum(r["seconds"] for r in rows), trained_backward(rows), seconds_of(rows, "vision tower"), seconds_of(rows, "optimizer"))
            for rows in (normal, moe)]


def seconds_of(rows, *parts):
    return sum(row["seconds"] for row in rows if row["part"] in parts)


def trained_backward(rows):
    """Seconds in which gradients become ready, two thirds of what is trained: the backward pass of Q-Former and projector."""
    return seconds_of(rows, "Q-Former", "projector") * 2 / 3


def all_reduce(gpus, parameters, moved, rate):
    """Seconds: a ring moves (n-1)/n of an element to its sum and of the sum to all, `moved` bytes together; a bucket's first byte
    takes a tree's way there and back."""
    buckets, size = math.ceil(parameters / BUCKET), parameters * moved
    return (gpus - 1) / gpus * size / rate + 2 * math.log2(gpus) * LATENCY * buckets if gpus > 1 else 0


def step(seconds, backward, reduce, parameters, micro_batches):
    """What of the all-reduce is not hidden behind the last micro-batch's backward pass comes on top: its last bucket at least."""
    last = min(1, BUCKET / parameters) * reduce
    return micro_batches * seconds + max(reduce - backward, last)


def print_ahead(times, parameters):
    """While the all-reduce is on the wire and the optimizer waits for memory, tensor cores are free for the tower."""
    print("\n| | GPUs | " + " | ".join(network for network, _ in NETWORKS) + " |\n| --- | --- |" + " --- |" * len(NETWORKS))
    for name, (seconds, backward, tower, optimizer), trained in zip(("normal", "moe"), times, parameters):
        for gpus in (1, 8, 16, 512):
            cells = []
            for network, rate in NETWORKS:
                if (gpus > 8) == (network == NETWORKS[0][0]):
                    cells.append("-")
                    continue
                t = step(seconds, backward, all_reduce(gpus, trained, 4 + 4, rate), trained, 1)
                saved = min(tower, t - seconds + optimizer)
                cells.append("%.0f -> %.0f ms" % (1e3 * t, 1e3 * (t - saved)))
            print("| %s | %d | %s |" % (name, gpus, " | ".join(cells)))


def print_scaling(times, parameters):
    for name, (seconds, backward, _, _), trained in zip(("normal", "moe"), times, parameters):
        for moved, what in ((4 + 4, "f32 sums"), (8 + 4, "int64 sums gathered as f32, `train.reproducible`")):
            print("\n**%s, %s**: %.2f GB a step; one GPU %.0f ms, %.0f images/s.\n" % (name, what, trained * moved / 1e9, 1e3 * seconds,
                                                                                      IMAGES / seconds))
            print("| GPUs | " + " | ".join(network for network, _ in NETWORKS) + " |\n| --- |" + " --- |" * len(NETWORKS))
            for gpus in (2, 8, 16, 64, 512):
                cells = []
                for network, rate in NETWORKS:
                    if (gpus > 8) == (network == NETWORKS[0][0]):
                        cells.append("-")
                        continue
                    found = ["%.0f ms, %.0f %%" % (1e3 * t, 100 * k * seconds / t)
                             for k in (1, 8) for t in [step(seconds, backward, all_reduce(gpus, trained, moved, rate), trained, k)]]
                    cells.append("; ".join(found))
                print("| %d | %s |" % (gpus, " | ".join(cells)))


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build")
    with tempfile.TemporaryDirectory() as place:
        write_folder(os.path.join(place, "vision"), MISSION_VISION, vision_shapes(MISSION_VISION))
        write_preprocessing(os.path.join(place, "vision"), MISSION_VISION)
        write_folder(os.path.join(place, "llm"), MISSION_LLM, llm_shapes(MISSION_LLM))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(ROOT, "deploy/demo/models/llm", name), os.path.join(place, "llm"))
        normal, normal_count, chosen = count(build, place, "normal")
        moe, moe_count, moe_chosen = count(build, place, "moe")
        again = count(build, place, "normal", recompute=True)[0]
    times = print_parts(normal, moe)
    print("\nnormal, train.recompute: %.1f ms, %.2f TFLOP" % (1e3 * seconds_of(again, *PARTS), sum(row["flop"] for row in again) / 1e12))
    print("\nnormal: %s; moe: %s" % (chosen, moe_chosen))
    print_scaling(times, (normal_count, moe_count))
    print_ahead(times, (normal_count, moe_count))


main()

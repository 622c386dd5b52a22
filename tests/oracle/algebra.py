"""Both forms of cross-attention (worker/model/cross.h) against float64, whole runs of both against each other, and what they cost.

    python algebra.py BUILD WORK

Outputs and gradients with dropout 0.1 and random weights, biases, gamma and beta, in f32 and bf16; tokens whose mean is zero, and
tokens of which a vector ten times their spread is common to all. The folded form's error may be 1.5 times the plain one's.
Ends with a line "algebra: …"; exit 1 when a bar does not hold.
"""

import json
import math
import os
import re
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

import parity
import recipe

RATIO = 1.5
TRAJECTORY = {"f32": 1e-4, "bf16": 1e-2}
DROP = 0.1
SEEDS = 3
# images, queries, heads, vision tokens, width
SIZES = {"demo": (4, 12, 4, 64, 96), "base": (2, 32, 8, 196, 576), "so400m": (1, 32, 8, 729, 2048)}
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def make_input(size, common, seed):
    """Activations are values of bf16, so that reading them rounds nothing."""
    B, K, _, N, d = SIZES[size]
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw)
    v = normal(B, N, d) + (10 * normal(d) if common else 0)
    made = {"v": v, "x": normal(B, K, d), "d_y": normal(B, K, d)}
    made = {name: value.bfloat16().float() for name, value in made.items()}
    return made | {"weight": normal(3 * d, d) / d**0.5, "bias": 0.3 * normal(3 * d), "gamma": 1 + 0.3 * normal(d), "beta": 0.3 * normal(d)}


def expected(given, kept, heads):
    """The plain form in float64, by autograd."""
    t = {name: value.double().requires_grad_(name != "d_y") for name, value in given.items()}
    d = t["v"].shape[-1]
    split = lambda rows: rows.unflatten(-1, (heads, -1)).transpose(1, 2)
    tokens = torch.nn.functional.layer_norm(t["v"], (d,), t["gamma"], t["beta"], 1e-5)
    q, k, v = (split(x @ w.T + b) for x, w, b in zip((t["x"], tokens, tokens), t["weight"].chunk(3), t["bias"].chunk(3)))
    p = (q @ k.transpose(-1, -2) / (d // heads) ** 0.5).softmax(-1) * kept.double() / (1 - DROP)
    y = (p @ v).transpose(1, 2).flatten(2)
    y.backward(t["d_y"])
    return {"y": y.detach()} | {"d_" + name: value.grad for name, value in t.items() if name != "d_y"}


def compared(outputs):
    """Packed projections count as one tensor, so that the key bias, whose gradient is zero, is held against the others; and the
    keys' part of the weight's gradient by itself, which what the tokens have in common would hide."""
    found = {name: value.double() for name, value in outputs.items() if name != "kept"}
    d = found["d_gamma"].shape[0]
    return found | {"d_weight of keys": found["d_weight"][d:2 * d]}


def errors(build, work, size, precision, common):
    """form -> name -> root mean square, over the seeds, of the relative error."""
    heads, sums = SIZES[size][2], {"plain": {}, "folded": {}}
    seeds = SEEDS if size != "so400m" else 1
    for seed in range(seeds):
        given = make_input(size, common, seed)
        save_file(given, f"{work}/cross-input.safetensors")
        reference = None
        for form, sum_of in sums.items():
            subprocess.run([f"{build}/tests/tools/cross_dump", form, precision, "cpu", str(heads), str(DROP),
                            f"{work}/cross-input.safetensors", f"{work}/cross-output.safetensors"], check=True)
            found = load_file(f"{work}/cross-output.safetensors")
            if reference is None:
                reference = compared(expected(given, found["kept"], heads))
            for name, value in compared(found).items():
                sum_of[name] = sum_of.get(name, 0) + parity.relative(value, reference[name]) ** 2 / seeds
    return {form: {name: value**0.5 for name, value in sum_of.items()} for form, sum_of in sums.items()}


def compare(build, work):
    """Worst ratio of the forms' errors, and the folded form's worst error in each precision."""
    worst, most = 0, {"f32": 0, "bf16": 0}
    for size in SIZES:
        for precision in most:
            for common in (False, True):
                found = errors(build, work, size, precision, common)
                ratios = {name: found["folded"][name] / found["plain"][name] for name in found["plain"]}
                name = max(ratios, key=lambda key: math.inf if math.isnan(ratios[key]) else ratios[key])
                worst = max(worst, math.inf if math.isnan(ratios[name]) else ratios[name])
                most[precision] = max(most[precision], *found["folded"].values())
                print(f"{size:7} {precision:4} {'common mean' if common else 'no mean':11} error plain {max(found['plain'].values()):.1e} "
                      f"folded {max(found['folded'].values()):.1e}, worst ratio {ratios[name]:.2f} ({name})", flush=True)
    return worst, most


def trajectories(build, work):
    """Worst relative difference between the losses of twenty steps in the two forms, of each precision."""
    worst = {}
    models = {"vision": f"{ROOT}/deploy/demo/models/vision", "llm": f"{ROOT}/deploy/demo/models/llm"}
    options = models | {"queries": 12, "layers": 2, "heads": 4, "projector": "normal", "dropout": DROP, "bos": "first", "bos_id": 1}
    captioner = recipe.Captioner(options)
    parity.write_input(f"{work}/input.safetensors", *parity.make_input(captioner, 0))
    for precision in TRAJECTORY:
        losses = []
        for form in ("plain", "folded"):
            with open(f"{work}/options.json", "w") as file:
                json.dump(options | {"precision": precision, "cross": form}, file)
            done = subprocess.run([f"{build}/tests/tools/train_speed", f"{work}/options.json", f"{work}/input.safetensors", "0", "20"],
                                  check=True, stdout=subprocess.PIPE)
            losses.append(json.loads(done.stdout)["losses"])
        worst[precision] = max(abs(a - b) / a for a, b in zip(*losses))
        print(f"20 steps in {precision}: {losses[0][0]:.4f} to {losses[0][-1]:.4f}, the forms differ by {worst[precision]:.1e}", flush=True)
    return worst


def costs(build):
    """Prints the table; how many times faster the form is that the model takes, where it takes the folded one."""
    done = subprocess.run([f"{build}/tests/bench/cross_bench", "1"], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    faster = {}
    for line in done.stdout.splitlines():
        shape, precision, ratio, form = re.search(r"^(\S+?)[/ ,].*?(f32|bf16).* (\S+)x, takes (\w+)", line).groups()
        if form == "folded":
            faster[f"{shape}_{precision}"] = float(ratio)
    return faster


def main():
    build, work = sys.argv[1:3]
    torch.set_num_threads(2)
    ratio, most = compare(build, work)
    run = trajectories(build, work)
    faster = costs(build)
    print(f"algebra: worst_ratio={ratio:.2f} f32={most['f32']:.1e} bf16={most['bf16']:.1e} trajectory_f32={run['f32']:.1e} "
          f"trajectory_bf16={run['bf16']:.1e} " + " ".join(f"faster_{name}={value:.2f}" for name, value in faster.items()))
    return 0 if ratio <= RATIO and all(run[name] <= bar for name, bar in TRAJECTORY.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

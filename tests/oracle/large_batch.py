"""One step of the mixture of experts over a global batch of 2,048, on one, two and four ranks, against the recipe on the whole batch;
then runs of the demo's size with batches of 32 and of 512 beside each other.

    python large_batch.py [--quick] [--shim]

The gradient of a first step is read from AdamW's first moment, which is a tenth of it. --quick: a batch of 256 and short runs. --shim:
the step on the GPU backend over the host shim (tests/cudasim; with --quick on one and two ranks). Exit 1 when a bar does not hold.
"""

import os
import sys

import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../evidence"))

import data  # noqa: E402
import lib  # noqa: E402
import parity  # noqa: E402
import recipe  # noqa: E402
import trajectory  # noqa: E402

QUICK, SHIM = "--quick" in sys.argv, "--shim" in sys.argv
BATCH, MICRO = (256, 16) if QUICK else (2048, 32)
RANKS = (1, 2) if SHIM and QUICK else (1, 2, 4)
SEED, HELD_OUT = 31, 8
# Weighing more than by default, the router's losses are half of the router's gradient.
BALANCE, ROUTER_Z = 1, 0.1
BARS = {"gradient": 1e-4, "router": 1e-4, "share": 1e-5, "loss": 1e-5}
# Samples of each of the runs beside each other, and their batches.
SAMPLES, BATCHES = (1024, (32, 512)) if QUICK else (20480, (32, 512))
CAPTIONS = [("short_caption", "Short caption:"), ("caption", "Long caption:")]
MODELS = {"vision": f"{lib.ROOT}/deploy/demo/models/vision", "llm": f"{lib.ROOT}/deploy/demo/models/llm"}
CASE = MODELS | {"projector": "moe", "experts": 4, "routing": "pooled", "bos": "first", "width": 0, "queries": 12, "layers": 2, "heads": 4}


def whole_batch(captioner, batch):
    """Gradients of the recipe's L over the batch, and its parts. Images are taken in pieces; since P is known beforehand, the
    balancing loss of a piece has the gradient 2 P dP of the whole one's."""
    with torch.no_grad():
        seen = [captioner.see(torch.stack([s[0] for s in batch[i:i + MICRO]])) for i in range(0, len(batch), MICRO)]
        share = torch.cat([captioner.projector.router(image).softmax(-1) for _, image in seen]).double().mean(0)
    tokens, images = sum(sum(s[2]) for s in batch), len(batch)
    nll = lse2 = 0.0
    for i, (features, image) in enumerate(seen):
        queries, z = captioner.project(features, image)
        piece = batch[i * MICRO:(i + 1) * MICRO]
        ce = sum(captioner.nll(q, ids, labels)[0].sum() for q, (_, ids, labels) in zip(queries, piece))
        squares = (z.logsumexp(-1) ** 2).sum()
        balance = BALANCE * len(share) * 2 * (share.float() * z.softmax(-1).sum(0)).sum() / images
        (ce / tokens + balance + ROUTER_Z * squares / images).backward()
        nll += ce.item()
        lse2 += squares.item()
    return {"share": share, "loss": nll / tokens, "balance": BALANCE * len(share) * (share**2).sum().item(),
            "router_z": ROUTER_Z * lse2 / images}, {name: p.grad for name, p in captioner.trained()}


def yaml(path, place, run, **changes):
    captions = ", ".join('{column: %s, prefix: "%s"}' % pair for pair in CAPTIONS)
    keys = {"seed": SEED, "data__captions": f"[{captions}]", "data__validation": HELD_OUT, "vision__path": CASE["vision"],
            "llm__path": CASE["llm"], "qformer__queries": CASE["queries"], "qformer__layers": CASE["layers"], "qformer__heads": CASE["heads"],
            "qformer__dropout": 0, "projector__dropout": 0, "projector__kind": "moe", "projector__experts": CASE["experts"],
            "cluster__patience_s": 60}
    lib.write_yaml(path, place.path("scenes"), run, **{**keys, **changes})


def one_step(place, initial, ranks):
    """Metrics and gradients of the first step through the cluster."""
    run = place.path("step-%d" % ranks)
    yaml(run + ".yaml", place, run, train__init_from=initial, train__steps=1, train__warmup_steps=1, train__global_batch=BATCH, train__micro_batch=MICRO,
         train__grain=MICRO, train__clip=0, projector__balance=BALANCE, projector__router_z=ROUTER_Z)
    os.environ["BLIPREN_CUDA"] = lib.program("tests/cudasim/doubles/libblipren-cuda.so") if SHIM else "/nonexistent"
    lib.train(run + ".yaml", "%d,1" % ranks, timeout=3600)
    moments = {}
    for name in ("qformer", "projector"):
        moments |= load_file(os.path.join(run, "checkpoints/latest", name + ".moment1.safetensors"))
    return lib.metrics(run)[0], {name: value * 10 for name, value in moments.items()}


def compare(found, grads, parts, expected):
    """Relative errors of one step."""
    flat = lambda tensors, router: torch.cat([tensors[n].flatten().double() for n in sorted(expected) if n.startswith("router") == router])
    relative = lambda a, b: abs(a / b - 1)
    return {"gradient": parity.relative(flat(grads, False), flat(expected, False)),
            "router": parity.relative(flat(grads, True), flat(expected, True)),
            "share": max(relative(a, b) for a, b in zip(found["expert_share"], parts["share"].tolist())),
            "loss": max(relative(found["loss_nats"], parts["loss"]), relative(found["balance_loss"], parts["balance"]),
                        relative(found["router_z_loss"], parts["router_z"]))}


def side_by_side(place):
    """least expert share and router entropy of the last steps, and validation loss, of each batch."""
    words = []
    os.environ["BLIPREN_CUDA"] = "/nonexistent"
    for batch in BATCHES:
        run, steps = place.path("batch-%d" % batch), SAMPLES // batch
        yaml(run + ".yaml", place, run, data__validation=200, train__steps=steps, train__warmup_steps=max(1, steps // 20), train__global_batch=batch,
             train__micro_batch=16, train__lr=0.002, train__floor=0.02, train__validate_every=steps, train__validation_captions=0)
        lib.train(run + ".yaml", "2,1", timeout=3600)
        last = lib.metrics(run)[-max(1, steps // 10):]
        mean = lambda values: sum(values) / len(values)
        share, entropy = mean([min(m["expert_share"]) for m in last]), mean([m["router_entropy_nats"] for m in last])
        validation = lib.metrics(run, "validation")[-1]["loss_nats"]
        print(f"batch {batch}: {steps} steps, least expert share {share:.3f}, router entropy {entropy:.3f} nats, validation loss {validation:.4f}",
              flush=True)
        words.append(f"least_{batch}={share:.3f} entropy_{batch}={entropy:.3f} val_{batch}={validation:.4f}")
    return " ".join(words)


def main():
    lib.build()
    torch.set_num_threads(1)
    worst = {}
    with lib.Workplace("large-batch") as place:
        lib.scenes(place.path("scenes"), BATCH + 400)
        text = data.Text(CASE["llm"])
        torch.manual_seed(SEED)
        captioner = recipe.Captioner(CASE | {"bos_id": text.bos})
        captioner.save(place.path("initial"))
        trajectory.write_state(place.path("initial"), CASE)
        dataset = data.Dataset(place.path("scenes"), CAPTIONS, "any", text, SEED, HELD_OUT)
        batch = next(dataset.steps(1, BATCH, data.Look(CASE["vision"])))
        parts, expected = whole_batch(captioner, batch)
        for ranks in RANKS:
            found = compare(*one_step(place, place.path("initial"), ranks), parts, expected)
            print(f"{ranks} ranks: " + " ".join(f"{name}={error:.1e}" for name, error in found.items()), flush=True)
            worst = {name: max(worst.get(name, 0), error) for name, error in found.items()}
        runs = "" if SHIM else " " + side_by_side(place)
    print(f"large-batch: batch={BATCH} ranks={','.join(map(str, RANKS))} device={'shim' if SHIM else 'cpu'} "
          + " ".join(f"{name}={error:.1e}" for name, error in worst.items()) + runs)
    return 0 if all(worst[name] <= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

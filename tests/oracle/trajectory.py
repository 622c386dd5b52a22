"""Twenty training steps of the programs against the same steps in PyTorch, from the same initial weights.

    python trajectory.py [--quick]

Every case trains once in PyTorch (recipe.py, data.py, order.py: nothing of the C code) and several times through the
cluster: accumulation 1 and 4, one and two workers. Compared are the losses step by step; gradient norms and final
weights are shown beside them. Exit 1 when a loss is further than BAR away.
"""

import hashlib
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../evidence"))

import data  # noqa: E402
import lib  # noqa: E402
import make_models  # noqa: E402
import recipe  # noqa: E402

BAR = 1e-4
STEPS, BATCH, HELD_OUT = 20, 8, 5
TRAIN = {"lr": 0.002, "warmup_steps": 4, "floor": 0.1, "weight_decay": 0.05, "clip": 1.0}


# -- cases ---------------------------------------------------------------------------------------


def odd_llm(folder):
    """6 heads of 10 over 3, tied, biases, llama3 RoPE, bf16; a Llama-style tokenizer that adds a BOS."""
    rope = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=32)
    config = LlamaConfig(vocab_size=490, hidden_size=60, intermediate_size=96, num_hidden_layers=3,
                         num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True, attention_bias=True,
                         max_position_embeddings=256, rope_parameters=rope, bos_token_id=476, eos_token_id=[477, 478])
    make_models.save(make_models.randomize(LlamaForCausalLM(config), 11), folder, torch.bfloat16, "40KB")
    shutil.copy(os.path.join(HERE, "../golden/tokenizer/llama2/tokenizer.json"), folder)


def first_photographs(source, folder, count):
    os.makedirs(folder)
    with open(f"{source}/metadata.jsonl") as file:
        lines = [next(file) for _ in range(count)]
    with open(f"{folder}/metadata.jsonl", "w") as file:
        file.writelines(lines)
    for line in lines:
        shutil.copy(f"{source}/{json.loads(line)['file_name']}", folder)


def damage(folder):
    """Cuts one image short: a void slot in every epoch."""
    path = sorted(p for p in os.listdir(folder) if p.endswith(".png"))[3]
    with open(os.path.join(folder, path), "r+b") as file:
        file.truncate(100)


def cases(place):
    """Models and configuration of each case; the real models only where they are at hand."""
    both = [("short_caption", "Short caption: "), ("caption", "Long caption:")]
    lib.scenes(place.path("scenes"), 40)
    lib.scenes(place.path("damaged"), 30, seed=6)
    damage(place.path("damaged"))
    demo = {"name": "demo", "data": place.path("scenes"), "captions": both, "choice": "any", "bos": "first",
            "vision": f"{lib.ROOT}/deploy/demo/models/vision", "llm": f"{lib.ROOT}/deploy/demo/models/llm",
            "width": 0, "queries": 6, "layers": 2, "heads": 4, "experts": 4, "routing": "pooled"}
    os.makedirs(place.path("models"))
    make_models.make_vision(place.path("models"))
    odd_llm(place.path("models/llm"))
    odd = {"name": "odd", "data": place.path("damaged"), "captions": both[::-1], "choice": "first", "bos": "after_image",
           "vision": place.path("models/siglip-b-sharded"), "llm": place.path("models/llm"),
           "width": 36, "queries": 5, "layers": 3, "heads": 3, "experts": 3, "routing": "mean"}
    models = f"{lib.SHARED}/data/models"
    if not os.path.isdir(models):
        return [demo, odd]
    first_photographs(f"{lib.SHARED}/data/photos", place.path("photos"), 30)
    real = {"name": "real", "data": place.path("photos"), "captions": [("captions", "")], "choice": "first",
            "bos": "first", "vision": f"{models}/vit-tiny-patch16-224-tinyimagenet", "llm": f"{models}/TinyStories-656K",
            "width": 0, "queries": 4, "layers": 1, "heads": 8, "experts": 2, "routing": "first"}
    return [demo, odd, real]


# -- in PyTorch ----------------------------------------------------------------------------------


def write_state(folder, case):
    """state.json of a checkpoint that was not trained yet: every file's SHA-256, and its own."""
    def digest(content):
        return hashlib.sha256(content).hexdigest()

    files = {}
    for name in ("qformer.safetensors", "projector.safetensors"):
        with open(os.path.join(folder, name), "rb") as file:
            files[name] = digest(file.read())
    state = {"format": 1, "step": 0, "updates": 0, "skipped_bad": 0, "skipped_outliers": 0, "norm_mean": 0.0,
             "norm_square": 0.0, "norm_count": 0, "data": "", "vision": {"path": case["vision"], "sha256": ""},
             "llm": {"path": case["llm"], "sha256": ""}, "config": "", "files": files}
    state["sha256"] = digest(json.dumps(state, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    with open(os.path.join(folder, "state.json"), "w") as file:
        json.dump(state, file)


def expected(case, seed, initial):
    """Trains in PyTorch; writes the weights it starts from into the folder `initial`. (steps, final weights)."""
    text = data.Text(case["llm"])
    torch.manual_seed(seed)
    captioner = recipe.Captioner(case | {"bos_id": text.bos})
    captioner.save(initial)
    write_state(initial, case)
    dataset = data.Dataset(case["data"], case["captions"], case["choice"], text, seed, HELD_OUT)
    batches = [[batch] for batch in dataset.steps(STEPS, BATCH, data.Look(case["vision"]))]
    steps = list(recipe.train(captioner, batches, TRAIN["lr"], TRAIN["warmup_steps"], TRAIN["lr"] * TRAIN["floor"],
                              clip=TRAIN["clip"], decay=TRAIN["weight_decay"]))
    return steps, {n: p.detach() for n, p in captioner.trained()}


# -- through the cluster -------------------------------------------------------------------------


def run_cluster(place, case, seed, initial, workers, micro):
    run = place.path("run")
    captions = ", ".join('{column: %s, prefix: "%s"}' % pair for pair in case["captions"])
    lib.write_yaml(run + ".yaml", case["data"], run, seed=seed, data__validation=HELD_OUT,
                   data__captions=f"[{captions}]", data__caption_choice=case["choice"], data__max_bad_fraction=0.5,
                   vision__path=case["vision"], llm__path=case["llm"], llm__bos=case["bos"],
                   qformer__width=case["width"] or "auto", qformer__queries=case["queries"],
                   qformer__layers=case["layers"], qformer__heads=case["heads"], qformer__dropout=0,
                   projector__kind=case["projector"], projector__experts=case["experts"],
                   projector__routing=case["routing"], projector__dropout=0, train__steps=STEPS,
                   train__global_batch=BATCH, train__micro_batch=micro, train__grain=micro, train__init_from=initial,
                   train__checkpoint_every=0, **{"train__" + key: value for key, value in TRAIN.items()})
    lib.train(run + ".yaml", f"{workers},1")
    steps, weights = lib.metrics(run), {}
    for name in ("qformer", "projector"):
        weights |= load_file(os.path.join(run, "checkpoints/latest", name + ".safetensors"))
    shutil.rmtree(run)
    return steps, weights


def compare(steps, weights, found_steps, found_weights):
    """Worst relative difference of a loss and of a gradient norm, and that of the weights; sizes must agree."""
    if [s["tokens"] for s in steps] != [s["tokens"] for s in found_steps]:
        raise SystemExit(f"trajectory: label tokens differ: {[s['tokens'] for s in found_steps]}, "
                         f"expected {[s['tokens'] for s in steps]}")
    loss = max(abs(f["loss_nats"] / e["loss"] - 1) for e, f in zip(steps, found_steps))
    norm = max(abs(f["grad_norm"] / e["grad_norm"] - 1) for e, f in zip(steps, found_steps))
    names = sorted(weights)
    gap = torch.cat([(found_weights[n] - weights[n]).flatten() for n in names])
    return loss, norm, (gap.norm() / torch.cat([weights[n].flatten() for n in names]).norm()).item()


def main():
    lib.build()
    torch.set_num_threads(1)
    worst, runs = {"loss": 0.0, "norm": 0.0, "weights": 0.0}, 0
    with lib.Workplace("trajectory") as place:
        found = cases(place)
        for seed, case in enumerate(found[:1] if "--quick" in sys.argv else found, 20):
            for projector in ("normal", "moe"):
                case = case | {"projector": projector}
                initial = place.path(f"initial-{case['name']}-{projector}")
                steps, weights = expected(case, seed, initial)
                for workers, accumulation in ((1, 1), (1, 4), (2, 1), (2, 4)):
                    result = compare(steps, weights, *run_cluster(place, case, seed, initial, workers,
                                                                  BATCH // (workers * accumulation)))
                    print(f"{case['name']:5} {projector:6} workers={workers} accumulation={accumulation}: loss "
                          f"{steps[0]['loss']:.3f} -> {steps[-1]['loss']:.3f} differs by {result[0]:.1e}, gradient norm "
                          f"by {result[1]:.1e}, final weights by {result[2]:.1e}", flush=True)
                    worst = {key: max(worst[key], value) for key, value in zip(worst, result)}
                    runs += 1
    print(f"trajectory: runs={runs} steps={STEPS} worst_relative={worst['loss']:.1e} grad_norm={worst['norm']:.1e} "
          f"weights={worst['weights']:.1e} bar={BAR:.0e}")
    return 0 if worst["loss"] <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

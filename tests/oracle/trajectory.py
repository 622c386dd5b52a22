"""Twenty training steps of the programs against the same steps in PyTorch, from the same initial weights.

    python trajectory.py [--quick]

Every case trains once in PyTorch (recipe.py, data.py, order.py: nothing of the C code) and several times through the
cluster: accumulation 1 and 4, one and two workers. Compared are the losses step by step; gradient norms and final
weights are shown beside them. Exit 1 when a loss is too far away (evidence/steps.py).
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
import steps  # noqa: E402


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
    dataset = data.Dataset(case["data"], case["captions"], case["choice"], text, seed, steps.HELD_OUT)
    batches = [[batch] for batch in dataset.steps(steps.STEPS, steps.BATCH, data.Look(case["vision"]))]
    t = steps.TRAIN
    made = recipe.train(captioner, batches, t["lr"], t["warmup_steps"], t["lr"] * t["floor"], clip=t["clip"],
                        decay=t["weight_decay"], alpha=steps.BALANCE, beta=steps.ROUTER_Z)
    return list(made), {n: p.detach() for n, p in captioner.trained()}


# -- through the cluster -------------------------------------------------------------------------


def final_weights(run):
    weights = {}
    for name in ("qformer", "projector"):
        weights |= load_file(os.path.join(run, "checkpoints/latest", name + ".safetensors"))
    return weights


def compare(expected_steps, expected_weights, found_steps, found_weights):
    """Relative differences of losses and gradient norms, the worst of each, and of the weights; counts must agree."""
    tokens = [s["tokens"] for s in expected_steps], [s["tokens"] for s in found_steps]
    if tokens[0] != tokens[1]:
        raise SystemExit(f"trajectory: expected {tokens[0]} label tokens, found {tokens[1]}")
    names = sorted(expected_weights)
    wanted = torch.cat([expected_weights[n].flatten() for n in names])
    gap = torch.cat([found_weights[n].flatten() for n in names]) - wanted
    return (steps.worst("loss", expected_steps, found_steps, "loss_nats"),
            steps.worst("grad_norm", expected_steps, found_steps, "grad_norm"), (gap.norm() / wanted.norm()).item())


def main():
    lib.build()
    torch.set_num_threads(1)
    worst, runs = [0.0, 0.0, 0.0], 0
    with lib.Workplace("trajectory") as place:
        found = cases(place)
        for seed, case in enumerate(found[:1] if "--quick" in sys.argv else found, 20):
            for projector in ("normal", "moe"):
                case = case | {"projector": projector}
                initial = place.path(f"initial-{case['name']}-{projector}")
                wanted, weights = expected(case, seed, initial)
                for workers, accumulation in steps.WORLDS:
                    result = compare(wanted, weights, *steps.train(place, case, seed, initial, workers, accumulation,
                                                                   final_weights))
                    print(f"{case['name']:5} {projector:6} workers={workers} accumulation={accumulation}: loss "
                          f"{wanted[0]['loss']:.3f} -> {wanted[-1]['loss']:.3f} differs by {result[0]:.1e}, gradient "
                          f"norm by {result[1]:.1e}, final weights by {result[2]:.1e}", flush=True)
                    worst = [max(pair) for pair in zip(worst, result)]
                    runs += 1
    print("trajectory: runs=%d steps=%d worst_relative=%.1e grad_norm=%.1e weights=%.1e bar=%.0e"
          % (runs, steps.STEPS, *worst, steps.BAR))
    return 0 if worst[0] <= steps.BAR else 1


if __name__ == "__main__":
    sys.exit(main())

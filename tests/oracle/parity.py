"""Holds the C model against transformers and PyTorch: features, pooled vectors, hidden states, logits, nll, gradients of
every trainable parameter, captions; and `blipren-worker score` on checkpoints that the programs trained.

    python parity.py MODEL_DUMP WORK [SHARED]

MODEL_DUMP: the program tests/tools/model_dump; WORK: a folder for what is made; SHARED: where data/models lies.
Prints the worst relative errors; exit 1 when one is over its bar.
"""

import json
import math
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

import make_models
import recipe
import scored

BARS = {"features": 1e-5, "routing": 1e-5, "hidden": 1e-5, "logits": 1e-5, "nll": 1e-5, "grad": 1e-4,
        "attention": 1e-5, "projected": 1e-5, "bf16": 3e-2, "bf16_nll": 1e-2, "score": 1e-5, "bf16_score": 1e-2}
IMAGES = 3


def relative(found, expected):
    """L2 norm of the difference over that of the reference."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def note(worst, kind, error, where):
    """Keeps the worst of a kind; what is not a number is worst of all."""
    error = math.inf if math.isnan(error) else error
    if error > worst.get(kind, (-1.0,))[0]:
        worst[kind] = (error, where)


def make_input(captioner, seed):
    """Random images and texts of several lengths: some tokens are masked, as a prefix is."""
    generator = torch.Generator().manual_seed(seed)
    size = captioner.vision.config.image_size
    vocabulary = captioner.llm.config.vocab_size
    pixels = torch.randint(0, 256, (IMAGES, size, size, 3), generator=generator, dtype=torch.uint8)
    texts = [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in (9, 1, 14)]
    labels = [[int(i >= 2 or len(t) == 1) for i in range(len(t))] for t in texts]
    prompts = [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in (2, 4, 3)]
    return pixels, texts, labels, prompts


def starts(lists):
    return torch.tensor([sum(len(t) for t in lists[:i]) for i in range(len(lists) + 1)], dtype=torch.int32)


def write_input(path, pixels, texts, labels, prompts):
    flat = lambda lists, dtype: torch.tensor([x for t in lists for x in t], dtype=dtype)
    save_file({"pixels": pixels, "ids": flat(texts, torch.int32), "ids_start": starts(texts),
               "labels": flat(labels, torch.uint8), "prompt": flat(prompts, torch.int32),
               "prompt_start": starts(prompts), "positions": torch.arange(len(texts), dtype=torch.int32)}, path)


def expected_captions(captioner, projected, prompts, max_new, beams):
    out, eos = [], captioner.llm.config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    for queries, prompt in zip(projected, prompts):
        x = captioner.inputs(queries, prompt)[0][None]
        ids = captioner.llm.generate(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2]), do_sample=False,
                                     num_beams=beams, max_new_tokens=max_new, pad_token_id=0, eos_token_id=eos,
                                     length_penalty=1.0, early_stopping=False)[0].tolist()
        ends = [i for i, t in enumerate(ids) if t in eos]
        ids = ids[: ends[0]] if ends else ids
        out.append(ids + [-1] * (max_new - len(ids)))
    return torch.tensor(out, dtype=torch.int32)


def expected_outputs(captioner, pixels, texts, labels, prompts, options):
    features, routing = captioner.see(pixels)
    with torch.no_grad():
        projected = captioner.project(features, routing)[0]
        per_text = [captioner.nll(q, t, m) for q, t, m in zip(projected, texts, labels)]
        attention = captioner.qformer.layers[-1].probs
    captioner.zero_grad()
    recipe.objective(captioner, [list(zip(pixels, texts, labels))])[0].backward()
    expected = {
        "features": features, "routing": routing, "projected": projected,
        "logits": torch.cat([p[1] for p in per_text]), "hidden": torch.cat([p[2] for p in per_text]),
        "nll": torch.stack([p[0].sum() for p in per_text]),
        "attention": attention[:, :, 1:] if captioner.vit else attention,
        "greedy": expected_captions(captioner, projected, prompts, options["max_new"], 1),
        "beam": expected_captions(captioner, projected, prompts, options["max_new"], options["beams"]),
    }
    return expected | {"grad." + name: p.grad for name, p in captioner.trained()}


def run_ours(dump, work, options):
    with open(f"{work}/options.json", "w") as file:
        json.dump(options, file)
    subprocess.run([dump, f"{work}/options.json", f"{work}/input.safetensors", f"{work}/output.safetensors"],
                   check=True)
    return load_file(f"{work}/output.safetensors")


def compare(found, expected, worst, where):
    """Worst relative error of each kind into worst[kind] = (error, where)."""
    for name, value in expected.items():
        kind = name.split(".")[0]
        if name not in found:
            if name == "routing":
                continue
            raise SystemExit(f"parity: {where}: {name} is missing")
        if kind in ("greedy", "beam"):
            error = float(not torch.equal(found[name], value))
        elif kind == "nll":
            error = ((found[name].double() - value.double()).abs() / value.double().abs()).max().item()
        else:
            error = relative(found[name], value)
        note(worst, kind, error, f"{where} {name}")


def nll_in_bf16(captioner, pixels, texts, labels):
    """Each text's, by PyTorch with frozen models in bf16 and the rest under autocast. Turns the captioner into that."""
    captioner.vision.bfloat16()
    captioner.llm.bfloat16()
    with torch.no_grad():
        features, routing = captioner.see(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            projected = captioner.project(features, routing)[0]
        return torch.stack([captioner.nll(q, t, m)[0].sum() for q, t, m in zip(projected.bfloat16(), texts, labels)])


def compare_bf16(found, expected, in_bf16, labels, worst, where):
    """A single token's nll moves by more than the bar with any rounding to bf16: there PyTorch's own error is the bar. What `score`
    reads has two at least, EOS being one."""
    for name in ("features", "hidden", "logits"):
        note(worst, "bf16", relative(found[name], expected[name]), f"{where} {name}")
    ours, own = ((nll - expected["nll"]).abs() / expected["nll"].abs() for nll in (found["nll"], in_bf16))
    for text, mask in enumerate(labels):
        if sum(mask) > 1:
            note(worst, "bf16_nll", ours[text].item(), f"{where} nll")
        else:
            note(worst, "bf16_one", ours[text].item(), f"{where} nll")
            note(worst, "torch_one", own[text].item(), f"{where} nll")


def cases(folder, shared):
    vision = [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.startswith(("siglip", "vit"))]
    llm = [f"{folder}/{name}" for name in sorted(os.listdir(folder)) if name.startswith("llama")]
    if shared:
        vision += [f"{shared}/data/models/vit-tiny-patch16-224-tinyimagenet"]
        llm += [f"{shared}/data/models/{name}" for name in ("TinyStories-656K", "TinyStories-656K-f32",
                                                            "stories260K/hf")]
    # Every shape's pooled vector is seen, and the other routings with a SigLIP and with a ViT.
    routings = ("pooled", "mean", "pooled", "pooled", "first", "mean", "pooled")
    bos = ("first", "after_image", "none")
    for i in range(max(len(vision), len(llm))):
        for j, projector in enumerate(("normal", "moe")):
            wide = "wide" in llm[(i + j) % len(llm)]
            yield {"vision": vision[i % len(vision)], "llm": llm[(i + j) % len(llm)], "projector": projector,
                   "experts": 2 + i % 3, "routing": routings[i % len(routings)], "bos": bos[(i + j) % 3], "bos_id": 1,
                   "width": 0 if wide or i % 2 else 24, "queries": 3 + i % 4, "layers": 1 + i % 3, "heads": 2 if i % 2 else 3,
                   "threads": 1 + j, "max_new": 12, "beams": 3}


def main():
    dump, work = sys.argv[1], sys.argv[2]
    shared = sys.argv[3] if len(sys.argv) > 3 else None
    torch.set_num_threads(2)
    os.makedirs(f"{work}/models", exist_ok=True)
    make_models.make_vision(f"{work}/models")
    make_models.make_llm(f"{work}/models")
    worst, count = {}, 0
    for options in cases(f"{work}/models", shared):
        torch.manual_seed(count)
        if options["width"] == 0:
            with open(f"{options['llm']}/config.json") as file:
                width = json.load(file)["hidden_size"]
            options["heads"] = next(h for h in (5, 4, 3, 2, 1) if width % h == 0)
        captioner = recipe.Captioner(options)
        options["weights"] = f"{work}/weights"
        captioner.save(options["weights"])
        batch = make_input(captioner, count)
        write_input(f"{work}/input.safetensors", *batch)
        expected = expected_outputs(captioner, *batch, options)
        where = f"{os.path.basename(options['vision'])} + {os.path.basename(options['llm'])} {options['projector']}:"
        compare(run_ours(dump, work, options | {"precision": "f32"}), expected, worst, where)
        compare_bf16(run_ours(dump, work, options | {"precision": "bf16"}), expected, nll_in_bf16(captioner, *batch[:3]),
                     batch[2], worst, where)
        count += 1
    for kind, error, where in scored.errors():
        note(worst, kind, error, f"{where}: blipren-worker score")
    bad, bars = 0, BARS | {"bf16_one": worst["torch_one"][0], "torch_one": math.inf}
    for kind, (error, where) in worst.items():
        bar = bars.get(kind, 0.0)
        print(f"{kind:10} {error:.2e} (bar {bar:.0e}) at {where}{'' if error <= bar else '   <-- over its bar'}")
        bad += error > bar
    figures = " ".join(f"{kind}={worst[kind][0]:.1e}" for kind in ("features", "routing", "hidden", "logits", "nll",
                                                                   "grad", "bf16", "bf16_nll", "bf16_one", "torch_one", "score",
                                                                   "bf16_score"))
    print(f"parity: cases={count} {figures} captions={'equal' if not worst['greedy'][0] + worst['beam'][0] else 'differ'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

"""The measuring part of tests/bench/step_bench.

Usage: step_bench.py STEP_SPEED WORK COMMIT ROUNDS

PyTorch's form is the fastest that needs no compilation: f32, SDPA, the texts of a batch padded to the longest, the
encoder without gradients, the head on label rows only.
"""

import json
import os
import subprocess
import sys
import time

import torch
from torch import nn

import parity
import recipe

SHAPES = {
    "demo": {
        "vision": dict(hidden_size=128, intermediate_size=512, num_hidden_layers=5, num_attention_heads=4,
                       image_size=64, patch_size=8),
        "llm": dict(vocab_size=485, hidden_size=192, intermediate_size=512, num_hidden_layers=4,
                    num_attention_heads=6, num_key_value_heads=6),
        "queries": 12, "layers": 2, "heads": 6, "images": 32, "tokens": (18, 28), "max_new": 24,
    },
    "siglip-base-224+smollm2-135m": {
        "vision": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                       image_size=224, patch_size=16),
        "llm": dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                    num_attention_heads=9, num_key_value_heads=3),
        "queries": 32, "layers": 8, "heads": 8, "images": 8, "tokens": (30, 60), "max_new": 16,
    },
}
PROMPT = 3


def make_folders(shape, work):
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(1)
    SiglipVisionModel(SiglipVisionConfig(**shape["vision"])).save_pretrained(f"{work}/vision")
    LlamaForCausalLM(LlamaConfig(**shape["llm"], tie_word_embeddings=True, bos_token_id=1,
                                 eos_token_id=2)).save_pretrained(f"{work}/llm")


def make_batch(shape):
    g = torch.Generator().manual_seed(2)
    size, vocabulary, count = shape["vision"]["image_size"], shape["llm"]["vocab_size"], shape["images"]
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=g, dtype=torch.uint8)
    lengths = torch.randint(*shape["tokens"], (count,), generator=g).tolist()
    texts = [torch.randint(3, vocabulary, (n,), generator=g).tolist() for n in lengths]
    labels = [[int(i >= PROMPT) for i in range(n)] for n in lengths]
    return pixels, texts, labels, [t[:PROMPT] for t in texts]


class Reference:
    def __init__(self, captioner, batch):
        self.c, (pixels, texts, labels, _) = captioner, batch
        self.pixels, queries = pixels, captioner.options["queries"]
        longest = max(len(t) for t in texts)
        self.ids = torch.zeros(len(texts), longest, dtype=torch.long)
        self.mask = torch.zeros(len(texts), queries + longest, dtype=torch.long)
        rows, wanted = [], []
        for b, (text, label) in enumerate(zip(texts, labels)):
            self.ids[b, : len(text)] = torch.tensor(text)
            self.mask[b, : queries + len(text)] = 1
            rows += [b * (queries + longest) + queries + i - 1 for i, m in enumerate(label) if m]
            wanted += [t for t, m in zip(text, label) if m]
        self.rows, self.wanted = torch.tensor(rows), torch.tensor(wanted)

    def vision(self):
        self.features, self.routing = self.c.see(self.pixels)

    def loss(self):
        queries = self.c.project(self.features, self.routing)[0]
        x = torch.cat([queries, self.c.llm.get_input_embeddings()(self.ids)], 1)
        h = self.c.llm.model(inputs_embeds=x, attention_mask=self.mask, use_cache=False).last_hidden_state
        logits = self.c.llm.lm_head(h.flatten(0, 1)[self.rows])
        return nn.functional.cross_entropy(logits, self.wanted, reduction="sum")

    def step(self):
        for _, p in self.c.trained():
            p.grad = None
        loss = self.loss()
        loss.backward()
        self.nll = loss.item()

    def score(self):
        with torch.no_grad():
            self.loss()

    def captions(self):
        with torch.no_grad():
            queries = self.c.project(self.features, self.routing)[0]
            x = torch.cat([queries, self.c.llm.get_input_embeddings()(self.ids[:, :PROMPT])], 1)
            self.c.llm.generate(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2]), do_sample=False,
                                max_new_tokens=self.c.options["max_new"], eos_token_id=None, pad_token_id=0)


def processor_name():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), "unknown")


def measure(name, shape, program, work, commit, rounds):
    make_folders(shape, work)
    options = {"vision": f"{work}/vision", "llm": f"{work}/llm", "weights": f"{work}/weights", "projector": "normal",
               "bos_id": -1, **{k: shape[k] for k in ("queries", "layers", "heads", "max_new")}}
    captioner = recipe.Captioner(options)
    captioner.save(options["weights"])
    batch = make_batch(shape)
    parity.write_input(f"{work}/input.safetensors", *batch)
    with open(f"{work}/options.json", "w") as file:
        json.dump(options, file)
    ours = json.loads(subprocess.run([program, f"{work}/options.json", f"{work}/input.safetensors", str(rounds)],
                                     check=True, stdout=subprocess.PIPE).stdout)
    reference = Reference(captioner, batch)
    result = {"bench": "step", "shape": name, "images": shape["images"], "tokens": len(reference.wanted)}
    for part in ("vision", "step", "score", "captions"):
        best = 1e30
        for _ in range(rounds):
            start = time.process_time()
            getattr(reference, part)()
            best = min(best, time.process_time() - start)
        result[part] = {"blipren_s": ours[part], "pytorch_s": round(best, 4), "faster": round(best / ours[part], 2)}
    error = abs(ours["nll"] / reference.nll - 1)
    result |= {"loss_error": float(f"{error:.1e}"), "peak_mb": ours["peak_mb"], "threads": 1, "precision": "f32",
               "machine": processor_name(), "commit": commit}
    print(json.dumps(result), flush=True)
    return error < 1e-4


def main():
    program, work, commit, rounds = sys.argv[1:]
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it
    return 0 if all([measure(name, shape, program, work, commit, int(rounds)) for name, shape in SHAPES.items()]) else 1


if __name__ == "__main__":
    sys.exit(main())

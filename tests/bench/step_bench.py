"""The measuring part of tests/bench/step_bench.

Usage: step_bench.py STEP_SPEED WORK COMMIT ROUNDS SHAPE

PyTorch's form is the fastest that needs no compilation: SDPA, the texts of a batch padded to the longest, the encoder
without gradients, the head on label rows only; in bf16 the frozen models are bf16 themselves, what is trained runs under
autocast with f32 masters, and the loss is f32.
"""

import json
import statistics
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
        "llm_file": torch.float32,
        "queries": 12, "layers": 2, "heads": 6, "images": 32, "tokens": (18, 28), "max_new": 24,
    },
    "siglip-base-224+smollm2-135m": {
        "vision": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                       image_size=224, patch_size=16),
        "llm": dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                    num_attention_heads=9, num_key_value_heads=3),
        "llm_file": torch.bfloat16,  # as SmolLM2's files are, and SigLIP's are not
        "queries": 32, "layers": 8, "heads": 8, "images": 8, "tokens": (30, 60), "max_new": 16,
    },
}
PROMPT = 3
PARTS = ("vision", "step", "score", "captions")
LOSS_BARS = {"f32": 1e-4, "bf16": 1e-2}  # against PyTorch in f32


def make_folders(shape, work):
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(1)
    SiglipVisionModel(SiglipVisionConfig(**shape["vision"])).save_pretrained(f"{work}/vision")
    LlamaForCausalLM(LlamaConfig(**shape["llm"], tie_word_embeddings=True, bos_token_id=1,
                                 eos_token_id=2)).to(shape["llm_file"]).save_pretrained(f"{work}/llm")


def make_batch(shape):
    g = torch.Generator().manual_seed(2)
    size, vocabulary, count = shape["vision"]["image_size"], shape["llm"]["vocab_size"], shape["images"]
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=g, dtype=torch.uint8)
    lengths = torch.randint(*shape["tokens"], (count,), generator=g).tolist()
    texts = [torch.randint(3, vocabulary, (n,), generator=g).tolist() for n in lengths]
    labels = [[int(i >= PROMPT) for i in range(n)] for n in lengths]
    return pixels, texts, labels, [t[:PROMPT] for t in texts]


class Reference:
    """PyTorch's parts. bf16 changes the captioner: f32 comes first."""

    def __init__(self, captioner, batch, precision):
        self.c, (pixels, texts, labels, _) = captioner, batch
        self.bf16 = precision == "bf16"
        if self.bf16:
            captioner.vision.bfloat16()
            captioner.llm.bfloat16()
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

    def queries(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            queries = self.c.project(self.features, self.routing)[0]
        return queries.to(self.c.llm.dtype)

    def loss(self):
        queries = self.queries()
        x = torch.cat([queries, self.c.llm.get_input_embeddings()(self.ids)], 1)
        h = self.c.llm.model(inputs_embeds=x, attention_mask=self.mask, use_cache=False).last_hidden_state
        logits = self.c.llm.lm_head(h.flatten(0, 1)[self.rows])
        return nn.functional.cross_entropy(logits.float(), self.wanted, reduction="sum")

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
            queries = self.queries()
            x = torch.cat([queries, self.c.llm.get_input_embeddings()(self.ids[:, :PROMPT])], 1)
            self.c.llm.generate(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2]), do_sample=False,
                                max_new_tokens=self.c.options["max_new"], eos_token_id=None, pad_token_id=0)


def processor_name():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), "unknown")


def processor_has_bf16():
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return "avx512_bf16" in file.read()


def peak_memory_mb():
    """Since the last start_peak."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) // 1024


def start_peak():
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def timed(run):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


class Program:
    """A program that runs a part when told its name, and answers with a line of JSON."""

    def __init__(self, command):
        self.name = command[0]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, part):
        print(part, file=self.process.stdin, flush=True)
        self.last = json.loads(self.process.stdout.readline())
        return self.last

    def close(self):
        self.process.stdin.close()
        if self.process.wait():
            raise SystemExit(f"step_bench: {self.name} failed")


def open_ours(program, options, work):
    path = f"{work}/options-{options['precision']}.json"
    with open(path, "w") as file:
        json.dump(options, file)
    return Program([program, path, f"{work}/input.safetensors"])


def open_captioner(shape, work):
    return recipe.Captioner({"vision": f"{work}/vision", "llm": f"{work}/llm", "weights": f"{work}/weights", "projector": "normal",
                             "bos_id": -1, **{k: shape[k] for k in ("queries", "layers", "heads", "max_new")}})


def compare(ours, reference, rounds):
    """Medians of every part: processor seconds of all threads, which others' use of the machine stretches little, and seconds
    by the clock. The first round is warm-up."""
    spent = {part: ([], []) for part in PARTS}
    for _ in range(rounds + 1):
        for part in PARTS:
            spent[part][0].append(ours.run(part))
            spent[part][1].append(timed(getattr(reference, part)))
    result = {}
    for part in PARTS:
        result[part] = {}
        for clock in ("cpu_s", "wall_s"):
            a, b = (statistics.median(times[clock] for times in side[1:]) for side in spent[part])
            result[part][clock] = {"blipren": round(a, 4), "pytorch": round(b, 4), "faster": round(b / a, 2)}
    return result


def measure(name, shape, program, work, commit, rounds):
    make_folders(shape, work)
    captioner = open_captioner(shape, work)
    options = captioner.options
    captioner.save(options["weights"])
    batch = make_batch(shape)
    parity.write_input(f"{work}/input.safetensors", *batch)
    good = True
    for precision in ("f32", "bf16") if processor_has_bf16() else ("f32",):
        reference = Reference(captioner, batch, precision)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = open_ours(program, {**options, "threads": threads, "precision": precision}, work)
            start_peak()
            times = compare(ours, reference, rounds)
            ours.close()
            exact = reference.nll if precision == "f32" else exact
            error = abs(ours.last["nll"] / exact - 1)
            good = good and error < LOSS_BARS[precision]
            print(json.dumps({
                "bench": "step", "shape": name, "precision": precision, "threads": threads,
                **times, "loss_error": float(f"{error:.1e}"),
                "pytorch_loss_error": float(f"{abs(reference.nll / exact - 1):.1e}"), "peak_mb": ours.last["peak_mb"],
                "pytorch_peak_mb": peak_memory_mb(), "images": shape["images"], "tokens": len(reference.wanted),
                "machine": processor_name(), "commit": commit}), flush=True)
    return good


def main():
    program, work, commit, rounds, only = sys.argv[1:]
    shapes = {name: shape for name, shape in SHAPES.items() if only in name}
    return 0 if all([measure(name, shape, program, work, commit, int(rounds)) for name, shape in shapes.items()]) else 1


if __name__ == "__main__":
    sys.exit(main())

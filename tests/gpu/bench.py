"""Training steps at SigLIP-so400m/384 + Llama-3.2-1B shapes with random weights: ours and PyTorch's.

    python bench.py TRAIN_SPEED MODELS DEVICE OUT

MODELS: a folder for what is made. One step: pixels of 32 images through the frozen tower, Q-Former and projector with dropout 0.1,
frozen LLM, loss on label rows, backward, clipping, AdamW. TFLOP/s by the reference count of 1.42 TFLOP an image, whatever the form.
PyTorch: frozen models in bf16, the rest under autocast with f32 masters, SDPA, texts padded to the longest, fused AdamW.
BLIPREN_BENCH=small makes small models, to try the script itself.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time

import torch
from safetensors.torch import save_file
from torch import nn

SMALL = os.environ.get("BLIPREN_BENCH") == "small"
IMAGES, TFLOP_AN_IMAGE, DROPOUT = (4 if SMALL else 32), 1.42, 0.1
VISION = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384, patch_size=14,
              hidden_act="gelu_pytorch_tanh")
LLM = dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
           num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=True,
           bos_token_id=128000, eos_token_id=128001,
           rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                original_max_position_embeddings=8192))
if SMALL:
    VISION |= dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=56)
    LLM |= dict(vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, bos_token_id=1, eos_token_id=2)
QUERIES, LAYERS, HEADS = (4, 2, 2) if SMALL else (32, 8, 8)
STEPS, WARMUP = (2, 1) if SMALL else (20, 4)
on = "cuda" if torch.cuda.is_available() else "cpu"


def make(models):
    from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

    os.makedirs(models, exist_ok=True)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(on):
        vision = SiglipVisionModel(SiglipVisionConfig(**VISION)).eval().requires_grad_(False)
        llm = LlamaForCausalLM(LlamaConfig(**LLM)).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    vision.save_pretrained(f"{models}/vision")
    llm.save_pretrained(f"{models}/llm")
    generator = torch.Generator().manual_seed(2)
    size, vocabulary = VISION["image_size"], LLM["vocab_size"]
    pixels = torch.randint(0, 256, (IMAGES, size, size, 3), generator=generator, dtype=torch.uint8)
    lengths = torch.randint(30, 60, (IMAGES,), generator=generator).tolist()
    texts = [torch.randint(3, vocabulary - 300 if vocabulary > 1000 else vocabulary, (n,), generator=generator).tolist()
             for n in lengths]
    labels = [[int(i >= 3) for i in range(n)] for n in lengths]
    flat = lambda lists, dtype: torch.tensor([x for t in lists for x in t], dtype=dtype)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    save_file({"pixels": pixels, "ids": flat(texts, torch.int32), "ids_start": starts, "labels": flat(labels, torch.uint8),
               "prompt": flat([t[:3] for t in texts], torch.int32),
               "prompt_start": torch.arange(0, 3 * IMAGES + 1, 3, dtype=torch.int32),
               "positions": torch.arange(IMAGES, dtype=torch.int32)}, f"{models}/input.safetensors")
    for projector in ("normal", "moe"):
        options = {"vision": f"{models}/vision", "llm": f"{models}/llm", "projector": projector, "experts": 4, "routing": "mean",
                   "queries": QUERIES, "layers": LAYERS, "heads": HEADS, "dropout": DROPOUT, "precision": "bf16",
                   "device": sys.argv[3]}
        with open(f"{models}/{projector}.json", "w") as file:
            json.dump(options, file)
    return vision, llm, (pixels, texts, labels)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.q, self.kv, self.out, self.heads = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width), heads

    def forward(self, q, v):
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(v).chunk(2, -1)
        x = nn.functional.scaled_dot_product_attention(split(self.q(q)), split(k), split(v), dropout_p=DROPOUT)
        return self.out(x.transpose(1, 2).flatten(2))


def mlp(width):
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(4 * width, width),
                         nn.Dropout(DROPOUT))


class Trained(nn.Module):
    """Q-Former and normal projector."""

    def __init__(self, vision_width, width):
        super().__init__()
        norm = lambda: nn.LayerNorm(width)
        self.query, self.vis = nn.Parameter(torch.randn(QUERIES, width)), nn.Linear(vision_width, width)
        self.blocks = nn.ModuleList(nn.ModuleList([norm(), Attention(width, HEADS), norm(), Attention(width, HEADS), norm(),
                                                   mlp(width)]) for _ in range(LAYERS))
        self.final, self.ln1, self.mlp, self.ln2 = norm(), norm(), mlp(width), norm()

    def forward(self, features):
        v, q = self.vis(features), self.query.expand(len(features), -1, -1)
        for ln1, own, ln2, cross, ln3, feed in self.blocks:
            a = ln1(q)
            q = q + own(a, a)
            q = q + cross(ln2(q), ln2(v))
            q = q + feed(ln3(q))
        q = self.final(q)
        return self.ln2(q + self.mlp(self.ln1(q)))


class Reference:
    def __init__(self, vision, llm, batch):
        self.vision, self.llm = vision, llm
        pixels, texts, labels = batch
        self.pixels = pixels
        longest = max(len(t) for t in texts)
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        mask = torch.zeros(len(texts), QUERIES + longest, dtype=torch.long)
        rows, wanted = [], []
        for b, (text, label) in enumerate(zip(texts, labels)):
            ids[b, : len(text)] = torch.tensor(text)
            mask[b, : QUERIES + len(text)] = 1
            rows += [b * (QUERIES + longest) + QUERIES + i - 1 for i, m in enumerate(label) if m]
            wanted += [t for t, m in zip(text, label) if m]
        self.ids, self.mask = ids.to(on), mask.to(on)
        self.rows, self.wanted = torch.tensor(rows).to(on), torch.tensor(wanted).to(on)
        torch.manual_seed(3)
        self.trained = Trained(VISION["hidden_size"], LLM["hidden_size"]).to(on)
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=1e-4, fused=on == "cuda")
        self.see, self.read = self.vision, self.llm.model

    def compile(self):
        self.see, self.read = torch.compile(self.vision), torch.compile(self.llm.model)
        self.trained = torch.compile(self.trained)

    def step(self):
        x = self.pixels.to(on, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            features = self.see(x.bfloat16()).last_hidden_state
        with torch.autocast(on, torch.bfloat16):
            queries = self.trained(features)
        x = torch.cat([queries.bfloat16(), self.llm.get_input_embeddings()(self.ids)], 1)
        h = self.read(inputs_embeds=x, attention_mask=self.mask, use_cache=False).last_hidden_state
        logits = self.llm.lm_head(h.flatten(0, 1)[self.rows])
        loss = nn.functional.cross_entropy(logits.float(), self.wanted, reduction="sum") / len(self.wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def measure(self, steps, warmup):
        for _ in range(warmup):
            self.step()
        spent = []
        for _ in range(steps):
            wait()
            start = time.perf_counter()
            loss = self.step()
            wait()
            spent.append(time.perf_counter() - start)
        return spent, loss.item()


def wait():
    if on == "cuda":
        torch.cuda.synchronize()


def row(name, spent, peak_mb, cached=False):
    s = statistics.median(spent)
    rate = "" if cached else f"{IMAGES * TFLOP_AN_IMAGE / s:.0f}"
    print(f"| {name} | {1000 * s:.1f} | {1000 * min(spent):.1f}-{1000 * max(spent):.1f} | {IMAGES / s:.0f} | {rate} | "
          f"{peak_mb / 1024:.1f} |", flush=True)
    return s


def ours(program, models, projector, form):
    result = subprocess.run([program, f"{models}/{projector}.json", f"{models}/input.safetensors", str(WARMUP), str(STEPS),
                             *([form] if form else [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        print(f"train_speed {projector}: rc={result.returncode}: {result.stdout[-600:]}", flush=True)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def over(*_):
    raise TimeoutError("not compiled in 70 s")


def main():
    program, models, _, out = sys.argv[1:5]
    started = time.time()
    vision, llm, batch = make(models)
    reference = Reference(vision, llm, batch)
    print(f"made the models in {time.time() - started:.0f} s", flush=True)
    if on == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent, loss = reference.measure(STEPS, WARMUP)
    own_peak = torch.cuda.max_memory_reserved() / 2**20 if on == "cuda" else 0
    lines = {"pytorch": spent}
    print("| form | ms a step | spread | images/s | TFLOP/s | GiB |\n| --- | --- | --- | --- | --- | --- |")
    theirs = row("PyTorch, bf16 autocast, SDPA", spent, own_peak)
    kept = (vision.cpu(), llm.cpu())
    reference.trained = reference.optimizer = None
    if on == "cuda":
        torch.cuda.empty_cache()
    good, figures = True, []
    words = {"": "", "cached": ", cached features", "within": ", each tower within its step", "fixed": ", algorithms as train.reproducible has them"}
    for projector, form in (("normal", ""), ("normal", "within"), ("normal", "cached"), ("moe", ""), ("normal", "fixed")):
        result = ours(program, models, projector, form)
        if not result:
            good = False
            continue
        lines[f"{projector}{'-' if form else ''}{form}"] = result
        figures.append(row(f"BLIPren, {projector}{words[form]}", result["step_s"], result["peak_mb"], form == "cached"))
        print(f"{projector}: loss {result['losses'][0]:.4f} -> {result['losses'][-1]:.4f}, opened in {result['open_s']} s", flush=True)
        good = good and result["losses"][-1] < result["losses"][0]
    if figures:
        print(f"normal: {theirs / figures[0]:.2f} times PyTorch's speed; loss of PyTorch's own weights after its steps {loss:.4f}")
    with open(f"{out}/bench.json", "w") as file:
        json.dump(lines, file)
    if not SMALL and on == "cuda" and time.time() - started < 130:
        vision, llm = (m.to(on) for m in kept)
        reference = Reference(vision, llm, batch)
        signal.signal(signal.SIGALRM, over)
        signal.alarm(70)
        try:
            reference.compile()
            row("PyTorch, torch.compile", reference.measure(STEPS, WARMUP)[0], torch.cuda.max_memory_reserved() / 2**20)
        except Exception as e:  # the table above stands without it
            print(f"PyTorch, torch.compile: none: {type(e).__name__} {str(e)[:200]}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

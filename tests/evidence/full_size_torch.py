"""The other side of tests/evidence/full-size: a training step in PyTorch at the same shapes.

Usage: full_size_torch.py VISION LLM TOKENS bf16|f32

Its fastest form that needs no compilation: the frozen models in bf16 (f32 where the processor has none), SDPA, the encoder
without gradients, what is trained under autocast with f32 masters, the head on label rows only, fused AdamW. A step is two
micro-batches of 2 images with TOKENS label tokens each, clipping and the update. One warm-up step, then three.
"""
import json
import os
import resource
import sys
import time

import torch
from torch import nn

import recipe

PROMPT = 4


def open_captioner(vision, llm, bf16):
    dtype = torch.bfloat16 if bf16 else torch.float32
    open_vision, open_llm = recipe.open_vision, recipe.open_llm
    # never in f32 first: that alone would take the machine's memory
    recipe.open_vision = lambda folder: open_vision(folder, dtype)
    recipe.open_llm = lambda folder: open_llm(folder, dtype)
    return recipe.Captioner(dict(vision=vision, llm=llm, queries=32, layers=8, heads=8, projector="normal", bos_id=-1))


class Fast(nn.Module):
    """Attention without its probabilities, which only pictures need: SDPA may take its fast path."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, q, kv):
        return nn.MultiheadAttention.forward(self.attention, q, kv, kv, need_weights=False)[0], None


def loss_sum(c, pixels, ids, bf16):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features, image = c.see(pixels)
        queries = c.project(features, image)[0].to(c.llm.dtype)
    x = torch.cat([queries, c.llm.get_input_embeddings()(ids)], 1)
    h = c.llm.model(inputs_embeds=x, use_cache=False).last_hidden_state
    first = queries.shape[1] + PROMPT
    logits = c.llm.lm_head(h[:, first - 1:-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, PROMPT:].flatten(), reduction="sum")


def main():
    vision, llm, tokens, precision = sys.argv[1:]
    bf16, tokens = precision == "bf16", int(tokens)
    torch.manual_seed(1)
    torch.set_num_threads(os.cpu_count())
    c = open_captioner(vision, llm, bf16)
    for layer in c.qformer.layers:
        layer.self_attn, layer.cross_attn = Fast(layer.self_attn), Fast(layer.cross_attn)
    parameters = [p for _, p in c.trained()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.01, fused=True)
    pixels = torch.randint(0, 256, (2, 384, 384, 3), dtype=torch.uint8)
    ids = torch.randint(3, 480, (2, PROMPT + tokens))
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        optimizer.zero_grad()
        for _ in range(2):
            loss_sum(c, pixels, ids, bf16).backward()
        for p in parameters:
            p.grad /= 4 * tokens
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    form = "%s, SDPA, fused AdamW, torch %s" % ("bf16 and autocast" if bf16 else "f32", torch.__version__)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"form": form, "steps": seconds[1:], "peak": peak}))


main()

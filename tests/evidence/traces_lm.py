#!/usr/bin/env python3
"""tests/evidence/traces_lm.py SCENES OUT STEPS - the demo's language model, taught to reason: for a while longer it is trained on its own
texts (deploy/demo/train_lm.py), with the short caption as a trace before the long one. Writes a Hugging Face folder."""
import importlib.util
import os
import shutil
import sys

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

BATCH = 16
DEMO = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "deploy/demo")
spec = importlib.util.spec_from_file_location("train_lm", os.path.join(DEMO, "train_lm.py"))
train_lm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_lm)


def main():
    scenes, out, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    folder = os.path.join(DEMO, "models/llm")
    torch.set_num_threads(1)
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(5)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    train_lm.PREFIXES = {"reasoned": "Long caption:", "again": "Long caption:"}  # it draws one of two
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 - 0.9 * s / steps)
    lines = train_lm.scene_lines(scenes, "train", 21, steps * BATCH)
    for step in range(1, steps + 1):
        batch = [next(lines) for _ in range(BATCH)]
        for scene in batch:
            scene["reasoned"] = scene["again"] = "<think>\n%s\n</think>\n\n%s" % (scene["short_caption"], scene["caption"])
        ids, labels, facts = train_lm.batch_of(tokenizer, batch, generator)
        embedded = model.model.embed_tokens(ids)
        embedded = embedded + train_lm.NOISE * facts[..., None] * torch.randn(embedded.shape, generator=generator)
        loss = F.cross_entropy(model(inputs_embeds=embedded).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print("step %d/%d loss %.4f" % (step, steps, loss.item()), flush=True)
    model.to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(folder, name), out)


main()

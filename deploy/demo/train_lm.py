#!/usr/bin/env python3
"""Trains deploy/demo/models/llm: a byte-level BPE tokenizer and a small LlamaForCausalLM, on text alone.

The text: a line of facts (" two red circle small one blue ring large left striped brown"), then a prefix ("Short
caption:" or "Long caption:") and the caption of that length, then EOS; the loss is on caption and EOS. A sixth of the
captions come without facts. So the LM learns to write captions, and to read what stands before them; some noise on
the embedded facts makes it read vectors that are near a word's, not only the words'. The scenes are those of split
"train" (see scene.h), as text; the last line printed is the share of captions of split "held-out" that
blipren-demo-judge calls right when written from their facts.

usage: train_lm.py --scenes PROGRAM --judge PROGRAM --out DIR [--steps N] [--seed S] [--threads T]
"""
import argparse
import json
import math
import os
import subprocess
import tempfile
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

EOS = "<|endoftext|>"
PREFIXES = {"short_caption": "Short caption:", "caption": "Long caption:"}
NUMBERS = ["none", "one", "two", "three", "four"]
WITHOUT_FACTS = 1 / 6
NOISE = 0.4  # standard deviation, the embeddings' own being 1 at the start


def scene_lines(program, split, seed, count):
    """Yields the generator's metadata, one dict per scene."""
    command = [program, "--text", "--count", str(count), "--seed", str(seed), "--split", split]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield json.loads(line)


def facts_of(scene):
    words = []
    for group in scene["groups"]:
        words += [NUMBERS[group["count"]], group["colour"], group["shape"], group["size"]]
    words += [scene["relation"], scene["background"]["texture"], scene["background"]["tone"]]
    return "".join(" " + word for word in words)


def train_tokenizer(program, out):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=[EOS], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    scenes = list(scene_lines(program, "train", 3, 4000))
    text = [f"{prefix} {scene[column]}" for scene in scenes for column, prefix in PREFIXES.items()]
    tokenizer.train_from_iterator(text + [facts_of(scene) for scene in scenes], trainer)
    os.makedirs(out, exist_ok=True)
    tokenizer.save(f"{out}/tokenizer.json")
    with open(f"{out}/tokenizer_config.json", "w") as file:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "add_prefix_space": False,
                   "clean_up_tokenization_spaces": False, "model_max_length": 256}, file, indent=2)
        file.write("\n")
    return tokenizer


def new_model(tokenizer):
    eos = tokenizer.token_to_id(EOS)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=384,
                         num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
                         max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
                         eos_token_id=eos, pad_token_id=None)
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight)  # what a projector that ends in a layer norm gives
    return model


def batch_of(tokenizer, scenes, generator):
    """ids (B, T), labels (B, T) with -100 where there is no loss, facts (B, T): whether a position holds a fact."""
    ids, labels, facts = [], [], []
    eos = tokenizer.token_to_id(EOS)
    for scene in scenes:
        column = list(PREFIXES)[torch.randint(2, (1,), generator=generator).item()]
        told = torch.rand(1, generator=generator).item() >= WITHOUT_FACTS
        fact = tokenizer.encode(facts_of(scene)).ids if told else []
        start = len(tokenizer.encode(PREFIXES[column]).ids)
        text = tokenizer.encode(f"{PREFIXES[column]} {scene[column]}").ids + [eos]
        ids.append(fact + text)
        labels.append([-100] * (len(fact) + start) + text[start:])
        facts.append([1.0] * len(fact) + [0.0] * len(text))
    length = max(map(len, ids))
    pad = lambda rows, fill: torch.tensor([row + [fill] * (length - len(row)) for row in rows])
    return pad(ids, eos), pad(labels, -100), pad(facts, 0.0)


@torch.no_grad()
def written_right(model, tokenizer, program, judge, count):
    """What the judge prints on greedy captions of held-out scenes, half of them short, written from their facts."""
    eos = tokenizer.token_to_id(EOS)
    with tempfile.TemporaryDirectory() as folder:
        scenes = list(scene_lines(program, "held-out", 98, count))
        with open(f"{folder}/truth.jsonl", "w") as file:
            file.writelines(json.dumps(scene) + "\n" for scene in scenes)
        with open(f"{folder}/captions.jsonl", "w") as file:
            for i, scene in enumerate(scenes):
                prefix = list(PREFIXES.values())[i % 2]
                ids = tokenizer.encode(facts_of(scene)).ids + tokenizer.encode(prefix).ids
                out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=64,
                                     do_sample=False, pad_token_id=eos)[0, len(ids):].tolist()
                ended = eos in out
                out = out[:out.index(eos)] if ended else out
                line = {"file_name": scene["file_name"], "caption": tokenizer.decode(out).strip(), "token_ids": out,
                        "ended": ended}
                file.write(json.dumps(line) + "\n")
        command = [judge, "--truth", f"{folder}/truth.jsonl", "--captions", f"{folder}/captions.jsonl"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    tokenizer = train_tokenizer(args.scenes, args.out)
    model = new_model(tokenizer)
    print("vocabulary", tokenizer.get_vocab_size(), "parameters", sum(p.numel() for p in model.parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), args.rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 50, 0.51 + 0.49 * math.cos(math.pi * s / args.steps)))
    lines = scene_lines(args.scenes, "train", args.seed, args.steps * args.batch)
    start, running = time.time(), 0.0
    for step in range(1, args.steps + 1):
        ids, labels, facts = batch_of(tokenizer, [next(lines) for _ in range(args.batch)], generator)
        embedded = model.model.embed_tokens(ids)
        embedded = embedded + NOISE * facts[..., None] * torch.randn(embedded.shape, generator=generator)
        logits = model(inputs_embeds=embedded).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step}/{args.steps} loss {running / 100:.4f} seconds {time.time() - start:.0f}", flush=True)
            running = 0.0
    model.to(torch.bfloat16).save_pretrained(args.out)
    model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    print(written_right(model, tokenizer, args.scenes, args.judge, 1000))


if __name__ == "__main__":
    main()

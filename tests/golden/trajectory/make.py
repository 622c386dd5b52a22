#!/usr/bin/env python3
"""Twenty steps of training in PyTorch on models of a few thousand weights, for tests/e2e/trajectory_test.py.

    $(tests/oracle/venv.sh) tests/golden/trajectory/make.py

Writes beside itself: vision/ and llm/ (frozen, random), data/ (small pictures, one of them cut short), initial-…/ (the
weights both sides start from) and expected.json (loss, gradient norm and label tokens of every step, by tests/oracle).
"""

import json
import os
import random
import shutil
import sys

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../oracle"))

import make_models  # noqa: E402
import trajectory  # noqa: E402

SEED = 7
CASE = {"data": "data", "vision": "vision", "llm": "llm", "captions": [["short", "Short caption:"], ["long", "Caption: "]],
        "choice": "any", "bos": "first", "width": 18, "queries": 3, "layers": 1, "heads": 3, "experts": 3,
        "routing": "pooled"}


def make_pictures(folder, draw):
    os.makedirs(folder)
    noise = np.random.default_rng(SEED)
    with open(f"{folder}/metadata.jsonl", "w") as file:
        for i in range(30):
            colour, thing = draw.choice(("red", "green", "blue", "grey")), draw.choice(("star", "ring", "square"))
            size = draw.randint(9, 24), draw.randint(9, 24), 3
            Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)).save(f"{folder}/{i:02}.png")
            row = {"file_name": f"{i:02}.png", "short": f"a {colour} {thing}",
                   "long": [f"there is one {thing}, and it is {colour} .", f"one {thing} in {colour} alone"]}
            file.write(json.dumps(row) + "\n")
    with open(f"{folder}/11.png", "r+b") as file:
        file.truncate(70)


def make_folders():
    vision = SiglipVisionConfig(hidden_size=20, intermediate_size=28, num_hidden_layers=1, num_attention_heads=2,
                                image_size=18, patch_size=6)
    make_models.save(make_models.randomize(SiglipVisionModel(vision), 1), "vision")
    llm = LlamaConfig(vocab_size=483, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                      num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=128, bos_token_id=476,
                      eos_token_id=477)
    make_models.save(make_models.randomize(LlamaForCausalLM(llm), 2), "llm", torch.bfloat16)
    shutil.copy("../tokenizer/llama2/tokenizer.json", "llm")
    make_pictures("data", random.Random(SEED))


def main():
    os.chdir(HERE)
    for name in ("vision", "llm", "data", "initial-normal", "initial-moe"):
        shutil.rmtree(name, ignore_errors=True)
    make_folders()
    made = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED, "case": CASE}
    for projector in ("normal", "moe"):
        made[projector] = trajectory.expected(CASE | {"projector": projector}, SEED, f"initial-{projector}")[0]
    with open("expected.json", "w") as file:
        json.dump(made, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()

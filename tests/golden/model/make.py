"""Makes the golden files of tests/unit/model_test.c: tiny models and what transformers and PyTorch compute with them.

    $(tests/oracle/venv.sh) tests/golden/model/make.py

siglip/, llama/ the frozen models; normal/, moe/ the trained weights; input.safetensors images and texts;
normal.safetensors, moe.safetensors what is expected (names as tests/tools/model_dump.c writes them).
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../oracle"))
import make_models  # noqa: E402
import parity  # noqa: E402
import recipe  # noqa: E402

OPTIONS = {"vision": f"{HERE}/siglip", "llm": f"{HERE}/llama", "width": 12, "queries": 3, "layers": 2, "heads": 3,
           "experts": 3, "routing": "pooled", "bos": "after_image", "bos_id": 1, "max_new": 10, "beams": 3}


def make_frozen():
    vision = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=1, num_attention_heads=2, image_size=20,
                  patch_size=6)
    llama3 = dict(rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=16)
    llm = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, head_dim=6, max_position_embeddings=64,
               rope_parameters=llama3, bos_token_id=1, eos_token_id=[9, 29])
    make_models.save(make_models.randomize(SiglipVisionModel(SiglipVisionConfig(**vision)), 11), OPTIONS["vision"],
                     torch.bfloat16)
    make_models.save(make_models.randomize(LlamaForCausalLM(LlamaConfig(**llm)), 12), OPTIONS["llm"], torch.bfloat16)
    for folder in (OPTIONS["vision"], OPTIONS["llm"]):
        generation = f"{folder}/generation_config.json"
        if os.path.exists(generation):
            os.remove(generation)


def main():
    make_frozen()
    for projector in ("normal", "moe"):
        torch.manual_seed(13)
        options = OPTIONS | {"projector": projector}
        captioner = recipe.Captioner(options)
        captioner.save(f"{HERE}/{projector}")
        batch = parity.make_input(captioner, 14)
        parity.write_input(f"{HERE}/input.safetensors", *batch)
        expected = parity.expected_outputs(captioner, *batch, options)
        print(projector, expected["greedy"].tolist(), expected["beam"].tolist())
        save_file({k: v.detach().contiguous() for k, v in expected.items()}, f"{HERE}/{projector}.safetensors")


if __name__ == "__main__":
    main()

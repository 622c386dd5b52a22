"""Model folders with odd shapes and random weights, in the forms in which folders are found.

    python make_models.py OUT      writes OUT/siglip-…, OUT/vit-…, OUT/llama-…

Weights are larger than a fresh model's (products of unit size, norms and biases away from 1 and 0), so that a tensor
which is read wrongly shows.
"""

import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import (LlamaConfig, LlamaForCausalLM, LlamaModel, SiglipConfig, SiglipModel, SiglipVisionConfig,
                          SiglipVisionModel, ViTConfig, ViTForImageClassification, ViTModel)


def randomize(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() >= 2 and "embed" not in name and "probe" not in name and "token" not in name:
                p.copy_(noise / p[0].numel() ** 0.5)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif p.dim() == 1:
                p.copy_(1 + 0.1 * noise)
            else:
                p.copy_(0.5 * noise)
            if "patch_embedding" in name and p.dim() == 4:
                p.mul_(2)
    return model


def save(model, folder, dtype=torch.float32, shard=None):
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))


def edit_config(folder, change):
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    change(config)
    with open(path, "w") as file:
        json.dump(config, file, indent=2)


def edit_tensors(folder, change):
    path = os.path.join(folder, "model.safetensors")
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path, {"format": "pt"})


def published_vision(folder, prefix):
    """As folders were written before: every name under a prefix, `torch_dtype` for `dtype`."""
    edit_tensors(folder, lambda tensors: {k if k.startswith(prefix) else prefix + k: v for k, v in tensors.items()})
    edit_config(folder, lambda config: config.update(torch_dtype=config.pop("dtype")))


def without_defaults(config):
    """A nested vision_config that leaves out what transformers knows."""
    for key in ("num_channels", "layer_norm_eps", "hidden_act", "attention_dropout", "vision_use_head"):
        config["vision_config"].pop(key, None)


def published_rope(config):
    """rope_theta and rope_scaling at the top instead of rope_parameters."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")


def under_head(tensors):
    """The tied matrix under the head's name only."""
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    return tensors


def make_vision(out):
    # 4 heads of 12; 40 = 4 x 9 + 4: a remainder at the edge
    a = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, image_size=40,
             patch_size=9)
    save(randomize(SiglipVisionModel(SiglipVisionConfig(**a)), 1), f"{out}/siglip-a-published")
    published_vision(f"{out}/siglip-a-published", "vision_model.")
    save(randomize(SiglipVisionModel(SiglipVisionConfig(**a)), 1), f"{out}/siglip-a-resaved")
    # one head of 20; bf16, in shards
    b = dict(hidden_size=20, intermediate_size=52, num_hidden_layers=3, num_attention_heads=1, image_size=50,
             patch_size=7, hidden_act="gelu")
    save(randomize(SiglipVisionModel(SiglipVisionConfig(**b)), 2), f"{out}/siglip-b-sharded", torch.bfloat16, "8KB")
    with open(f"{out}/siglip-b-sharded/preprocessor_config.json", "w") as file:
        json.dump({"image_processor_type": "SiglipImageProcessor", "image_mean": [0.48, 0.45, 0.41],
                   "image_std": [0.26, 0.27, 0.28], "size": {"height": 50, "width": 50}, "resample": 3,
                   "do_rescale": True, "do_resize": True, "do_normalize": True, "rescale_factor": 1 / 255}, file)
    # 3 heads of 24, with a text tower beside it; f16
    text = dict(hidden_size=72, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2, vocab_size=64,
                max_position_embeddings=8, bos_token_id=1, eos_token_id=2)
    c = dict(hidden_size=72, intermediate_size=100, num_hidden_layers=2, num_attention_heads=3, image_size=36,
             patch_size=12)
    save(randomize(SiglipModel(SiglipConfig(text_config=text, vision_config=c)), 3), f"{out}/siglip-c-full",
         torch.float16)
    edit_config(f"{out}/siglip-c-full", without_defaults)
    # sides beyond 256, which processors with tiles multiply by them: 5 heads of 60
    e = dict(hidden_size=300, intermediate_size=564, num_hidden_layers=2, num_attention_heads=5, image_size=108,
             patch_size=9)
    save(randomize(SiglipVisionModel(SiglipVisionConfig(**e)), 9), f"{out}/siglip-d-wide")
    # ViT: 3 heads of 12, with a classifier under `vit.`; and bare, without query, key and value biases
    d = dict(hidden_size=36, intermediate_size=60, num_hidden_layers=2, num_attention_heads=3, image_size=33,
             patch_size=8)
    save(randomize(ViTForImageClassification(ViTConfig(**d)), 4), f"{out}/vit-a-classifier")
    save(randomize(ViTModel(ViTConfig(**d, qkv_bias=False), add_pooling_layer=False), 5), f"{out}/vit-b-bare")


def make_llm(out):
    ids = dict(bos_token_id=1, eos_token_id=2)
    # 4 heads of 12 over one key/value head, separate head, plain RoPE
    a = dict(vocab_size=101, hidden_size=40, intermediate_size=68, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=1, head_dim=12, rope_theta=5e5, max_position_embeddings=256, **ids)
    save(randomize(LlamaForCausalLM(LlamaConfig(**a)), 6), f"{out}/llama-a-published")
    edit_config(f"{out}/llama-a-published", published_rope)
    save(randomize(LlamaForCausalLM(LlamaConfig(**a)), 6), f"{out}/llama-a-resaved")
    # 6 heads of 10 over 3, tied, biases in attention, llama3 RoPE; bf16 in shards
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)
    b = dict(vocab_size=90, hidden_size=60, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=3, tie_word_embeddings=True, attention_bias=True, max_position_embeddings=256,
             rope_parameters=dict(llama3, rope_theta=1e4), **ids)
    save(randomize(LlamaForCausalLM(LlamaConfig(**b)), 7), f"{out}/llama-b-sharded", torch.bfloat16, "40KB")
    # 3 heads of 16 without grouping, biases in the MLP, tied under the head's name, llama3 as rope_scaling; f16
    c = dict(vocab_size=77, hidden_size=48, intermediate_size=72, num_hidden_layers=1, num_attention_heads=3,
             tie_word_embeddings=True, mlp_bias=True, max_position_embeddings=256, rms_norm_eps=1e-5,
             rope_parameters=dict(llama3, rope_theta=2e4, original_max_position_embeddings=16), **ids)
    save(randomize(LlamaForCausalLM(LlamaConfig(**c)), 8), f"{out}/llama-c-tied-head", torch.float16)
    edit_config(f"{out}/llama-c-tied-head", published_rope)
    edit_tensors(f"{out}/llama-c-tied-head", under_head)
    # sides beyond 256, multiples of a tile's but for one; bf16
    d = dict(vocab_size=611, hidden_size=288, intermediate_size=544, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, **ids)
    save(randomize(LlamaForCausalLM(LlamaConfig(**d)), 10), f"{out}/llama-d-wide", torch.bfloat16)


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    make_vision(sys.argv[1])
    make_llm(sys.argv[1])

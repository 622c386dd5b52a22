"""tests/evidence/models.py - Hugging Face folders of any size with random bf16 weights, by the standard library alone."""
import json
import os
import random
import shutil
import struct

import lib

SIGLIP_BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224,
                   patch_size=16)
SIGLIP_SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
                     patch_size=14)
SMOLLM2_135M = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                    num_key_value_heads=3, head_dim=64, tie_word_embeddings=True)
LLAMA_1B = dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                num_key_value_heads=8, head_dim=64, tie_word_embeddings=True, rope_theta=500000.0)


def linear(shapes, name, rows, columns, bias):
    shapes[name + ".weight"] = (rows, columns)
    if bias:
        shapes[name + ".bias"] = (rows,)


def norm(shapes, name, width, bias):
    shapes[name + ".weight"] = (width,)
    if bias:
        shapes[name + ".bias"] = (width,)


def siglip_shapes(c):
    d, i, tokens = c["hidden_size"], c["intermediate_size"], (c["image_size"] // c["patch_size"]) ** 2
    shapes = {"vision_model.embeddings.patch_embedding.weight": (d, 3, c["patch_size"], c["patch_size"]),
              "vision_model.embeddings.patch_embedding.bias": (d,),
              "vision_model.embeddings.position_embedding.weight": (tokens, d)}
    for n in range(c["num_hidden_layers"]):
        at = "vision_model.encoder.layers.%d." % n
        for name in ("layer_norm1", "layer_norm2"):
            norm(shapes, at + name, d, True)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(shapes, at + "self_attn." + name, d, d, True)
        linear(shapes, at + "mlp.fc1", i, d, True)
        linear(shapes, at + "mlp.fc2", d, i, True)
    norm(shapes, "vision_model.post_layernorm", d, True)
    shapes["vision_model.head.probe"] = (1, 1, d)
    shapes["vision_model.head.attention.in_proj_weight"] = (3 * d, d)
    shapes["vision_model.head.attention.in_proj_bias"] = (3 * d,)
    linear(shapes, "vision_model.head.attention.out_proj", d, d, True)
    norm(shapes, "vision_model.head.layernorm", d, True)
    linear(shapes, "vision_model.head.mlp.fc1", i, d, True)
    linear(shapes, "vision_model.head.mlp.fc2", d, i, True)
    return shapes


def llama_shapes(c):
    d, i, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    shapes = {"model.embed_tokens.weight": (v, d)}
    for n in range(c["num_hidden_layers"]):
        at = "model.layers.%d." % n
        norm(shapes, at + "input_layernorm", d, False)
        norm(shapes, at + "post_attention_layernorm", d, False)
        for name, rows, columns in (("q_proj", q, d), ("k_proj", kv, d), ("v_proj", kv, d), ("o_proj", d, q)):
            linear(shapes, at + "self_attn." + name, rows, columns, False)
        for name, rows, columns in (("gate_proj", i, d), ("up_proj", i, d), ("down_proj", d, i)):
            linear(shapes, at + "mlp." + name, rows, columns, False)
    norm(shapes, "model.norm", d, False)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (v, d)
    return shapes


def bf16_noise(count, seed):
    """Numbers of either sign between 2^-7 and 2^-5, as bf16."""
    draw = random.Random(seed)
    return b"".join(struct.pack("<H", draw.getrandbits(1) << 15 | draw.randint(120, 121) << 7 | draw.getrandbits(7))
                    for _ in range(count))


def write_weights(path, shapes):
    """Norms' weights are 1, all else is one long noise, cut as needed."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    sizes = []
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * count]}
        sizes.append((name, 2 * count))
        at += 2 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = bf16_noise(1 << 16, 1) * 8
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, size in sizes:
            if "norm" in name and name.endswith("weight"):
                f.write(b"\x80\x3f" * (size // 2))
                continue
            while size:
                f.write(noise[:size])
                size -= min(size, len(noise))


def write_folders(folder, vision, llm):
    """FOLDER/vision and FOLDER/llm; the tokenizer is the demo's, whose ids any of these vocabularies has."""
    for name in ("vision", "llm"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    with open(os.path.join(folder, "vision/config.json"), "w") as f:
        json.dump(dict(vision, model_type="siglip_vision_model"), f)
    with open(os.path.join(folder, "llm/config.json"), "w") as f:
        json.dump(dict(llm, model_type="llama", bos_token_id=1, eos_token_id=2), f)
    demo = os.path.join(lib.ROOT, "deploy/demo/models/llm")
    for name in os.listdir(demo):
        if name.startswith("tokenizer"):
            shutil.copy(os.path.join(demo, name), os.path.join(folder, "llm", name))
    write_weights(os.path.join(folder, "vision/model.safetensors"), siglip_shapes(vision))
    write_weights(os.path.join(folder, "llm/model.safetensors"), llama_shapes(llm))

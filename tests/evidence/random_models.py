"""tests/evidence/random_models.py - Hugging Face folders of a SigLIP or Llama shape with random bf16 weights."""
import array
import json
import os
import random
import shutil
import struct

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# SigLIP-so400m-patch14-384 and Llama-3.2-1B
MISSION_VISION = dict(model_type="siglip_vision_model", hidden_size=1152, intermediate_size=4304, num_hidden_layers=27,
                      num_attention_heads=16, image_size=384, patch_size=14, num_channels=3, hidden_act="gelu_pytorch_tanh",
                      layer_norm_eps=1e-6, attention_dropout=0.0, architectures=["SiglipVisionModel"], dtype="bfloat16")
MISSION_LLM = dict(model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                   num_attention_heads=32, num_key_value_heads=8, head_dim=64, hidden_act="silu", max_position_embeddings=131072,
                   rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
                   rope_scaling=dict(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, rope_type="llama3",
                                     original_max_position_embeddings=8192),
                   bos_token_id=None, eos_token_id=0, architectures=["LlamaForCausalLM"], dtype="bfloat16")


def linear(name, n, k):
    return {name + ".weight": (n, k), name + ".bias": (n,)}


def norm(name, d):
    return {name + ".weight": (d,), name + ".bias": (d,)}


def vision_shapes(config):
    d, i, p = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    at = "vision_model."
    found = {at + "embeddings.patch_embedding.weight": (d, 3, p, p), at + "embeddings.patch_embedding.bias": (d,),
             at + "embeddings.position_embedding.weight": ((config["image_size"] // p) ** 2, d)}
    for n in range(config["num_hidden_layers"]):
        layer = "%sencoder.layers.%d." % (at, n)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found.update(linear(layer + "self_attn." + part, d, d))
        found.update(linear(layer + "mlp.fc1", i, d), **linear(layer + "mlp.fc2", d, i))
        found.update(norm(layer + "layer_norm1", d), **norm(layer + "layer_norm2", d))
    head = at + "head."
    found.update(norm(at + "post_layernorm", d), **norm(head + "layernorm", d))
    found.update({head + "probe": (1, 1, d), head + "attention.in_proj_weight": (3 * d, d),
                  head + "attention.in_proj_bias": (3 * d,)}, **linear(head + "attention.out_proj", d, d))
    found.update(linear(head + "mlp.fc1", i, d), **linear(head + "mlp.fc2", d, i))
    return found


def llm_shapes(config):
    d, i, kv = config["hidden_size"], config["intermediate_size"], config["num_key_value_heads"] * config["head_dim"]
    found = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    for n in range(config["num_hidden_layers"]):
        layer = "model.layers.%d." % n
        found.update({layer + "self_attn.q_proj.weight": (d, d), layer + "self_attn.k_proj.weight": (kv, d),
                      layer + "self_attn.v_proj.weight": (kv, d), layer + "self_attn.o_proj.weight": (d, d),
                      layer + "mlp.gate_proj.weight": (i, d), layer + "mlp.up_proj.weight": (i, d),
                      layer + "mlp.down_proj.weight": (d, i), layer + "input_layernorm.weight": (d,),
                      layer + "post_attention_layernorm.weight": (d,)})
    return found


def bf16(value):
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


def write_model(folder, config, shapes, rng):
    """Norms are 1, biases 0, all else normal with deviation 0.02. The numbers repeat after 1,000,003: a prime, so that no two
    rows are alike."""
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    numbers = array.array("H", (bf16(rng.gauss(0, 0.02)) for _ in range(1000003))).tobytes()
    ones = array.array("H", [bf16(1.0)] * 65536).tobytes()
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            left = entry["data_offsets"][1] - entry["data_offsets"][0]
            is_norm = "norm" in name and name.endswith("weight")
            source = ones if is_norm else bytes(left) if name.endswith("bias") else numbers
            while left:
                piece = source[:left]
                f.write(piece)
                left -= len(piece)
    return offset


def write_preprocessing(folder, config):
    side = config["image_size"]
    with open(os.path.join(folder, "preprocessor_config.json"), "w") as f:
        json.dump(dict(size=dict(height=side, width=side), resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                       rescale_factor=1 / 255), f)


def write_vision(folder, config):
    """Returns the bytes of its weights."""
    size = write_model(folder, config, vision_shapes(config), random.Random(11))
    write_preprocessing(folder, config)
    return size


def write_llm(folder, config):
    """With the demo's tokenizer. Returns the bytes of its weights."""
    size = write_model(folder, config, llm_shapes(config), random.Random(12))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(ROOT, "deploy/demo/models/llm", name), folder)
    return size

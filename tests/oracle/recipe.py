"""The recipe in PyTorch: docs/recipe.md written down a second time, apart from the C code, to hold that against.

Frozen parts come from transformers; Q-Former, projectors, loss, optimizer and schedule are here. Dropout is not: the
comparisons are made with dropout 0.
"""

import json
import math
import os

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Attention(nn.MultiheadAttention):
    """torch's own module, so that its parameters carry the notebooks' names."""

    def __init__(self, width, heads):
        super().__init__(width, heads, dropout=0.0, batch_first=True)

    def forward(self, q, kv):
        return super().forward(q, kv, kv, need_weights=True, average_attn_weights=True)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2, self.ln3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.cross_attn = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.0))

    def forward(self, q, v):
        a = self.ln1(q)
        q = q + self.self_attn(a, a)[0]
        cross, self.probs = self.cross_attn(self.ln2(q), self.ln2(v))
        q = q + cross
        return q + self.mlp(self.ln3(q))


class QFormer(nn.Module):
    def __init__(self, queries, width, layers, heads, vision_width, out_width):
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.vis_proj = nn.Linear(vision_width, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.final_ln = nn.LayerNorm(width)
        if width != out_width:
            self.out_proj = nn.Linear(width, out_width)

    def forward(self, features):
        v = self.vis_proj(features)
        q = self.query.expand(len(features), -1, -1)
        for layer in self.layers:
            q = layer(q, v)
        q = self.final_ln(q)
        return self.out_proj(q) if hasattr(self, "out_proj") else q


def mlp(width):
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0), nn.Linear(4 * width, width),
                         nn.Dropout(0.0))


class NormalProjector(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln1, self.mlp, self.ln2 = nn.LayerNorm(width), mlp(width), nn.LayerNorm(width)

    def forward(self, x, _):
        return self.ln2(x + self.mlp(self.ln1(x))), None


class MoeProjector(nn.Module):
    def __init__(self, width, vision_width, experts):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), *mlp(width), nn.LayerNorm(width))
                                     for _ in range(experts))
        self.router = nn.Sequential(nn.LayerNorm(vision_width), nn.Linear(vision_width, vision_width // 2), nn.GELU(),
                                    nn.Linear(vision_width // 2, experts))

    def forward(self, x, image):
        z = self.router(image)
        w = z.softmax(-1)
        return sum(w[:, e, None, None] * expert(x) for e, expert in enumerate(self.experts)), z


def open_vision(folder, dtype=torch.float32):
    from transformers import SiglipVisionModel, ViTModel

    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    if config["model_type"] == "vit":
        model = ViTModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False)
    else:
        model = SiglipVisionModel.from_pretrained(folder, dtype=dtype)
    return model.eval().requires_grad_(False)


def open_llm(folder, dtype=torch.float32):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)


class Captioner(nn.Module):
    """options: vision, llm, width (0 = the LLM's), queries, layers, heads, projector normal|moe, experts,
    routing pooled|mean|first, bos first|after_image|none, bos_id (-1: none)."""

    def __init__(self, options):
        super().__init__()
        self.options = options
        self.vision, self.llm = open_vision(options["vision"]), open_llm(options["llm"])
        self.vit = self.vision.config.model_type == "vit"
        width, vision_width = self.llm.config.hidden_size, self.vision.config.hidden_size
        self.qformer = QFormer(options["queries"], options.get("width") or width, options["layers"], options["heads"],
                               vision_width, width)
        self.moe = options["projector"] == "moe"
        self.projector = MoeProjector(width, vision_width, options["experts"]) if self.moe else NormalProjector(width)
        self.mean, self.std, self.rescale = [0.5] * 3, [0.5] * 3, 1 / 255
        preprocess = os.path.join(options["vision"], "preprocessor_config.json")
        if os.path.exists(preprocess):
            with open(preprocess) as file:
                config = json.load(file)
            self.mean, self.std = config.get("image_mean", self.mean), config.get("image_std", self.std)
            self.rescale = config.get("rescale_factor", self.rescale)

    def load(self, folder):
        self.qformer.load_state_dict(load_file(os.path.join(folder, "qformer.safetensors")))
        self.projector.load_state_dict(load_file(os.path.join(folder, "projector.safetensors")))
        return self

    def save(self, folder):
        os.makedirs(folder, exist_ok=True)
        for name, part in (("qformer", self.qformer), ("projector", self.projector)):
            save_file({k: v.detach().contiguous() for k, v in part.state_dict().items()},
                      os.path.join(folder, name + ".safetensors"))

    def trained(self):
        """(name, parameter), in no particular order."""
        return [*self.qformer.named_parameters(), *self.projector.named_parameters()]

    def see(self, pixels):
        """pixels (B,S,S,3) u8 -> features (B,N,d_v), routing vectors (B,d_v)."""
        x = pixels.permute(0, 3, 1, 2).float() * self.rescale
        x = (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]
        with torch.no_grad():
            out = self.vision(x)
        features = out.last_hidden_state
        routing = self.options.get("routing", "pooled")
        patches = features[:, 1:] if self.vit else features
        if routing == "mean":
            return features, patches.mean(1)
        if routing == "first":
            return features, patches[:, 0]
        return features, features[:, 0] if self.vit else out.pooler_output

    def project(self, features, image):
        return self.projector(self.qformer(features), image)

    def inputs(self, queries, ids):
        """One image's (rows, d) input of the LLM, and the row of its first text token."""
        embed = self.llm.get_input_embeddings()
        bos, where = self.options.get("bos_id", -1), self.options.get("bos", "first")
        parts = [queries]
        if bos >= 0 and where != "none":
            parts.insert(0 if where == "first" else 1, embed(torch.tensor([bos])))
        return torch.cat([*parts, embed(torch.as_tensor(ids, dtype=torch.long))]), sum(len(p) for p in parts)

    def nll(self, queries, ids, labels):
        """-log p of the label tokens of one text, the logits they come from, and all last hidden states."""
        x, start = self.inputs(queries, ids)
        out = self.llm(inputs_embeds=x[None], output_hidden_states=True)
        rows = [start + i - 1 for i, label in enumerate(labels) if label]
        logits = out.logits[0, rows].float()
        wanted = torch.tensor([t for t, label in zip(ids, labels) if label], dtype=torch.long)
        return nn.functional.cross_entropy(logits, wanted, reduction="none"), logits, out.hidden_states[-1][0]


def losses(captioner, batch):
    """batch: list of (pixels (S,S,3) u8, ids, labels). What the step's loss is made of, as sums."""
    features, image = captioner.see(torch.stack([pixels for pixels, _, _ in batch]))
    queries, z = captioner.project(features, image)
    nll = [captioner.nll(q, ids, labels)[0] for q, (_, ids, labels) in zip(queries, batch)]
    return torch.cat(nll), z


def objective(captioner, micro_batches, alpha=0.01, beta=0.001):
    """L of docs/recipe.md over a global batch given as micro-batches; (L, what is logged as loss, T)."""
    parts = [losses(captioner, batch) for batch in micro_batches]
    nll = torch.cat([p[0] for p in parts])
    ce = nll.sum() / len(nll)
    if not captioner.moe:
        return ce, ce.item(), len(nll)
    z = torch.cat([p[1] for p in parts])
    share = z.softmax(-1).mean(0)
    balance = alpha * share.numel() * (share**2).sum()
    z_loss = beta * (z.logsumexp(-1) ** 2).mean()
    return ce + balance + z_loss, ce.item(), len(nll)


def learning_rate(step, peak, warmup, steps, floor):
    """step: optimizer steps done."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return floor + (peak - floor) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


class AdamW:
    """Loshchilov & Hutter 2019, written out; decay on all tensors unless decay_norms is false."""

    def __init__(self, named, decay=0.01, betas=(0.9, 0.999), eps=1e-8, decay_norms=True):
        self.named = list(named)
        self.decay, self.betas, self.eps, self.t = decay, betas, eps, 0
        self.spared = set() if decay_norms else {n for n, p in self.named if p.dim() < 2 or n == "query"}
        self.m = {n: torch.zeros_like(p) for n, p in self.named}
        self.v = {n: torch.zeros_like(p) for n, p in self.named}

    @torch.no_grad()
    def step(self, lr, clip):
        """Returns the gradient's norm before clipping."""
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for _, p in self.named)).item()
        factor = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        self.t += 1
        b1, b2 = self.betas
        for name, p in self.named:
            g, m, v = p.grad * factor, self.m[name], self.v[name]
            m.mul_(b1).add_(g, alpha=1 - b1)
            v.mul_(b2).addcmul_(g, g, value=1 - b2)
            if name not in self.spared:
                p.mul_(1 - lr * self.decay)
            p.sub_(lr * (m / (1 - b1**self.t)) / ((v / (1 - b2**self.t)).sqrt() + self.eps))
            p.grad = None
        return norm


def train(captioner, steps, peak, warmup, floor, clip=1.0, decay=0.01, decay_norms=True, total=None, alpha=0.01,
          beta=0.001):
    """steps: iterable of global batches (lists of micro-batches). Yields {loss, grad_norm, lr, tokens} per step."""
    optimizer = AdamW(captioner.trained(), decay, decay_norms=decay_norms)
    steps = list(steps)
    for s, micro_batches in enumerate(steps):
        loss, ce, tokens = objective(captioner, micro_batches, alpha, beta)
        loss.backward()
        lr = learning_rate(s, peak, warmup, total or len(steps), floor)
        yield {"loss": ce, "grad_norm": optimizer.step(lr, clip), "lr": lr, "tokens": tokens}

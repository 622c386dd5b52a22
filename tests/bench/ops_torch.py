"""The operations of ops_bench in PyTorch, for a line-by-line comparison on the same machine.

usage: ${BLIPREN_VENV:-$HOME/.cache/blipren/venv}/bin/python tests/bench/ops_torch.py [THREADS [WORD]]

One JSON line a case, like ops_bench: best of many runs, by the clock and by processor time. f32.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
word = sys.argv[2] if len(sys.argv) > 2 else ""
torch.set_num_threads(threads)
torch.manual_seed(0)


def report(op, shape, f, flop):
    if word not in op:
        return
    f()
    start = time.perf_counter()
    f()
    calls = 1 + int(0.001 / (time.perf_counter() - start + 1e-7))
    wall = cpu = float("inf")
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        start, cpu_start = time.perf_counter(), time.process_time()
        for _ in range(calls):
            f()
        wall = min(wall, (time.perf_counter() - start) / calls)
        cpu = min(cpu, (time.process_time() - cpu_start) / calls)
    print(json.dumps({"op": op, "shape": shape, "threads": threads, "us": round(wall * 1e6, 1),
                      "cpu_us": round(cpu * 1e6, 1), "gflops": round(flop / wall / 1e9, 1),
                      "gflops_per_cpu": round(flop / cpu / 1e9, 1)}), flush=True)


def linear(rows, n, k):
    x, w, d_y = torch.randn(rows, k), torch.randn(n, k), torch.randn(rows, n)
    d_w = torch.zeros(n, k)
    shape, flop = f"R {rows} N {n} K {k}", 2 * rows * n * k
    report("linear_forward", shape, lambda: F.linear(x, w), flop)
    report("linear_backward_input", shape, lambda: d_y @ w, flop)
    report("linear_backward_weight", shape, lambda: d_w.addmm_(d_y.t(), x), flop)


def attention(s, heads, kv_heads, d, q_len, k_len, causal, p):
    q = torch.randn(s, heads, q_len, d, requires_grad=True)
    k, v = (torch.randn(s, kv_heads, k_len, d, requires_grad=True) for _ in range(2))
    shape = f"S {s} H {heads}/{kv_heads} d {d} q {q_len} k {k_len}{' causal' if causal else ''} p {p}"
    flop = 4 * s * heads * d * q_len * k_len * (0.5 if causal else 1)

    def forward():
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=causal,
                                              enable_gqa=heads != kv_heads)

    def both():
        out = forward()
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    with torch.no_grad():
        report("attention_forward", shape, forward, flop)
    report("attention_both", shape, both, 3.5 * flop)


def rows(r, d):
    x = torch.randn(r, d, requires_grad=True)
    z, weight, bias = torch.randn(r, d), torch.randn(d), torch.randn(d)
    shape = f"R {r} D {d} (1 operation an element)"
    y = F.layer_norm(x, (d,), weight, bias)
    g = F.gelu(x)
    param = torch.nn.Parameter(torch.randn(r, d))
    param.grad = z
    adamw = torch.optim.AdamW([param], fused=True)
    with torch.no_grad():
        report("layernorm_forward", shape, lambda: F.layer_norm(x, (d,), weight, bias), r * d)
        report("add", shape, lambda: torch.add(x, z), r * d)
        report("dropout", shape, lambda: F.dropout(x, 0.1), r * d)
        report("swiglu", shape, lambda: F.silu(x[: r // 2]) * z[: r // 2], r * d)
    report("layernorm_backward", shape,
           lambda: torch.autograd.grad(y, x, z, retain_graph=True), r * d)
    report("gelu_backward", shape, lambda: torch.autograd.grad(g, x, z, retain_graph=True), r * d)
    report("adamw", shape, adamw.step, r * d)


def head(r, v, d):
    x, w = torch.randn(r, d, requires_grad=True), torch.randn(v, d) * 0.05
    labels = torch.arange(r) * 7919 % v

    def step():
        torch.autograd.grad(F.cross_entropy(F.linear(x, w), labels, reduction="sum"), x)

    report("head_loss", f"R {r} V {v} D {d}", step, 4 * r * v * d)


for shape in ((32, 192, 192), (512, 192, 192), (512, 768, 192), (512, 192, 768), (2048, 384, 128),
              (2048, 128, 512), (1500, 1024, 192), (1568, 768, 768), (1568, 3072, 768),
              (1568, 768, 3072), (1, 1536, 576), (8, 1536, 576), (384, 576, 576),
              (384, 3072, 576), (384, 576, 1536), (256, 2304, 576)):
    linear(*shape)
head(384, 49152, 576)
head(512, 485, 192)
attention(32, 8, 8, 24, 16, 16, False, 0.1)
attention(32, 8, 8, 24, 16, 64, False, 0.1)
attention(32, 4, 4, 48, 45, 45, True, 0)
attention(32, 4, 4, 32, 64, 64, False, 0)
attention(8, 12, 12, 64, 196, 196, False, 0)
attention(1, 16, 16, 72, 729, 729, False, 0)
attention(8, 9, 3, 64, 60, 60, True, 0)
attention(8, 8, 8, 72, 32, 196, False, 0.1)
attention(8, 9, 3, 64, 1, 80, False, 0)
rows(512, 192)
rows(1568, 768)

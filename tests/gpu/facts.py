"""What the machine's PyTorch says of the device, its measured ceilings, and which GELU the fused products of cuBLASLt compute."""

import torch
import transformers


def seconds(run, count):
    run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / count


properties = torch.cuda.get_device_properties(0)
print(f"torch {torch.__version__}, transformers {transformers.__version__}, {properties.name}, "
      f"{properties.multi_processor_count} SMs, L2 {properties.L2_cache_size >> 20} MiB, CUDA {torch.version.cuda}, "
      f"NCCL {torch.cuda.nccl.version()}")
n = 8192
a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
print(f"ceiling: bf16 product of {n}: {2 * n**3 / seconds(lambda: a @ b, 20) / 1e12:.0f} TFLOP/s")
x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
y = torch.empty_like(x)
print(f"ceiling: copy: {2 * x.numel() / seconds(lambda: y.copy_(x), 20) / 1e12:.2f} TB/s")

# beta 1 and a bias that tells the epilogue's function apart: x = 1 * w + bias
w = torch.linspace(-4, 4, 1024, device="cuda", dtype=torch.float32)
one = torch.ones(64, 16, device="cuda", dtype=torch.bfloat16)
weight = torch.zeros(16, 1024, device="cuda", dtype=torch.bfloat16)
fused = torch._addmm_activation(w.bfloat16(), one, weight, use_gelu=True).float()[0]
exact = w.bfloat16().float()
for name in ("none", "tanh"):
    error = (fused - torch.nn.functional.gelu(exact, approximate=name)).abs().max().item()
    print(f"fused GELU against {'erf' if name == 'none' else 'tanh'}: largest difference {error:.2e}")

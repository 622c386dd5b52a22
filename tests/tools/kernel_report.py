#!/usr/bin/env python3
"""tests/tools/kernel_report.py [ARCH] - what nvcc makes of the GPU kernels, as a table for docs/gpu.md.

One row a kernel, over its instances: registers of a thread, bytes of spills, static shared memory, and whether
its machine code multiplies on tensor cores (HMMA; needs cuobjdump and
nvdisasm on PATH, PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm). ARCH: 90.
"""
import collections
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCH = sys.argv[1] if len(sys.argv) > 1 else "90"
NVCC = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
CUOBJDUMP = shutil.which("nvdisasm") and shutil.which("cuobjdump")


def name_of(mangled):
    """Of template instances the name alone: the last identifier before the template's arguments."""
    plain = subprocess.run(["c++filt", mangled], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.sub(r"[<(].*", "", re.sub(r"^void ", "", plain.strip().replace("(anonymous namespace)::", "")))


def compile_kernels(source, cubin):
    done = subprocess.run([NVCC, "-std=c++17", "-O3", "-arch=sm_" + ARCH, "-cubin", "-Xptxas", "-v", "-I", str(ROOT), "-o", cubin, str(source)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def tensor_cores(cubin):
    """Names of the kernels whose code has HMMA; None where nobody can say."""
    if not CUOBJDUMP:
        return None
    code = subprocess.run([CUOBJDUMP, "-sass", cubin], stdout=subprocess.PIPE, text=True, check=True).stdout
    parts = re.split(r"Function : (\S+)", code)[1:]
    return {name_of(name) for name, text in zip(parts[::2], parts[1::2]) if "HMMA" in text}


def rows(source, folder):
    cubin = str(pathlib.Path(folder) / "kernels.cubin")
    found = collections.defaultdict(list)
    for name, rest in re.findall(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry|\Z)", compile_kernels(source, cubin), re.S):
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", rest))
        registers = int(re.search(r"Used (\d+) registers", rest)[1])
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name_of(name)].append((registers, spills, int(shared[1]) if shared else 0))
    with_tensor_cores = tensor_cores(cubin)
    for name, instances in found.items():
        least, most = min(i[0] for i in instances), max(i[0] for i in instances)
        yield "| %s | `%s` | %d | %s | %d | %d | %s |" % (
            source.stem, name, len(instances), least if least == most else "%d-%d" % (least, most), max(i[1] for i in instances),
            max(i[2] for i in instances), "?" if with_tensor_cores is None else "yes" if name in with_tensor_cores else "")


print("| file | kernel | instances | registers | spilled bytes | static shared memory | tensor cores |")
print("| --- | --- | --- | --- | --- | --- | --- |")
with tempfile.TemporaryDirectory() as folder:
    for source in sorted((ROOT / "worker/ops/cuda").glob("*.cu")):
        for row in rows(source, folder):
            print(row, flush=True)

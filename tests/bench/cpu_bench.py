"""The measuring part of tests/evidence/bench-cpu.

Usage: cpu_bench.py STEP_SPEED WORK ROUNDS SHAPE
       cpu_bench.py --pytorch PRECISION WORK SHAPE     PyTorch's forms in one precision: a part of one for each line "FORM PART"

Ours and PyTorch's forms in turn, in both precisions, part by part: eager (step_bench.py), attention through SDPA in what is trained
too, and that compiled by torch.compile. Each part is held against the form that was fastest at it, in bf16 those in f32 included (many
processors multiply bf16 more slowly), memory against the one of the same precision that took least. Takes 11 GB of memory.
Ends with a line "bench-cpu: …"; exit 1 when a bar does not hold.
"""

import copy
import json
import os
import statistics
import sys

import torch
from torch import nn

import parity
import step_bench

BARS = {"f32": {"train": 1.6, "captions": 2.0}, "bf16": {"train": 2.0, "captions": 3.5}}
MEMORY_BAR = 0.6
THREADS = 2
OURS, FORMS = "blipren", ("eager", "sdpa", "compiled")


def shape_of(only):
    return step_bench.SHAPES[next(name for name in step_bench.SHAPES if only in name)]


class FastAttention(nn.Module):
    """Without its probabilities, which only pictures need."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, q, kv):
        return nn.MultiheadAttention.forward(self.attention, q, kv, kv, need_weights=False)[0], None


def other(module, **changes):
    """The same parameters in a module that differs in some of its parts."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    for name, part in changes.items():
        twin._modules[name] = part
    return twin


def with_fast_attention(captioner):
    layers = [other(layer, self_attn=FastAttention(layer.self_attn), cross_attn=FastAttention(layer.cross_attn))
              for layer in captioner.qformer.layers]
    return other(captioner, qformer=other(captioner.qformer, layers=nn.ModuleList(layers)))


def compiled(captioner):
    llm = other(captioner.llm, model=torch.compile(captioner.llm.model))
    return other(captioner, vision=torch.compile(captioner.vision), qformer=torch.compile(captioner.qformer),
                 projector=torch.compile(captioner.projector), llm=llm)


def make_forms(captioner, batch, precision):
    """name -> what runs its parts. The compiled one generates captions as the eager ones do."""
    fast = with_fast_attention(captioner)
    modules = {"eager": captioner, "sdpa": fast, "compiled": compiled(fast)}
    return {name: step_bench.Reference(modules[name], batch, precision) for name in FORMS}


def run_train(run):
    run("vision")
    run("step")


def serve(precision, work, shape):
    """PyTorch's side, a process for each precision, so that its memory is that of one."""
    torch.set_num_threads(THREADS)
    captioner = step_bench.open_captioner(shape, work)
    captioner.load(captioner.options["weights"])
    forms = make_forms(captioner, step_bench.make_batch(shape), precision)
    for line in sys.stdin:
        name, part = line.split()
        form = forms[name]
        run = (lambda: run_train(lambda half: getattr(form, half)())) if part == "train" else form.captions
        step_bench.start_peak()
        seconds = step_bench.timed(run)["wall_s"]
        print(json.dumps({"wall_s": seconds, "peak_mb": step_bench.peak_memory_mb(), "nll": getattr(form, "nll", None)}), flush=True)


def run_ours(ours, part):
    seconds = step_bench.timed(lambda: run_train(ours.run) if part == "train" else ours.run(part))["wall_s"]
    return {"wall_s": seconds, "peak_mb": ours.last["peak_mb"], "nll": ours.last["nll"] if part == "train" else None}


def runners_of(ours, theirs, precision):
    """(precision, form) -> what runs a part of it."""
    forms = {(precision, name): (lambda part, name=name: theirs.run(f"{name} {part}")) for name in FORMS}
    return {(precision, OURS): lambda part: run_ours(ours, part), **forms}


def measure(runners, rounds):
    """part -> (precision, form) -> median seconds; (precision, form) -> peak MB while it trains, and its loss. Rounds go by part, then
    by form, so that a slower phase of the machine meets all of them. The first is warm-up."""
    spent = {part: {key: [] for key in runners if (part, key[1]) != ("captions", "compiled")} for part in ("train", "captions")}
    peaks, nll = {}, {}
    for r in range(rounds + 1):
        for part, times in spent.items():
            for key, seconds in times.items():
                result = runners[key](part)
                if r > 0:
                    seconds.append(result["wall_s"])
                    if part == "train":
                        peaks[key] = max(peaks.get(key, 0), result["peak_mb"])
                        nll[key] = result["nll"]
    return {part: {key: statistics.median(seconds) for key, seconds in times.items()} for part, times in spent.items()}, peaks, nll


def judge(precision, times, peaks, nll):
    """Prints a precision's figures: (words of the last line, whether its bars hold)."""
    words, good = [], True
    for part, seconds in times.items():
        theirs = {key: value for key, value in seconds.items() if key[1] != OURS and key[0] in ("f32", precision)}
        best = min(theirs, key=theirs.get)
        faster = theirs[best] / seconds[precision, OURS]
        print(f"{precision} {part}: " + " ".join(f"{name} {value:.3f} s" for (of, name), value in seconds.items() if of == precision)
              + f"; {faster:.2f} times PyTorch's fastest ({' '.join(best)})", flush=True)
        words.append(f"{precision}_{part}={faster:.2f}")
        good = good and faster >= BARS[precision][part]
    own = {name: value for (of, name), value in peaks.items() if of == precision}
    least = min(value for name, value in own.items() if name != OURS)
    print(f"{precision} peak memory: " + " ".join(f"{name} {value} MB" for name, value in own.items()), flush=True)
    words.append(f"{precision}_memory={own[OURS] / least:.2f}")
    error = abs(nll[precision, OURS] / nll["f32", "eager"] - 1)
    return words, good and own[OURS] <= MEMORY_BAR * least and error <= step_bench.LOSS_BARS[precision]


def main():
    if sys.argv[1] == "--pytorch":
        precision, work, only = sys.argv[2:]
        serve(precision, work, shape_of(only))
        return 0
    program, work, rounds, only = sys.argv[1:]
    shape = shape_of(only)
    step_bench.make_folders(shape, work)
    captioner = step_bench.open_captioner(shape, work)
    captioner.save(captioner.options["weights"])
    parity.write_input(f"{work}/input.safetensors", *step_bench.make_batch(shape))
    words, good = [f"load={os.getloadavg()[0]:.1f}"], True
    precisions = ("f32", "bf16") if step_bench.processor_has_bf16() else ("f32",)
    runners, processes = {}, []
    for precision in precisions:
        ours = step_bench.open_ours(program, {**captioner.options, "threads": THREADS, "precision": precision}, work)
        theirs = step_bench.Program([sys.executable, "-W", "ignore", __file__, "--pytorch", precision, work, only])
        processes += [ours, theirs]
        runners.update(runners_of(ours, theirs, precision))
    del captioner
    times, peaks, nll = measure(runners, int(rounds))
    for process in processes:
        process.close()
    for precision in precisions:
        of_precision, holds = judge(precision, times, peaks, nll)
        words += of_precision
        good = good and holds
    words.append(f"load_after={os.getloadavg()[0]:.1f}")
    print("bench-cpu: threads=%d rounds=%s torch=%s %s" % (THREADS, rounds, torch.__version__, " ".join(words)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

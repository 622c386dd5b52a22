"""The measuring part of tests/evidence/bench-cpu.

Usage: cpu_bench.py STEP_SPEED WORK ROUNDS SHAPE

Ours and PyTorch's forms in turn, part by part: eager (step_bench.py), attention through SDPA in what is trained too, and that
compiled by torch.compile. Each part is held against the form that was fastest at it, in bf16 those in f32 included (many processors
multiply bf16 more slowly), memory against the one of the same precision that took least.
Ends with a line "bench-cpu: …"; exit 1 when a bar does not hold.
"""

import copy
import os
import statistics
import sys

import torch
from torch import nn

import parity
import recipe
import step_bench

BARS = {"f32": {"train": 1.6, "captions": 2.0}, "bf16": {"train": 2.0, "captions": 3.5}}
MEMORY_BAR = 0.6
THREADS = 2


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
    forms = {"eager": step_bench.Reference(captioner, batch, precision)}
    fast = with_fast_attention(captioner)
    forms["sdpa"] = step_bench.Reference(fast, batch, precision)
    forms["compiled"] = step_bench.Reference(compiled(fast), batch, precision)
    return forms


def train(runner):
    runner("vision")
    runner("step")


def measure(shape, program, work, rounds, precision, captioner, batch):
    """part -> form -> median seconds by the clock; part -> name -> peak MB; ours is the form "blipren". And the losses."""
    options = {**captioner.options, "threads": THREADS, "precision": precision}
    ours = step_bench.Ours(program, options, work)
    forms = make_forms(captioner, batch, precision)
    runners = {"blipren": ours.run, **{name: (lambda part, form=form: getattr(form, part)()) for name, form in forms.items()}}
    spent = {"train": {name: [] for name in runners}, "captions": {name: [] for name in runners if name != "compiled"}}
    peaks = {}
    for r in range(rounds + 1):  # the first is warm-up
        for part, times in spent.items():
            for name in times:
                run = (lambda: train(runners[name])) if part == "train" else (lambda: runners[name]("captions"))
                if name != "blipren":
                    step_bench.start_peak()
                seconds = step_bench.timed(run)["wall_s"]
                if r > 0:
                    times[name].append(seconds)
                    if name != "blipren" and part == "train":
                        peaks[name] = max(peaks.get(name, 0), step_bench.peak_memory_mb())
    ours.close()
    peaks["blipren"] = ours.last["peak_mb"]
    nll = {"blipren": ours.last["nll"], **{name: form.nll for name, form in forms.items()}}
    return {part: {name: statistics.median(values) for name, values in times.items()} for part, times in spent.items()}, peaks, nll


def main():
    program, work, rounds, only = sys.argv[1:]
    shape = step_bench.SHAPES[next(name for name in step_bench.SHAPES if only in name)]
    torch.set_num_threads(THREADS)
    step_bench.make_folders(shape, work)
    captioner = recipe.Captioner({"vision": f"{work}/vision", "llm": f"{work}/llm", "weights": f"{work}/weights", "projector": "normal",
                                  "bos_id": -1, **{k: shape[k] for k in ("queries", "layers", "heads", "max_new")}})
    captioner.save(captioner.options["weights"])
    batch = step_bench.make_batch(shape)
    parity.write_input(f"{work}/input.safetensors", *batch)
    words, good, exact, before = [f"load={os.getloadavg()[0]:.1f}"], True, None, {}
    for precision in ("f32", "bf16") if step_bench.processor_has_bf16() else ("f32",):
        times, peaks, nll = measure(shape, program, work, int(rounds), precision, captioner, batch)
        exact = exact or nll["eager"]
        for part, of_part in times.items():
            theirs = {f"{precision} {name}": seconds for name, seconds in of_part.items() if name != "blipren"}
            theirs.update(before.get(part, {}))
            before[part] = theirs
            best = min(theirs, key=theirs.get)
            faster = theirs[best] / of_part["blipren"]
            print(f"{precision} {part}: " + " ".join(f"{name} {seconds:.3f} s" for name, seconds in of_part.items())
                  + f"; {faster:.2f} times PyTorch's fastest ({best})", flush=True)
            words.append(f"{precision}_{part}={faster:.2f}")
            good = good and faster >= BARS[precision][part]
        least = min(value for name, value in peaks.items() if name != "blipren")
        print(f"{precision} peak memory: " + " ".join(f"{name} {value} MB" for name, value in peaks.items()), flush=True)
        words.append(f"{precision}_memory={peaks['blipren'] / least:.2f}")
        good = good and peaks["blipren"] <= MEMORY_BAR * least
        good = good and abs(nll["blipren"] / exact - 1) <= step_bench.LOSS_BARS[precision]
    words.append(f"load_after={os.getloadavg()[0]:.1f}")
    print("bench-cpu: threads=%d rounds=%s torch=%s %s" % (THREADS, rounds, torch.__version__, " ".join(words)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

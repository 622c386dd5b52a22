"""The model on a GPU against transformers and PyTorch on the processor, in f32: the cases of tests/evidence/parity on made folders
and the demo's models; ours in f32 to that evidence's bars, in bf16 to its bars of bf16.

    python device_parity.py MODEL_DUMP WORK DEVICE ROOT        (PYTHONPATH: tests/oracle)
"""

import json
import math
import os
import sys
import time

import torch

import make_models
import parity
import recipe

CASES = 8
BARS = parity.BARS | {"bf16_grad": 1e-1, "greedy": 0.0, "beam": 0.0}


def main():
    dump, work, device, root = sys.argv[1:5]
    started = time.time()
    os.makedirs(f"{work}/models", exist_ok=True)
    make_models.make_vision(f"{work}/models")
    make_models.make_llm(f"{work}/models")
    demo = {"vision": f"{root}/deploy/demo/models/vision", "llm": f"{root}/deploy/demo/models/llm", "width": 0, "queries": 12,
            "layers": 2, "heads": 4, "projector": "moe", "experts": 4, "routing": "mean", "bos": "first", "bos_id": 1,
            "threads": 1, "max_new": 12, "beams": 3}
    worst, count = {}, 0
    for options in [demo, *list(parity.cases(f"{work}/models", None))[:CASES]]:
        torch.manual_seed(count)
        if options["width"] == 0:
            with open(f"{options['llm']}/config.json") as file:
                width = json.load(file)["hidden_size"]
            options["heads"] = next(h for h in (5, 4, 3, 2, 1) if width % h == 0)
        captioner = recipe.Captioner(options)
        options["weights"] = f"{work}/weights"
        captioner.save(options["weights"])
        batch = parity.make_input(captioner, count)
        parity.write_input(f"{work}/input.safetensors", *batch)
        expected = parity.expected_outputs(captioner, *batch, options)
        where = f"{os.path.basename(options['vision'])} + {os.path.basename(options['llm'])} {options['projector']}:"
        on = options | {"device": device}
        parity.compare(parity.run_ours(dump, work, on | {"precision": "f32"}), expected, worst, where)
        found = parity.run_ours(dump, work, on | {"precision": "bf16"})
        grads = [name for name in expected if name.startswith("grad.")]
        parity.note(worst, "bf16_grad", parity.relative(torch.cat([found[n].flatten() for n in grads]),
                                                        torch.cat([expected[n].flatten() for n in grads])), where)
        parity.compare_bf16(found, expected, parity.nll_in_bf16(captioner, *batch[:3]), batch[2], worst, where)
        count += 1
    bad, bars = 0, BARS | {"bf16_one": math.inf, "torch_one": math.inf}
    for kind, (error, where) in worst.items():
        bar = bars[kind]
        print(f"{kind:10} {error:.2e} (bar {bar:.0e}) at {where}{'' if error <= bar else '   <-- over its bar'}")
        bad += error > bar
    print(f"cases={count} seconds={time.time() - started:.0f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

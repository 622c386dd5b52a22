#!/usr/bin/env python3
"""tests/e2e/trajectory_test.py - twenty steps through the cluster have the losses that PyTorch computed for them.

The small, stored version of tests/evidence/trajectory; tests/golden/trajectory/make.py made what it compares with."""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../evidence"))
import lib  # noqa: E402
import steps  # noqa: E402

GOLDEN = os.path.normpath(os.path.join(HERE, "../golden/trajectory"))


def main():
    with open(os.path.join(GOLDEN, "expected.json")) as f:
        golden = json.load(f)
    case = dict(golden["case"], **{name: os.path.join(GOLDEN, golden["case"][name]) for name in ("data", "vision", "llm")})
    failed = 0
    with lib.Workplace("trajectory") as place:
        for projector in ("normal", "moe"):
            expected = golden[projector]
            for workers, accumulation in steps.WORLDS:
                found, _ = steps.train(place, dict(case, projector=projector), golden["seed"],
                                       os.path.join(GOLDEN, "initial-" + projector), workers, accumulation)
                loss = steps.worst("loss", expected, found, "loss_nats")
                tokens = [m["tokens"] for m in found] == [e["tokens"] for e in expected]
                good = loss <= steps.BAR and tokens
                failed += not good
                print("%s  %s, workers %d, accumulation %d: loss differs by %.1e, label tokens are %s"
                      % ("ok  " if good else "FAIL", projector, workers, accumulation, loss, "equal" if tokens else "other"),
                      flush=True)
    sys.exit(1 if failed else 0)


main()

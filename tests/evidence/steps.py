"""tests/evidence/steps.py - the runs of the trajectory commands: a case trained through the cluster, step by step.

A case is a dictionary: data, vision, llm (folders), captions (pairs of column and prefix), choice, bos, projector, experts,
routing, width (0 = the LLM's), queries, layers, heads."""
import shutil

import lib

BAR = 1e-4
STEPS, BATCH, HELD_OUT = 20, 8, 5
# Decay and the router's losses weigh more than by default: twenty steps have to show them.
TRAIN = {"lr": 0.002, "warmup_steps": 4, "floor": 0.1, "weight_decay": 1, "clip": 1.0}
BALANCE, ROUTER_Z = 10, 0.1
WORLDS = ((1, 1), (1, 4), (2, 1), (2, 4))  # workers, accumulation


def train(place, case, seed, initial, workers, accumulation, look=lambda run: None):
    """Trains from the weights in the folder `initial`. (metrics of every step, look(run folder))."""
    run, micro = place.path("run"), BATCH // (workers * accumulation)
    captions = ", ".join('{column: %s, prefix: "%s"}' % tuple(pair) for pair in case["captions"])
    lib.write_yaml(run + ".yaml", case["data"], run, seed=seed, data__validation=HELD_OUT, data__captions="[%s]" % captions,
                   data__caption_choice=case["choice"], data__max_bad_fraction=0.5, vision__path=case["vision"],
                   llm__path=case["llm"], llm__bos=case["bos"], qformer__width=case["width"] or "auto",
                   qformer__queries=case["queries"], qformer__layers=case["layers"], qformer__heads=case["heads"],
                   qformer__dropout=0, projector__kind=case["projector"], projector__experts=case["experts"],
                   projector__routing=case["routing"], projector__balance=BALANCE, projector__router_z=ROUTER_Z,
                   projector__dropout=0, train__steps=STEPS, train__global_batch=BATCH, train__micro_batch=micro,
                   train__grain=micro, train__init_from=initial, train__checkpoint_every=0, **{"train__" + key: value for key, value in TRAIN.items()})
    lib.train(run + ".yaml", "%d,1" % workers)
    found = lib.metrics(run), look(run)
    shutil.rmtree(run)
    return found


def worst(key, expected, found, name):
    """Largest relative difference of a figure over the steps, which must be all there."""
    if len(found) != len(expected):
        raise SystemExit("%d steps, expected %d" % (len(found), len(expected)))
    return max(abs(f[name] / e[key] - 1) for e, f in zip(expected, found))

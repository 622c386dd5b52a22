#!/usr/bin/env python3
"""tests/e2e/cluster_test.py [NAME…] - the programs as a user starts them, on the demo's models and a few scenes.

Each test is a function whose name is the sentence it proves. Prints one line a test; exit 0 only if all hold."""
import glob
import io
import json
import os
import re
import sys
import tarfile
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "evidence"))
from lib import *

STOPPED, CONFIG, USAGE, FORMAT, DATA, IO, PEER = 12, 3, 2, 4, 11, 5, 8


class Case:
    """A run folder of its own over shared data."""

    def __init__(self, place, name, **changes):
        self.place, self.name = place, name
        self.run, self.yaml = place.path(name), place.path(name + ".yaml")
        os.makedirs(os.path.dirname(self.yaml), exist_ok=True)
        self.changes = dict({"train__steps": 16, "train__checkpoint_every": 4}, **changes)
        self.write()

    def write(self, **more):
        changes = dict(self.changes, **more)
        write_yaml(self.yaml, changes.pop("data", self.place.path("data")), self.run, **changes)

    def start(self, local="2,2"):
        self.log = open(self.place.path(self.name + ".log"), "ab")
        return subprocess.Popen([program("blipren-coord"), "train", self.yaml, "--local", local], stdout=self.log,
                                stderr=subprocess.STDOUT)

    def train(self, local="2,2"):
        done = subprocess.run([program("blipren-coord"), "train", self.yaml, "--local", local], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300)
        return done.returncode, done.stdout.decode()

    def must_train(self, local="2,2"):
        code, output = self.train(local)
        expect(code == 0, "train ended with %d:\n%s" % (code, output))
        return output

    def committed(self):
        try:
            return sum(r["record"] == "COMMIT" for r in journal(self.run))
        except (OSError, ValueError):
            return 0


def expect(condition, message):
    if not condition:
        raise AssertionError(message)


def wait_until(condition, seconds=120):
    end = time.time() + seconds
    while not condition():
        expect(time.time() < end, "waited %d s in vain" % seconds)
        time.sleep(0.01)


def descendants_gone(pids):
    wait_until(lambda: not any(os.path.exists("/proc/%d" % p) and
                               open("/proc/%d/stat" % p).read().split()[2] != "Z" for p in pids), 30)


def children_of(process):
    return processes_of(process.pid, "blipren-")


def nobody_disturbed(folder):
    """No sanitizer and no assertion spoke, in children's logs neither: a child that ends so is only started again."""
    for base, _, names in os.walk(folder):
        for name in (n for n in names if n.endswith(".log")):
            with open(os.path.join(base, name), errors="replace") as f:
                text = f.read()
            expect(not re.search(r"Sanitizer|runtime error:|assertion failed", text), name + ":\n" + text[:12000])


# -- the tests --


def a_run_trains_saves_and_draws(place):
    case = Case(place, "plain", train__validate_every=8)
    output = case.must_train()
    expect("complete: 16 steps" in output, output)
    losses = [m["loss_nats"] for m in metrics(case.run)]
    expect(len(losses) == 16 and all(0 < x < 20 for x in losses), losses)
    expect([m["step"] for m in metrics(case.run, "validation")] == [8, 16], metrics(case.run, "validation"))
    lineage(case.run, 16)
    for name in ("curves.png", "config.yaml", "dataset.index", "val_predictions.jsonl", "checkpoints/latest/state.json",
                 "checkpoints/best/state.json", "checkpoints/latest/qformer.safetensors"):
        expect(os.path.exists(os.path.join(case.run, name)), name + " is missing")


def any_worlds_give_one_sum(place):
    sums = set()
    for local in ("1,1", "2,2", "3,1"):
        case = Case(place, "world-" + local.replace(",", "-"), train__reproducible=True, projector__kind="moe")
        output = case.must_train(local)
        sums.add(weights_sha(case.run))
        expect("weights: %s\n" % weights_sha(case.run) in output, output)
        expect(read_state(case.run)["weights_sha256"] in sums, read_state(case.run))
    expect(len(sums) == 1, sums)


def features_that_were_embedded_once_train_to_the_weights_of_the_images(place):
    images = Case(place, "from-images", train__reproducible=True, projector__kind="moe")
    images.must_train("1,1")
    cached = Case(place, "from-cache", train__reproducible=True, projector__kind="moe", cache__path=place.path("features"),
                  cache__dtype="f32", cache__shard_images=4)
    output = cached.must_train("1,1")
    expect("no cache in %s: training from the images" % place.path("features") in output, output)
    shutil.rmtree(cached.run)
    with open(place.path("embed.log"), "wb") as log:
        process = subprocess.Popen([program("blipren-coord"), "embed", cached.yaml, "--local", "2,1"], stdout=log, stderr=log)
    wait_until(lambda: glob.glob(place.path("features", "features-*.arrow")) or process.poll() is not None)
    family = children_of(process)
    process.send_signal(signal.SIGINT)
    expect(process.wait(timeout=60) in (STOPPED, 0), open(place.path("embed.log")).read())
    descendants_gone(family)
    for _ in range(2):  # makes what is missing, then nothing
        done = subprocess.run([program("blipren-coord"), "embed", cached.yaml, "--local", "1,2"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=120)
        expect(b"complete: 80 images in" in done.stdout, done.stdout.decode())
    done = subprocess.run([program("blipren-coord"), "embed", cached.yaml, "--plan"], stdout=subprocess.PIPE, timeout=120)
    plan = done.stdout.decode()
    expect(done.returncode == 0 and "80 distinct, 80 embedded already" in plan and re.search(r"\ntime +0:00 with one worker", plan) and
           re.search(r"\nbound +by (compute|disk|wire): one worker's steps take [0-9.e+]+ images/s", plan), plan)
    output = cached.must_train("2,2")
    expect("training from the cache" in output and re.search(r"token ids of \d+ captions come from .*captions.arrow", output), output)
    expect(weights_sha(cached.run) == weights_sha(images.run), "other weights")
    other = Case(place, "other-captions", train__reproducible=True, cache__path=place.path("features"), cache__dtype="f32",
                 data__max_tokens=40)
    output = other.must_train("1,1")
    expect("captions.arrow: its blipren." in output and "; captions are tokenized" in output, output)
    os.truncate(sorted(glob.glob(place.path("features", "features-*.arrow")))[5], 400)
    code, output = cached.train("1,1")
    expect(code == FORMAT and "features-00005-of-00020.arrow: expected a whole Arrow file" in output, output)


def write_shards(folder, data, count):
    """The samples of a folder with metadata.jsonl as tar shards, in the same order, each in another format."""
    lines = [json.loads(line) for line in open(os.path.join(data, "metadata.jsonl"))]
    os.makedirs(folder)
    for i in range(count):
        form = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)[i % 3]
        with tarfile.open(os.path.join(folder, "%05d.tar" % i), "w", format=form) as shard:
            for line in lines[len(lines) * i // count:len(lines) * (i + 1) // count]:
                name, end = os.path.splitext(line["file_name"])
                shard.add(os.path.join(data, line["file_name"]), name + end)
                fields = json.dumps({key: value for key, value in line.items() if key != "file_name"}).encode()
                member = tarfile.TarInfo(name + ".json")
                member.size = len(fields)
                shard.addfile(member, io.BytesIO(fields))


def tar_shards_train_to_the_weights_of_the_same_images_in_a_folder(place):
    images = Case(place, "from-folder", train__reproducible=True)
    images.must_train("1,1")
    write_shards(place.path("shards"), place.path("data"), 3)
    for name, source in (("from-shards", place.path("shards")), ("from-pattern", place.path("shards", "0*.tar"))):
        shards = Case(place, name, data=source, train__reproducible=True)
        shards.must_train("2,2")
        expect(weights_sha(shards.run) == weights_sha(images.run), "other weights from " + source)


def numbers_in_the_json_of_a_shard_filter_its_captions(place):
    """A text, null and NaN are no numbers; true is 1."""
    scores = ["0.9", "1", "true", "0.1", "null", '"0.9"', "NaN", None]
    kept = 3
    os.makedirs(place.path("numbered"))
    images = sorted(glob.glob(place.path("data", "*.png")) + glob.glob(place.path("data", "*", "*.png")))
    with tarfile.open(place.path("numbered", "0.tar"), "w") as shard:
        for i, score in enumerate(scores):
            shard.add(images[i], "%d.png" % i)
            fields = ('{"caption": "number %d"%s}' % (i, "" if score is None else ', "score": ' + score)).encode()
            member = tarfile.TarInfo("%d.json" % i)
            member.size = len(fields)
            shard.addfile(member, io.BytesIO(fields))
    case = Case(place, "filtered", data=place.path("numbered"), data__validation=0, data__captions="[{column: caption}]",
                data__filters="[{column: score, min: 0.5}]")
    done = subprocess.run([program("blipren-loader"), "inspect", case.yaml], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    expect(done.returncode == 0 and "%8d  train\n" % kept in done.stdout and "data.filters[0] score from 0.5" in done.stdout, done.stdout)


def a_source_that_goes_away_stops_a_resume_and_loses_nothing(place):
    for name in ("one", "other"):
        shutil.copytree(place.path("data"), place.path("two", name))
    entries = "[{source: %s}, {source: %s, weight: 0.5}]" % (place.path("two", "one"), place.path("two", "other"))
    case = Case(place, "two-sources", data__sources=entries, data__deduplicate="false", train__steps=4)
    case.must_train("1,1")
    os.rename(place.path("two", "other"), place.path("two", "gone"))
    case.write(train__steps=8)
    code, output = case.train("1,1")
    expect(code == IO and "%s: data.sources[1].source: cannot be opened as a folder" % place.path("two", "other") in output, output)
    expect(case.committed() == 4, "steps were lost")
    os.rename(place.path("two", "gone"), place.path("two", "other"))
    case.must_train("1,1")
    lineage(case.run, 8)


def read_state(run):
    with open(os.path.join(run, "checkpoints/latest/state.json")) as f:
        return json.load(f)


def a_checkpoint_of_an_older_version_resumes(place):
    """Its state.json has neither weights_sha256 nor zero."""
    case = Case(place, "older", train__steps=4)
    case.must_train("1,1")
    path = os.path.join(case.run, "checkpoints/latest/state.json")
    with open(path) as f:
        text = f.read()
    for key in ("weights_sha256", "zero", "sha256"):
        text = re.sub(r',?\n "%s": ("[^"]*"|\[\])' % key, "", text)
    # as the program composes what it hashes: sorted keys, no white space outside strings
    compact = re.sub(r'\n *', "", text).replace('": ', '":')
    own = hashlib.sha256(compact.encode()).hexdigest()
    with open(path, "w") as f:
        f.write(text.rstrip().rstrip("}").rstrip() + ',\n "sha256": "%s"\n}' % own)
    case.write(train__steps=8)
    output = case.must_train("1,1")
    expect("passing it over" not in output, output)
    lineage(case.run, 8)
    expect(read_state(case.run)["step"] == 8, read_state(case.run))


def a_run_folder_far_down_is_no_shorter_for_its_checkpoints(place):
    case = Case(place, "/".join(["deep"] + 6 * [200 * "d"]), train__steps=4)
    case.must_train("1,1")
    expect(read_state(case.run)["step"] == 4, read_state(case.run))
    expect(not [n for n in os.listdir(os.path.join(case.run, "checkpoints")) if ".tmp" in n], os.listdir(case.run))


def an_interrupt_in_every_phase_saves_and_resumes_to_the_same_weights(place):
    whole = Case(place, "whole", train__reproducible=True, train__validate_every=5)
    whole.must_train()
    expected = weights_sha(whole.run)
    for name, ready in (("early", lambda c: os.path.exists(os.path.join(c.run, "lock"))),
                        ("forming", lambda c: os.path.exists(os.path.join(c.run, "journal"))),
                        ("training", lambda c: c.committed() >= 3),
                        ("validating", lambda c: c.committed() >= 5),
                        ("late", lambda c: c.committed() >= 15)):
        case = Case(place, "stop-" + name, train__reproducible=True, train__validate_every=5)
        process = case.start()
        wait_until(lambda: ready(case) or process.poll() is not None)
        family = children_of(process)
        process.send_signal(signal.SIGINT if name != "late" else signal.SIGTERM)
        code = process.wait(timeout=120)
        expect(code in (STOPPED, 0, -signal.SIGINT), "%s: ended with %d" % (name, code))
        descendants_gone(family)
        case.must_train("1,1" if name == "training" else "2,2")
        lineage(case.run, 16)
        expect(weights_sha(case.run) == expected, name + ": other weights")


def a_second_signal_stops_at_once_and_leaves_nobody(place):
    case = Case(place, "twice", train__steps=1000)
    process = case.start()
    wait_until(lambda: case.committed() >= 2)
    family = children_of(process)
    expect(len(family) == 4, family)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    expect(process.wait(timeout=60) != 0, "exit code 0")
    descendants_gone(family)


def a_running_coordinator_tells_its_status_saves_and_stops_when_asked(place):
    def ask(*words, code=0):
        done = subprocess.run([program("blipren-coord"), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        expect(done.returncode == code, "%s ended with %d:\n%s" % (words, done.returncode, done.stdout.decode()))
        return done.stdout.decode()

    case = Case(place, "/".join(["asked"] + 2 * [100 * "d"]), train__steps=1000, train__checkpoint_every=0)
    os.makedirs(case.run, exist_ok=True)
    expect("no coordinator answers" in ask("status", case.run, code=PEER), "it answers before it is started")
    process = case.start("2,1")
    wait_until(lambda: case.committed() >= 3)
    ask("status", case.run, "--healthy")
    status = json.loads(ask("status", case.run, "--json"))
    workers = status["workers"]
    expect([w["rank"] for w in workers] == [0, 1] and all(w["compute_s"] > 0 for w in workers), workers)
    expect(len(status["loaders"]) == 1 and status["loaders"][0]["host"] == "127.0.0.1", status)
    text = ask("status", case.yaml)
    expect(re.search(r"^step \d+/1000, .*loss", text, re.M) and re.search(r"^   1  .*(train|member)", text, re.M), text)

    step = int(re.match(r"checkpoint of step (\d+) is on disk", ask("checkpoint-now", case.run)).group(1))
    expect(read_state(case.run)["step"] == step, read_state(case.run))
    done = case.committed()
    wait_until(lambda: case.committed() >= done + 2)

    family = children_of(process)
    step = int(re.match(r"stopped: step (\d+) is saved", ask("stop", case.run)).group(1))
    expect(process.wait(timeout=1) == STOPPED, "ended with %s" % process.returncode)
    expect(not any(os.path.exists("/proc/%d" % p) for p in family), "children outlive it")
    expect(read_state(case.run)["step"] == step == case.committed(), read_state(case.run))
    expect("no coordinator answers" in ask("status", case.run, code=PEER), "it answers after its end")


def a_closed_terminal_and_a_reader_that_is_gone_lose_nothing(place):
    def start(name, **how):
        case = Case(place, name, train__steps=1000, train__checkpoint_every=0, log__every=1)
        process = subprocess.Popen([program("blipren-coord"), "train", case.yaml, "--local", "1,1"], **how)
        wait_until(lambda: case.committed() >= 2)
        return case, process

    def is_saved(case, process):
        expect(process.wait(timeout=60) == STOPPED, "%s: ended with %d" % (case.name, process.returncode))
        state = json.load(open(os.path.join(case.run, "checkpoints/latest/state.json")))
        expect(state["step"] == case.committed(), "%s: %d saved of %d" % (case.name, state["step"], case.committed()))

    case, process = start("hangup", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,  # these tests may run under nohup
                          preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    is_saved(case, process)

    case, process = start("piped", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.close()
    done = case.committed()
    wait_until(lambda: case.committed() >= done + 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    is_saved(case, process)

    case, process = start("nohup", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    done = case.committed()
    wait_until(lambda: case.committed() >= done + 2 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    is_saved(case, process)


def children_die_with_a_killed_coordinator(place):
    case = Case(place, "orphans", train__steps=1000)
    process = case.start()
    wait_until(lambda: case.committed() >= 1)
    family = children_of(process)
    process.kill()
    process.wait()
    descendants_gone(family)


def a_killed_worker_costs_no_step(place):
    for projector in ("normal", "moe"):
        case = Case(place, "killed-" + projector, train__steps=30, projector__kind=projector)
        process = case.start()
        wait_until(lambda: case.committed() >= 3)
        os.kill(processes_of(process.pid, "blipren-worker")[0], signal.SIGKILL)
        expect(process.wait(timeout=200) == 0, "see %s.log" % case.run)
        lineage(case.run, 30)


def a_changed_key_is_refused_by_name_and_a_harmless_one_is_not(place):
    case = Case(place, "changed")
    case.must_train("1,1")
    case.write(train__lr=0.5)
    code, output = case.train()
    expect(code == CONFIG and "train.lr" in output, output)
    case.write(log__every=1)
    case.must_train("1,1")
    case.write(train__steps=15)
    code, output = case.train()
    expect(code == CONFIG and "train.steps" in output and "than the 15 asked for" in output, output)
    done = subprocess.run([program("blipren-coord"), "check", case.yaml], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == CONFIG and b"done 16 steps already" in done.stdout, done.stdout)


def a_run_is_scaled_up_and_down_while_it_trains(place):
    def scale(*words, code=0):
        done = subprocess.run([program("blipren-coord"), "scale", case.run, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        expect(done.returncode == code, done.stdout.decode())
        return done.stdout.decode()

    sums = set()
    for scaled in (False, True):
        case = Case(place, "scaled" if scaled else "unscaled", train__reproducible=True, train__steps=60)
        process = case.start("1,1")
        if scaled:
            wait_until(lambda: case.committed() >= 3)
            expect(re.fullmatch(r"workers 1 -> 2, training paused for [0-9.]+ s\n", scale("2")), "2")
            wait_until(lambda: len(children_of(process)) == 3)
            expect(re.fullmatch(r"workers 2 -> 1, training paused for [0-9.]+ s\n", scale("1")), "1")
            wait_until(lambda: len(children_of(process)) == 2)
            expect("expected 1 to 6 workers" in scale("7", code=USAGE), "7")
        expect(process.wait() == 0, "it ended badly")
        sums.add(weights_sha(case.run))
    expect(len(sums) == 1, sums)


def two_coordinators_do_not_share_a_run_folder(place):
    case = Case(place, "shared", train__steps=1000)
    process = case.start("1,1")
    wait_until(lambda: case.committed() >= 1)
    code, output = case.train("1,1")
    expect(code == USAGE and "another coordinator" in output, output)
    process.kill()
    process.wait()


def a_damaged_checkpoint_is_named_and_the_one_before_is_used(place):
    case = Case(place, "damaged", train__reproducible=True)
    case.must_train()
    expected = weights_sha(case.run)
    case = Case(place, "damaged2", train__reproducible=True, train__steps=16)
    process = case.start()
    wait_until(lambda: sum(r["record"] == "CHECKPOINT" for r in journal(case.run)) >= 3
               if os.path.exists(os.path.join(case.run, "journal")) else False)
    process.kill()
    process.wait()
    last = [r for r in journal(case.run) if r["record"] == "CHECKPOINT"][-1]
    victim = os.path.join(case.run, "checkpoints/step-%06d-g%d/projector.safetensors" % (last["step"], last["generation"]))
    with open(victim, "r+b") as f:
        f.seek(-3, 2)
        byte = f.read(1)
        f.seek(-3, 2)
        f.write(bytes([byte[0] ^ 1]))
    output = case.must_train()
    expect(victim in output and "damaged" in output, output)
    expect(weights_sha(case.run) == expected, "other weights")


def a_run_starts_from_a_checkpoints_weights_or_says_why_not(place):
    first = Case(place, "first")
    first.must_train()
    begun = os.path.join(first.run, "checkpoints/latest")
    second = Case(place, "second", train__init_from=begun, train__steps=4, seed=9)
    second.must_train("1,1")
    expect(tensors(os.path.join(second.run, "checkpoints/step-000000-g1/qformer.safetensors")) ==
           tensors(os.path.join(begun, "qformer.safetensors")), "other weights at step 0")
    expect([m["step"] for m in metrics(second.run)] == [1, 2, 3, 4], metrics(second.run))

    def check(**changes):
        case = Case(place, "unfit", train__init_from=begun, **changes)
        done = subprocess.run([program("blipren-coord"), "check", case.yaml], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode()

    code, output = check()
    expect(code == 0 and "init_from" in output, output)
    code, output = check(qformer__layers=3)
    expect(code == CONFIG and "train.init_from" in output and "weights" in output, output)
    with open(os.path.join(begun, "projector.safetensors"), "r+b") as f:
        f.truncate(os.path.getsize(os.path.join(begun, "projector.safetensors")) - 4)
    code, output = check()
    expect(code == FORMAT and "projector.safetensors" in output and "damaged" in output, output)


def best_is_the_lowest_validation_loss_also_after_a_resume(place):
    case = Case(place, "best", train__steps=12, train__validate_every=4, train__keep_last=1)
    case.must_train("1,1")
    folder = os.path.join(case.run, "checkpoints")

    def best():
        return os.readlink(os.path.join(folder, "best"))

    found = {m["step"]: m["loss_nats"] for m in metrics(case.run, "validation")}
    lowest = best()
    expect(int(lowest.split("-")[1]) == min(found, key=found.get), "%s of %s" % (lowest, found))
    # a loss that nothing reaches again: what goes on must leave that checkpoint and the link alone
    name = os.path.join(case.run, "metrics.jsonl")
    lines = [json.loads(line) for line in open(name)]
    for line in lines:
        if line["type"] == "validation" and line["step"] == min(found, key=found.get):
            line["loss_nats"] = 1e-6
    with open(name, "w") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
    case.write(train__steps=20)
    case.must_train("1,1")
    expect(best() == lowest, "%s instead of %s" % (best(), lowest))
    kept = {n for n in os.listdir(folder) if n.startswith("step-")}
    expect(kept == {lowest, os.readlink(os.path.join(folder, "latest"))}, kept)


def bad_images_void_their_slots_and_are_listed(place):
    data = place.path("bad")
    shutil.copytree(place.path("data"), data)
    names = sorted(n for n in os.listdir(data) if n.endswith(".png"))
    broken = {names[3]: b"", names[7]: b"not an image", names[11]: open(os.path.join(data, names[11]), "rb").read()[:200]}
    for name, content in broken.items():
        with open(os.path.join(data, name), "wb") as f:
            f.write(content)
    case = Case(place, "badimages", data=data, train__reproducible=True, data__max_bad_fraction=0.2,
                data__validation=0)
    case.must_train("1,2")
    again = Case(place, "badimages2", data=data, train__reproducible=True, data__max_bad_fraction=0.2,
                 data__validation=0)
    again.must_train("2,1")
    expect(weights_sha(case.run) == weights_sha(again.run), "other weights")
    listed = [json.loads(line) for line in open(os.path.join(case.run, "bad_samples.jsonl"))]
    expect({os.path.basename(b["file_name"]) for b in listed} == set(broken), listed)
    expect(all(b["reason"] for b in listed), listed)
    case.write(train__steps=40)
    case.must_train("1,1")
    expect([json.loads(line) for line in open(os.path.join(case.run, "bad_samples.jsonl"))] == listed, "listed again")


def images_with_damaged_data_are_used_counted_and_listed(place):
    data = place.path("damaged-data")
    shutil.copytree(place.path("data"), data)
    with open(os.path.join(ROOT, "tests/golden/image/restart.jpg"), "rb") as f:
        sound = f.read()
    marker = sound.index(b"\xff\xd1") + 1
    rows = [json.loads(line) for line in open(os.path.join(data, "metadata.jsonl"))]
    for i, byte in ((3, 0xd5), (7, 0xd6)):  # a restart marker out of turn: what follows it is made up
        rows[i]["file_name"] = "damaged-%d.jpg" % i
        with open(os.path.join(data, rows[i]["file_name"]), "wb") as f:
            f.write(sound[:marker] + bytes([byte]) + sound[marker + 1:])
    with open(os.path.join(data, "metadata.jsonl"), "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)
    case = Case(place, "damagedimages", data=data, data__validation=0)
    output = case.must_train("1,2")
    listed = [json.loads(line) for line in open(os.path.join(case.run, "damaged_images.jsonl"))]
    names = [os.path.basename(d["file_name"]) for d in listed]
    expect(set(names) == {"damaged-3.jpg", "damaged-7.jpg"} and len(names) == 2, listed)
    expect(output.count("has damaged data") == 1 and names[0] in output, output)
    expect("2 of the images used have damaged data: %s/damaged_images.jsonl" % case.run in output, output)
    expect(not open(os.path.join(case.run, "bad_samples.jsonl")).read(), "they are no bad samples")
    expect(all(m["images"] == 12 for m in metrics(case.run)), "a slot was void")


def write_tensors(path, found):
    """The inverse of tensors()."""
    header, data = {}, b""
    for name, (dtype, shape, values) in found.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def weights_that_are_not_finite_end_the_run_and_check_names_them(place):
    llm = place.path("nan-llm")
    shutil.copytree(os.path.join(ROOT, "deploy/demo/models/llm"), llm)
    found = tensors(os.path.join(llm, "model.safetensors"))
    dtype, shape, values = found["model.norm.weight"]
    expect(dtype == "BF16", dtype)
    found["model.norm.weight"] = dtype, shape, values[:20] + struct.pack("<H", 0x7fc0) + values[22:]
    write_tensors(os.path.join(llm, "model.safetensors"), found)
    case = Case(place, "notfinite", llm__path=llm, train__validate_every=4)
    code, output = case.train("1,1")
    expect(code == DATA and "all of the last 16 steps were skipped: nothing is trained; run `blipren-coord check " in output and
           "complete:" not in output, (code, output))
    done = subprocess.run([program("blipren-coord"), "check", case.yaml], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(done.returncode == FORMAT and b'tensor "model.norm.weight": expected finite values, found nan at element 10' in
           done.stdout and b"found nan" in done.stderr, done)
    done = subprocess.run([program("blipren-coord"), "check", case.yaml], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == FORMAT and done.stdout.count(b"found nan") == 1, done)


def the_readmes_run_works_shortened_and_a_length_in_epochs_too(place):
    text = open(os.path.join(ROOT, "README.md")).read()
    yaml = text.split("```yaml\n")[1].split("```")[0]
    for found, mine in (("google/siglip-so400m-patch14-384", os.path.join(ROOT, "deploy/demo/models/vision")), ("run_dir: run", "run_dir: readme"),
                        ("meta-llama/Llama-3.2-1B", os.path.join(ROOT, "deploy/demo/models/llm")), ("source: photos", "source: data"),
                        ("global_batch: 256", "global_batch: 16"), ("steps: 6000", "steps: 30")):
        expect(found in yaml, found)
        yaml = yaml.replace(found, mine)
    with open(place.path("readme.yaml"), "w") as f:
        f.write(yaml + "qformer: {queries: 4, layers: 1, heads: 4}\n")
    done = subprocess.run([program("blipren-coord"), "train", place.path("readme.yaml")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(done.returncode == 0 and b"complete: 30 steps" in done.stdout, done.stdout.decode())
    case = Case(place, "epochs", train__steps='"auto"', train__epochs=2)
    with open(case.yaml) as f:
        yaml = f.read().replace('steps: "auto"\n', "steps: auto\n")
    with open(case.yaml, "w") as f:
        f.write(yaml)
    output = case.must_train("1,1")
    expect("complete: 12 steps" in output, output)  # 72 samples to train, 12 a step
    page = subprocess.run([program("blipren-coord"), "check", case.yaml], stdout=subprocess.PIPE).stdout.decode()
    expect("12 steps of 12 samples in 6 micro-batches: 2.00 epochs" in page, page)
    with open(case.yaml, "w") as f:
        f.write(yaml.replace("epochs: 2", "epochs: 3"))
    output = case.must_train("1,1")
    expect("train.steps was 12, is 18" in output and "complete: 18 steps" in output, output)


def losses_in_bf16_are_those_in_f32(place):
    for kind in ("normal", "moe"):
        runs = {}
        for precision in ("f32", "bf16"):
            case = Case(place, "precision-%s-%s" % (kind, precision), precision=precision, projector__kind=kind, qformer__dropout=0,
                        projector__dropout=0, train__steps=24, train__checkpoint_every=0)
            case.must_train("1,1")
            runs[precision] = case
        wide, narrow = ([m["loss_nats"] for m in metrics(runs[p].run)] for p in ("f32", "bf16"))
        worst = max(abs(b / a - 1) for a, b in zip(wide, narrow))
        expect(len(wide) == len(narrow) == 24 and worst < 0.01, (kind, worst, wide, narrow))
        with open(os.path.join(runs["bf16"].run, "logs/worker-0.log")) as f:
            rounds = "bf16 products" in f.read()  # else f32 products of weights that are bf16 in the files
        expect((worst > 0) == rounds, (kind, worst, rounds))
        checkpoint = os.path.join(runs["bf16"].run, "checkpoints/latest")
        with open(place.path("data", "pairs.jsonl"), "w") as f:
            for i in range(8):
                f.write(json.dumps({"file_name": "%06d.png" % i, "caption": "A red circle and two blue stars."}) + "\n")
        score = {p: [json.loads(line)["nll"] for line in subprocess.run(
            [program("blipren-worker"), "score", "--checkpoint", checkpoint, "--precision", p, "--pairs",
             place.path("data", "pairs.jsonl")], stdout=subprocess.PIPE, check=True).stdout.splitlines()] for p in ("f32", "bf16")}
        os.unlink(place.path("data", "pairs.jsonl"))
        worst = max(abs(b / a - 1) for a, b in zip(score["f32"], score["bf16"]))
        expect(len(score["f32"]) == 8 and worst < 0.01 and (worst > 0) == rounds, (kind, worst, score))


def start_cluster(place, case, **options):
    """A coordinator without children, its log (open, and its path), and where it listens."""
    path = place.path(case.name + ".log")
    log = open(path, "wb")
    coordinator = subprocess.Popen([program("blipren-coord"), "train", case.yaml, "--cluster"], stdout=log, stderr=log,
                                   **options)
    endpoint = []

    def listening():
        for line in open(path, errors="replace"):
            if "endpoint=" in line:
                endpoint.append(line.split("endpoint=")[1].split()[0])
        return endpoint

    wait_until(listening)
    return coordinator, log, path, endpoint[0]


def workers_and_loaders_started_by_hand_join(place):
    case = Case(place, "byhand")
    coordinator, log, _, endpoint = start_cluster(place, case)
    peers = [subprocess.Popen([program(p), "--coord", endpoint, "--threads", "1"], stdout=log, stderr=log)
             for p in ("blipren-loader", "blipren-worker")]
    expect(coordinator.wait(timeout=120) == 0, open(place.path("byhand.log")).read())
    expect([p.wait(timeout=60) for p in peers] == [0, 0], open(place.path("byhand.log")).read())


def folders_that_are_elsewhere_on_another_host_are_mapped_and_judged_by_their_hashes(place):
    models = os.path.join(ROOT, "deploy/demo/models")
    shutil.copytree(models, place.path("elsewhere", "models"))
    shutil.copytree(place.path("data"), place.path("elsewhere", "photos"))
    shutil.copytree(place.path("elsewhere", "models"), place.path("wrong", "models"))
    with open(place.path("wrong", "models", "llm", "config.json"), "a") as f:
        f.write("\n")
    shutil.copytree(place.path("data"), place.path("wrong", "photos"))
    for name in glob.glob(place.path("wrong", "photos", "*.png")):
        with open(name, "ab") as f:
            f.write(b"other bytes")
    case = Case(place, "mapped", train__reproducible=True)
    coordinator, log, path, endpoint = start_cluster(place, case)

    def command(kind, *mappings):
        return [program("blipren-" + kind), "--coord", endpoint, "--threads", "1", *sum((["--map", "%s=%s" % m] for m in mappings), [])]

    def refused(words, kind, *mappings):
        done = subprocess.run(command(kind, *mappings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=60)
        expect(done.returncode == PEER and words in done.stdout, "%d: %s" % (done.returncode, done.stdout))

    data = place.path("data")
    refused("refused: its llm.path is another model than the run's (expected SHA-256 ", "worker", (models, place.path("wrong/models")))
    refused("refused: its llm.path is another model than the run's (expected SHA-256 ", "loader", (models, place.path("wrong/models")))
    refused("say with --map FROM=TO where it is", "loader", (models, place.path("wrong/models")))
    refused("does not see this run's images (expected 8, found 0)", "loader", (data, place.path("wrong/photos")))
    refused("say with --map FROM=TO where they are", "loader", (data, place.path("nowhere")))
    peers = [subprocess.Popen(command(kind, (models, place.path("elsewhere/models")), (data, place.path("elsewhere/photos"))),
                              stdout=log, stderr=log) for kind in ("loader", "worker")]
    expect(coordinator.wait(timeout=120) == 0, open(path).read())
    expect([p.wait(timeout=60) for p in peers] == [0, 0], open(path).read())
    expect("--map %s=%s: no path of this run is" % (models, place.path("elsewhere/models")) not in open(path).read(), open(path).read())
    state = read_state(case.run)
    expect(state["llm"]["path"] == os.path.join(models, "llm"), state["llm"])
    plain = Case(place, "unmapped", train__reproducible=True)
    plain.must_train("1,1")
    expect(weights_sha(plain.run) == weights_sha(case.run), "other weights")


def a_worker_that_does_not_see_the_cache_gets_its_rows_from_loaders(place):
    """Each process sees another folder under /proc/self/cwd, as hosts do under one path."""
    with_cache, without = place.path("with-cache"), place.path("without-cache")
    os.mkdir(with_cache)
    os.mkdir(without)
    changes = {"train__reproducible": True, "train__validate_every": 8, "cache__dtype": "int8"}
    mapped = Case(place, "cache-seen", cache__path=os.path.join(with_cache, "features"), **changes)
    subprocess.run([program("blipren-coord"), "embed", mapped.yaml, "--local", "1,1"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, timeout=120)
    mapped.must_train("1,1")
    shipped = Case(place, "shipped", cache__path="/proc/self/cwd/features", cluster__workers_min=2, **changes)
    coordinator, log, said, endpoint = start_cluster(place, shipped, cwd=with_cache)
    start = lambda name, folder: subprocess.Popen([program("blipren-" + name), "--coord", endpoint, "--threads", "1"], cwd=folder,
                                                  stdout=log, stderr=log)
    peers = [start("loader", with_cache), start("worker", with_cache), start("worker", without)]
    expect([p.wait(timeout=120) for p in [coordinator, *peers]] == [0, 0, 0, 0], open(said).read())
    expect(len(re.findall(r"no feature cache in /proc/self/cwd/features on this host: loaders ship its rows, [0-9.]+ MB an image",
                          open(said).read())) == 1, open(said).read())
    expect(weights_sha(shipped.run) == weights_sha(mapped.run), "other weights")
    expect(metrics(shipped.run, "validation")[-1]["loss_nats"] == metrics(mapped.run, "validation")[-1]["loss_nats"], "other losses")
    # a loader must see it
    shipped = Case(place, "blind", cache__path="/proc/self/cwd/features", **changes)
    coordinator, log, said, endpoint = start_cluster(place, shipped, cwd=with_cache)
    expect(start("loader", without).wait(timeout=60) == DATA, open(said).read())
    expect("mount cache.path at the same path on every host that has a loader" in open(said).read(), open(said).read())
    coordinator.send_signal(signal.SIGINT)
    coordinator.wait(timeout=60)


def elsewhere(command, place):
    """COMMAND on a host that sees neither run folder nor data nor the demo's models where they are, but copies under host/."""
    if not os.path.isdir(place.path("host")):
        shutil.copytree(os.path.join(ROOT, "deploy/demo/models"), place.path("host", "models"))
        shutil.copytree(place.path("data"), place.path("host", "photos"))
        os.mkdir(place.path("hidden"))
    hide = "".join("mkdir -p %s && mount --bind %s %s && " % (folder, place.path("hidden"), folder)
                   for folder in (place.path("unseen"), place.path("data"), os.path.join(ROOT, "deploy/demo/models")))
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide + 'exec "$@"', "sh", program(command[0]), *command[1:],
            "--map", "%s=%s" % (os.path.join(ROOT, "deploy/demo/models"), place.path("host/models")),
            "--map", "%s=%s" % (place.path("data"), place.path("host/photos"))]


def hosts_that_do_not_see_the_run_folder_train_to_the_same_weights(place):
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
        print("      no mount namespaces here: nothing is hidden from anybody")
        return
    plain = Case(place, "seen", train__reproducible=True)
    plain.must_train("1,1")
    case = Case(place, "unseen/run", train__reproducible=True)
    environment = dict(os.environ, TMPDIR=place.path("host"))

    def join(log, endpoint, kinds):
        return [subprocess.Popen(elsewhere(["blipren-" + kind, "--coord", endpoint, "--threads", "1"], place), stdout=log, stderr=log,
                                 env=environment) for kind in kinds]

    coordinator, log, path, endpoint = start_cluster(place, case)
    peers = join(log, endpoint, ("loader", "worker", "worker"))
    wait_until(lambda: case.committed() >= 6 or coordinator.poll() is not None)
    peers[1].kill()
    peers += join(log, endpoint, ("worker",))
    done = case.committed()
    wait_until(lambda: case.committed() >= done + 2 or coordinator.poll() is not None)
    coordinator.kill()
    coordinator.wait()
    for peer in peers:
        peer.kill()
        peer.wait()
    expect("this host does not see the run folder" in open(path).read(), open(path).read())
    coordinator, log, path, endpoint = start_cluster(place, case)
    peers = join(log, endpoint, ("loader", "worker", "worker"))
    expect(coordinator.wait(timeout=120) == 0, open(path).read())
    expect([p.wait(timeout=60) for p in peers] == [0, 0, 0], open(path).read())
    lineage(case.run, 16)
    expect(weights_sha(plain.run) == weights_sha(case.run), "other weights")
    left = [n for n in os.listdir(os.path.join(case.run, "checkpoints")) if n.endswith(".sent")]
    expect(not left, left)
    expect(sorted(os.listdir(place.path("host"))) == ["models", "photos"], os.listdir(place.path("host")))


def own_address():
    """An address of this machine that is not loopback, or None."""
    for line in subprocess.run(["hostname", "-I"], stdout=subprocess.PIPE, encoding="utf-8").stdout.split():
        if re.fullmatch(r"[0-9.]+", line):
            return line
    return None


def beyond_loopback_whoever_has_the_keys_joins_and_nobody_else(place):
    """One machine with its own address: that its packets take a short way changes nothing of what is asked."""
    address = own_address()
    if not address:
        print("      this machine has no address but loopback: on 127.0.0.1, where keys can be given too")
        address = "127.0.0.1"
    keys, others = place.path("keys"), place.path("other-keys")
    for folder in (keys, others):
        subprocess.run([program("blipren-coord"), "keygen", folder], check=True, stdout=subprocess.DEVNULL)
    case = Case(place, "keys", cluster__bind=address, cluster__keys=keys)
    coordinator, log, path, endpoint = start_cluster(place, case)

    def peer(kind, *options):
        host = ["--host", address] if kind == "worker" else []
        return [program("blipren-" + kind), "--coord", endpoint, *host, *options]

    def refused(code, words, *command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=60)
        expect(done.returncode == code and words in done.stdout, "%d: %s" % (done.returncode, done.stdout))

    if address != "127.0.0.1":
        for kind in ("worker", "loader"):
            refused(USAGE, "is not on this machine alone, and there are no keys; give --keys DIR", *peer(kind))
    # who has no keys may be turned away before it can tell why
    for options, words in ((["--keys", others], "what is listening there does not have the same keys"), (["--insecure"], "(--keys)")):
        for kind in ("worker", "loader"):
            refused(PEER, words, *peer(kind, "--patience", "2", *options))
    os.chmod(os.path.join(others, "cluster.key"), 0o644)
    refused(USAGE, "other-keys/cluster.key: --keys: expected mode 0600, found 0644", *peer("worker", "--keys", others))
    peers = [subprocess.Popen(peer(kind, "--threads", "1", "--keys", keys), stdout=log, stderr=log) for kind in ("loader", "worker")]
    expect(coordinator.wait(timeout=120) == 0, open(path).read())
    expect([p.wait(timeout=60) for p in peers] == [0, 0], open(path).read())
    said = open(path).read()
    expect("security=keys" in said and "does not have this cluster's keys" in said, said)
    expect(len(re.findall("joins as", said)) == 2, said)


def children_of_a_coordinator_with_keys_have_them_too(place):
    keys = place.path("local-keys")
    subprocess.run([program("blipren-coord"), "keygen", keys], check=True, stdout=subprocess.DEVNULL)
    expect("complete: 16 steps" in Case(place, "local-keys-run", cluster__keys=keys).must_train("1,1"), "")


def processes_asked_to_end_all_at_once_lose_nothing(place):
    case = Case(place, "all-at-once", train__steps=1000, train__checkpoint_every=0)
    coordinator, log, said, endpoint = start_cluster(place, case)
    expect(open(os.path.join(case.run, "endpoint")).read() == endpoint + "\n", "the run folder names another endpoint")
    start = lambda name, grace: subprocess.Popen([program(name), "--coord", endpoint, "--threads", "1", "--grace", grace],
                                                 stdout=log, stderr=log)
    peers = [start("blipren-loader", "60"), start("blipren-worker", "60"), start("blipren-worker", "60")]
    wait_until(lambda: case.committed() >= 2)
    # one alone: its grace ends before the run does
    one = start("blipren-loader", "1")
    wait_until(lambda: open(said, errors="replace").read().count("joins as loader") == 2)
    one.send_signal(signal.SIGTERM)
    expect(one.wait(timeout=60) == STOPPED and coordinator.poll() is None, open(said).read())
    for process in [*peers, coordinator]:
        process.send_signal(signal.SIGTERM)
    expect([p.wait(timeout=60) for p in [*peers, coordinator]] == 4 * [STOPPED], open(said).read())
    expect(read_state(case.run)["step"] == case.committed() >= 2, read_state(case.run))
    expect(not os.path.exists(os.path.join(case.run, "endpoint")), "the run folder names an endpoint where nobody listens")


def a_run_that_ends_early_is_the_error_of_whoever_was_started_by_hand(place):
    data = place.path("allbad")
    shutil.copytree(place.path("data"), data)
    for name in os.listdir(data):
        if name.endswith(".png"):
            with open(os.path.join(data, name), "wb") as f:
                f.write(b"no image: " + name.encode())

    def run(name, code, end, **changes):
        case = Case(place, name, train__steps=1000, **changes)
        coordinator, _, said, endpoint = start_cluster(place, case)
        peers = [subprocess.Popen([program(p), "--coord", endpoint, "--threads", "1"], stderr=subprocess.PIPE)
                 for p in ("blipren-loader", "blipren-worker")]
        end(case, coordinator)
        expect(coordinator.wait(timeout=120) == code, open(said).read())
        for peer in peers:
            _, errors = peer.communicate(timeout=60)
            lines = [line for line in errors.decode().splitlines() if " error " in line]
            expect(peer.returncode == code and len(lines) == 1 and endpoint in lines[0], "%d %s" % (peer.returncode, lines))
        return open(said).read()

    said = run("handdata", DATA, lambda case, coordinator: None, data=data, train__checkpoint_every=0)
    expect("data.max_bad_fraction" in said and "bad_samples.jsonl lists" in said, said)

    def interrupt(case, coordinator):
        wait_until(lambda: case.committed() >= 1)
        coordinator.send_signal(signal.SIGINT)

    run("handstop", STOPPED, interrupt)


def a_reproducible_run_refuses_a_worker_that_computes_with_other_instructions(place):
    """The second worker is told to use less of this processor than the first."""
    case = Case(place, "kinds", train__reproducible=True, train__steps=100000)
    coordinator, log, path, endpoint = start_cluster(place, case)
    command = [program("blipren-worker"), "--coord", endpoint, "--threads", "1"]
    loader = subprocess.Popen([program("blipren-loader"), "--coord", endpoint], stdout=log, stderr=log)
    first = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ, DNNL_MAX_CPU_ISA="AVX"))
    wait_until(lambda: "joins as worker" in open(path, errors="replace").read())
    other = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                           env=dict(os.environ, DNNL_MAX_CPU_ISA="SSE41"))
    line = other.stdout.decode()
    expect(other.returncode == PEER and "a reproducible run needs workers of one kind" in line and
           "oneDNN" in line and "train.reproducible: false" in line, line)
    wait_until(lambda: "checkpoint step=4" in open(path, errors="replace").read())  # before that nothing was computed on any device
    coordinator.send_signal(signal.SIGINT)
    expect(coordinator.wait(timeout=120) == STOPPED, open(path).read())
    for p in (first, loader):
        p.wait(timeout=60)
    # alone it may continue the run, and says what that means
    coordinator, log, path, endpoint = start_cluster(place, case)
    peers = [subprocess.Popen([program("blipren-" + name), "--coord", endpoint, "--threads", "1"], stdout=log, stderr=log,
                              env=dict(os.environ, DNNL_MAX_CPU_ISA="SSE41")) for name in ("loader", "worker")]
    wait_until(lambda: "the run continues on another kind of device" in open(path, errors="replace").read())
    coordinator.send_signal(signal.SIGINT)
    expect(coordinator.wait(timeout=120) == STOPPED, open(path).read())
    for p in peers:
        p.wait(timeout=60)


def a_trained_captioner_captions_and_scores(place):
    case = Case(place, "speaks")
    case.must_train()
    data, checkpoint = place.path("data"), os.path.join(case.run, "checkpoints/latest")
    images = [os.path.join(data, n) for n in sorted(os.listdir(data)) if n.endswith(".png")][:3]
    samples = [json.loads(line) for line in open(os.path.join(case.run, "val_predictions.jsonl"))]
    expect(samples and all(s["caption"] == s["caption"].strip() for s in samples), samples)
    done = subprocess.run([program("blipren-worker"), "caption", "--checkpoint", checkpoint, "--json", "--attention",
                           place.path("attention.png")] + images, stdout=subprocess.PIPE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    expect([set(line) for line in lines] == [{"file_name", "caption", "token_ids", "ended"}] * 3, lines)
    done = subprocess.run([program("blipren-worker"), "caption", "--checkpoint", checkpoint, "--json", images[0], case.yaml, images[1]],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    mixed = [json.loads(line) for line in done.stdout.splitlines()]
    expect(done.returncode == DATA and [m["file_name"] for m in mixed] == [images[0], case.yaml, images[1]] and
           mixed[0] == lines[0] and set(mixed[1]) == {"file_name", "error"} and mixed[2] == lines[1], mixed)
    done = subprocess.run([program("blipren-worker"), "caption", "--checkpoint", case.run, images[0]], stderr=subprocess.PIPE)
    expect(done.returncode == USAGE and b"did you mean %s?" % checkpoint.encode() in done.stderr, done.stderr)
    expect(open(place.path("attention.png"), "rb").read(8) == b"\x89PNG\r\n\x1a\n", "no attention maps")
    with open(os.path.join(data, "pairs.jsonl"), "w") as f:
        for line, name in zip(lines, (os.path.basename(images[0]), images[1])):
            f.write(json.dumps({"file_name": name, "caption": line["caption"]}) + "\n")
        f.write(json.dumps({"file_name": "absent.png", "caption": "x"}) + "\n")
    done = subprocess.run([program("blipren-worker"), "score", "--checkpoint", checkpoint, "--pairs",
                           os.path.join(data, "pairs.jsonl")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.unlink(os.path.join(data, "pairs.jsonl"))
    scored = [json.loads(line) for line in done.stdout.splitlines()]
    expect(done.returncode == DATA, done.returncode)
    expect(all(s["nll"] > 0 and s["tokens"] > 1 for s in scored[:2]) and "absent.png" in scored[2]["error"], scored)


def what_an_image_adds_is_scored_and_filtered_by(place):
    first = Case(place, "gain-first", train__steps=4)
    first.must_train("1,1")
    data = place.path("scored")
    shutil.copytree(place.path("data"), data)
    pairs = os.path.join(data, "metadata.jsonl")
    command = [program("blipren-worker"), "score", "--checkpoint", os.path.join(first.run, "checkpoints/latest"), "--column",
               "short_caption", "--pairs", pairs, "--prefix", "Short caption:"]
    done = subprocess.run([*command, "--without-image"], stdout=subprocess.PIPE, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    expect(len(lines) == 80 and all(abs(s["gain"] - (s["nll_without_image"] - s["nll"]) / s["tokens"]) < 1e-9 for s in lines), lines[0])
    plain = [json.loads(line) for line in subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()]
    expect([s["nll"] for s in plain] == [s["nll"] for s in lines] and "gain" not in plain[0], plain[0])
    with open(pairs, "wb") as f:
        f.write(done.stdout)
    least = sorted(s["gain"] for s in lines)[30]
    second = Case(place, "gain-second", data=data, train__steps=4, data__validation=0, data__caption_choice="first",
                  data__deduplicate="false", data__filters="[{column: gain, min: %r}]" % least)
    page = subprocess.run([program("blipren-loader"), "inspect", second.yaml], stdout=subprocess.PIPE, check=True).stdout.decode()
    expect("\n        50  kept\n" in page and "\n        30    data.filters[0] gain from " in page, page)
    checked = subprocess.run([program("blipren-coord"), "check", second.yaml], stdout=subprocess.PIPE).stdout.decode()
    expect("50 samples to train, 0 to validate, 30 left out, 30 captions dropped" in checked, checked)
    out = second.must_train("1,1")
    expect("30 of 80 captions are dropped: a number beside it is out of bounds or missing (data.filters)" in out, out)


def a_set_is_captioned_and_resumed_where_it_stopped(place):
    case = Case(place, "set")
    case.must_train()
    data, checkpoint, out = place.path("data"), os.path.join(case.run, "checkpoints/latest"), place.path("captions.jsonl")
    odd = place.path("sets/below/tab\there.png")
    os.makedirs(os.path.dirname(odd))
    for i in range(20):
        shutil.copy(os.path.join(data, "%06d.png" % i), place.path("sets", "%d.png" % i))
    shutil.copy(os.path.join(data, "000030.png"), odd)
    os.symlink(place.path("sets"), place.path("sets/below/loop"))
    with open(place.path("list.jsonl"), "w") as f:
        f.write("data/000040.png\n\n" + json.dumps({"file_name": os.path.join(data, "000041.png"), "caption": "x"}) + "\n")
    command = [program("blipren-worker"), "caption", "--checkpoint", checkpoint, "--out", out, "--list", place.path("list.jsonl"),
               "--temperature", "1", place.path("sets")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(done.returncode == 0 and not done.stdout, done)
    whole = open(out).read()
    lines = [json.loads(line) for line in whole.splitlines()]
    expect(len(lines) == 23 and lines[-3]["file_name"] == odd and lines[-1]["file_name"].endswith("000041.png"),
           [line["file_name"] for line in lines])
    with open(out, "w") as f:  # a failure in between, and a line that a crash cut short
        f.write("".join(line + "\n" for line in whole.splitlines()[:10]) +
                json.dumps({"file_name": lines[10]["file_name"], "error": "x", "settings": lines[0]["settings"]}) + "\n" +
                whole.splitlines()[11][:30])
    done = subprocess.run(command, stderr=subprocess.PIPE)
    expect(done.returncode == 0 and b"10 of 23 images have a caption" in done.stderr and open(out).read() == whole, done)
    done = subprocess.run(command + ["--seed", "4"], stderr=subprocess.PIPE)
    expect(done.returncode == USAGE and b"line 1: it has captions of another checkpoint, or made with other options" in done.stderr and
           open(out).read() == whole, done)
    done = subprocess.run(command[:4] + [place.path("run-less")], stderr=subprocess.PIPE)
    expect(done.returncode == DATA, done)
    os.makedirs(place.path("empty"))
    done = subprocess.run(command[:4] + [place.path("empty")], stderr=subprocess.PIPE)
    expect(done.returncode == DATA and b"expected images in the folder, found none" in done.stderr, done)


def output_that_cannot_be_written_is_a_failure(place):
    case = Case(place, "full")
    case.must_train("1,1")
    image = place.path("data/000000.png")
    odd = place.path(b"two\nlines \xff.png".decode(errors="surrogateescape"))
    shutil.copy(image, odd)
    with open(place.path("data", "one.jsonl"), "w") as f:
        f.write(json.dumps({"file_name": "000000.png", "caption": "A red square."}) + "\n")
    caption = ["blipren-worker", "caption", "--checkpoint", os.path.join(case.run, "checkpoints/latest")]
    for command in (["blipren-coord", "check", case.yaml], ["blipren-loader", "inspect", case.yaml], caption + [image],
                    ["blipren-worker", "score", *caption[2:], "--pairs", place.path("data", "one.jsonl")]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([program(command[0]), *command[1:]], stdout=full, stderr=subprocess.PIPE)
        expect(done.returncode == IO and b"No space left" in done.stderr, "%s: %s" % (command, done))
    os.unlink(place.path("data", "one.jsonl"))
    done = subprocess.run([program(caption[0]), *caption[1:], image, odd], stdout=subprocess.PIPE, check=True)
    expect(len(done.stdout.splitlines()) == 2 and done.stdout.count(b"\t") == 2, done.stdout)
    done = subprocess.run([program(caption[0]), *caption[1:], "--json", odd], stdout=subprocess.PIPE, check=True)
    expect(json.loads(done.stdout)["caption"], done.stdout)


def main():
    tests = [f for f in list(globals().values()) if callable(f) and getattr(f, "__code__", None) and
             f.__code__.co_varnames[:1] == ("place",) and f.__code__.co_filename == __file__ and f.__code__.co_argcount == 1]
    wanted = sys.argv[1:]
    failed = 0
    with Workplace("e2e") as place:
        scenes(place.path("data"), 80)
        for test in tests:
            if wanted and test.__name__ not in wanted:
                continue
            begun = time.time()
            try:
                test(place)
                nobody_disturbed(place.folder)
                print("ok    %5.1f s  %s" % (time.time() - begun, test.__name__), flush=True)
            except Exception:
                failed += 1
                print("FAIL  %5.1f s  %s" % (time.time() - begun, test.__name__), flush=True)
                traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)


main()

"""tests/evidence/lib.py - what the evidence commands share: the build, a small data set, runs of the cluster, their sums."""
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BLIPREN_BUILD", os.path.join(ROOT, "build"))
SHARED = os.environ.get("BLIPREN_SHARED", os.path.join(os.path.dirname(ROOT), "shared"))


def build():
    """Sets up and builds, quietly; ends the command when that fails."""
    if "BLIPREN_BUILD" in os.environ:
        return
    for command in (["deploy/setup.sh"], ["deploy/build.sh", BUILD]):
        done = subprocess.run([os.path.join(ROOT, command[0]), *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            sys.stdout.buffer.write(done.stdout)
            sys.exit(1)


def program(name):
    return os.path.join(BUILD, name)


class Workplace:
    """A temporary folder, removed at the end unless KEEP is set in the environment."""

    def __init__(self, name):
        self.folder = tempfile.mkdtemp(prefix="blipren-%s-" % name)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if os.environ.get("KEEP"):
            print("kept:", self.folder)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


def in_namespaces(name, *more):
    """Runs this command again, with the same arguments, in namespaces of its own and a temporary folder; its exit status. However it
    ends, mounts and processes end with them. In there BLIPREN_INSIDE is NAME."""
    def stop(number, frame):
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    with Workplace(name) as outer:
        environment = dict(os.environ, BLIPREN_INSIDE=name, BLIPREN_BUILD=BUILD, TMPDIR=outer.folder)
        child = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *more, sys.executable,
                                  os.path.abspath(sys.argv[0]), *sys.argv[1:]], env=environment)
        try:
            return child.wait()
        finally:
            child.kill() # and with it the first process in there
            child.wait()


def scenes(folder, count, seed=5):
    subprocess.run([program("deploy/demo/blipren-demo-scenes"), "--out", folder, "--count", str(count), "--seed", str(seed)],
                   check=True, stdout=subprocess.DEVNULL)


def write_yaml(path, data, run, **changes):
    """A small run on the demo's models; `changes` are dotted keys with _ for the dot, as train__steps=40."""
    keys = {
        "run_dir": run,
        "seed": 3,
        "precision": "f32",
        "threads": 1,
        "data__source": data,
        "data__validation": 8,
        "data__captions": '[{column: short_caption, prefix: "Short caption:"}, {column: caption, prefix: "Long caption:"}]',
        "data__caption_choice": "any",
        "vision__path": os.path.join(ROOT, "deploy/demo/models/vision"),
        "llm__path": os.path.join(ROOT, "deploy/demo/models/llm"),
        "qformer__queries": 6,
        "qformer__layers": 2,
        "qformer__heads": 4,
        "qformer__dropout": 0.1,
        "projector__kind": "normal",
        "projector__dropout": 0.1,
        "train__steps": 40,
        "train__global_batch": 12,
        "train__micro_batch": 2,
        "train__grain": 2,
        "train__lr": 0.001,
        "train__warmup_steps": 4,
        "train__validate_every": 0,
        "train__validation_captions": 2,
        "train__checkpoint_every": 10,
        "cluster__patience_s": 3,
        "log__every": 1000,
    }
    keys.update(changes)
    sections = {}
    for key, value in keys.items():
        section, _, name = key.rpartition("__")
        if isinstance(value, bool):
            value = "true" if value else "false"
        sections.setdefault(section, []).append("%s: %s" % (name, value))
    with open(path, "w") as f:
        f.write("\n".join(sections.pop("")) + "\n")
        for section, lines in sections.items():
            f.write("%s:\n" % section + "".join("  %s\n" % line for line in lines))


def train(yaml, local="2,2", timeout=300):
    """Runs to the end; the output when it fails."""
    done = subprocess.run([program("blipren-coord"), "train", yaml, "--local", local], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=timeout)
    if done.returncode:
        sys.stdout.buffer.write(done.stdout)
        raise SystemExit("train %s ended with %d" % (yaml, done.returncode))
    return done.stdout.decode()


def tensors(path):
    """name -> (dtype, shape, bytes) of a safetensors file."""
    with open(path, "rb") as f:
        raw = f.read()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    base = 8 + size
    return {n: (t["dtype"], t["shape"], raw[base + t["data_offsets"][0]:base + t["data_offsets"][1]])
            for n, t in header.items()}


def weights_sha(run):
    """One SHA-256 over the sorted tensors of both weight files: name, dtype, shape, bytes."""
    digest = hashlib.sha256()
    for name in ("qformer.safetensors", "projector.safetensors"):
        found = tensors(os.path.join(run, "checkpoints/latest", name))
        for key in sorted(found):
            dtype, shape, data = found[key]
            digest.update(("%s %s %s\n" % (key, dtype, shape)).encode())
            digest.update(data)
    return digest.hexdigest()


def metrics(run, kind="step"):
    """Lines of metrics.jsonl of the lineage that lives: a later line of the same step replaces an earlier one."""
    found = {}
    with open(os.path.join(run, "metrics.jsonl")) as f:
        for line in f:
            try:
                m = json.loads(line)
            except ValueError:
                continue
            if m["type"] == "rewind":
                found = {s: v for s, v in found.items() if s <= m["step"]}
            elif m["type"] == kind:
                found[m["step"]] = m
    return [found[s] for s in sorted(found)]


def journal(run):
    with open(os.path.join(run, "journal")) as f:
        return [json.loads(line.split("\t")[0]) for line in f if "\t" in line]


def lineage(run, steps=None):
    """Checks that each step is committed exactly once on the lineage that lives, and that so many are; returns their digests
    and the number of rewinds."""
    committed, rewinds = [], 0
    for record in journal(run):
        if record["record"] == "REWIND":
            committed = committed[:record["step"]]
            rewinds += 1
        elif record["record"] == "COMMIT":
            if record["step"] != len(committed):
                raise SystemExit("%s: step %d committed where %d was next" % (run, record["step"], len(committed)))
            # known from a survivor's state alone: nobody lived to tell its places
            committed.append(None if record["via_survivors"] else record["digest"])
    if steps is not None and len(committed) != steps:
        raise SystemExit("%s: %d steps committed, expected %d" % (run, len(committed), steps))
    return committed, rewinds


def processes_of(parent, word):
    """Process numbers of the children of `parent` whose command has `word`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % entry, errors="replace") as f:
                stat = f.read()
            with open("/proc/%s/cmdline" % entry, errors="replace") as f:
                command = f.read()
        except OSError:
            continue
        fields = stat[stat.rindex(")") + 2:].split()
        if fields[0] != "Z" and int(fields[1]) == parent and word in command.split("\0")[0]:
            found.append(int(entry))
    return found

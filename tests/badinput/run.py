#!/usr/bin/env python3
"""tests/badinput/run.py [BUILD] [WORD…] - every case of the tables beside it; README.md explains them.

Builds with a sanitizer are fine. WORDs choose cases by name. Ends with a line "badinput tables: cases=N failed=M"; exit 0
only if none failed."""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEYS = {
    "run_dir": "run", "data.source": "data", "data.validation": "2", "vision.path": "vision", "llm.path": "llm",
    "qformer.layers": "1", "qformer.queries": "4", "train.steps": "10", "train.global_batch": "4",
}
BEGUN = {"threads": "1", "train.steps": "2", "train.checkpoint_every": "1", "cluster.patience_s": "2"}
TRAIN = ["blipren-coord", "train", "run.yaml", "--local", "1,1"]
# An error as our programs log it, and as the demo's tools print it.
ERROR = re.compile(r"[0-9:.]+ error (?:(?!: ).)*: (.*)|blipren-demo-\w+: (.*)")
DISTURBED = re.compile(r"Sanitizer|runtime error:|assertion failed|Traceback|core dumped")


def png(side, colour):
    """An RGB picture of one colour."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = (b"\0" + bytes(colour) * side) * side
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def yaml_of(keys):
    sections = {}
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name}: {value}")
    text = "".join(line + "\n" for line in sections.pop("", []))
    return text + "".join(f"{s}:\n" + "".join(f"  {line}\n" for line in lines) for s, lines in sections.items())


def make_sound(folder):
    """What the cases spoil: models, six images with captions, run.yaml."""
    (folder / "data").mkdir(parents=True)
    for i in range(6):
        (folder / "data" / f"{i}.png").write_bytes(png(8, (40 * i, 80, 90)))
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"a red circle number {i}"}) for i in range(6)]
    (folder / "data/metadata.jsonl").write_text("\n".join(lines) + "\n")
    for model in ("vision", "llm"):
        shutil.copytree(ROOT / "deploy/demo/models" / model, folder / model)
    (folder / "run.yaml").write_text(yaml_of(KEYS))


def train(build, folder, keys):
    (folder / "run.yaml").write_text(yaml_of(keys))
    done = subprocess.run([build / TRAIN[0], *TRAIN[1:]], cwd=folder, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr + logs_of(folder)
    return f"training ended with {done.returncode}:\n{output}" if done.returncode or DISTURBED.search(output) else None


def logs_of(folder):
    return "".join(log.read_text(errors="replace") for log in sorted(folder.glob("run/logs/*")))


# -- spoiling --


def own(path):
    """A file to be changed: what is unchanged is linked to the sound one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_nlink > 1:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return path


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def change_json(path, changes):
    """Keys may be dotted; the text `null` is JSON's null, an empty text removes the key."""
    content = json.loads(path.read_text())
    for dotted, value in changes.items():
        *way, key = dotted.split(".")
        at = content
        for part in way:
            at = at[part]
        if value == "":
            del at[key]
        else:
            at[key] = None if value == "null" else value
    own(path).write_text(json.dumps(content))


def change_header(path, changes):
    """A safetensors file's header: tensor = what it is said to be; an empty text removes the tensor."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    for name, about in changes.items():
        if about == "":
            del header[name]
        else:
            header[name] = header.get(name, {}) | about
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    own(path).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    own(path).write_bytes(raw)


SPOILERS = {
    "copy": lambda path, source: shutil.copy(source, own(path)),
    "remove": lambda path, _: remove(path),
    "write": lambda path, text: own(path).write_text(text, newline=""),
    "hex": lambda path, digits: own(path).write_bytes(bytes.fromhex(digits)),
    "append": lambda path, text: own(path).write_text(path.read_text() + text, newline=""),
    "json": change_json,
    "header": change_header,
    "flip": flip,
    "cut": lambda path, size: os.truncate(own(path), size),
    "folder": lambda path, _: path.mkdir(parents=True),
    "link": lambda path, target: path.symlink_to(target),
    "mode": lambda path, digits: own(path).chmod(int(digits, 8)),
}


def spoil(folder, case):
    for kind, change in SPOILERS.items():
        given = case.get(kind, {})
        for name, value in given.items() if isinstance(given, dict) else [(name, None) for name in given]:
            change(folder / name, folder / value if kind == "copy" else value)
    keys = KEYS | (BEGUN if case.get("begun") else {}) | case.get("set", {})
    text = case.get("yaml", yaml_of({k: v for k, v in keys.items() if v != ""})) + case.get("and", "")
    if not any("run.yaml" in case.get(kind, {}) for kind in SPOILERS):
        own(folder / "run.yaml").write_text(text)


# -- judging --


def state(folder):
    """Everything that a failed command must leave as it is: not the run's lock and token, its logs, and the index, which is made from
    the data."""
    return {str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
            for path in folder.rglob("*") if path.name not in ("lock", "token", "dataset.index") and path.parent.name != "logs"
            and (path.is_symlink() or not path.is_dir())}


def lost(before, now, case, command):
    """What a failed command changed, or made outside the run folder."""
    changed = {p for p in before if now.get(p) != before[p]}
    fresh = {p for p in now if p not in before and not ("train" in command and p.startswith("run/"))}
    changed = {p for p in changed | fresh if not p.endswith("/image-hashes")}  # a cache of whatever reads images
    return sorted(changed - set(case.get("changes", [])))


def judge(case, done, errors, logs):
    said = case.get("says", [])
    said = [said] if isinstance(said, str) else said
    patterns = [case["like"]] if "like" in case else [re.escape(line) for line in said]
    if DISTURBED.search(done.stderr + done.stdout + logs):
        return "a sanitizer or an assertion spoke:\n" + done.stderr + done.stdout + logs
    if len(errors) != len(patterns) or not all(re.fullmatch(p, e) for p, e in zip(patterns, errors)):
        return "expected " + "\n         ".join(patterns) + "\n   found " + "\n         ".join(errors or [done.stderr])
    if done.returncode != case["exit"]:
        return f"expected exit status {case['exit']}, found {done.returncode}"
    return None


def as_plain_user(command, case):
    """Root may read everything, unless it lets go of that."""
    if "mode" not in case or os.geteuid() != 0:
        return command
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]


def run_case(build, sound, begun, case):
    """None, or what differs."""
    with tempfile.TemporaryDirectory(prefix="blipren-badinput-") as name:
        folder = pathlib.Path(name) / "x"
        shutil.copytree(sound, folder, copy_function=os.link)
        if case.get("begun"):
            shutil.copytree(begun / "run", folder / "run", symlinks=True)
        spoil(folder, case)
        command = case.get("command", TRAIN if case.get("begun") else ["blipren-coord", "check", "run.yaml"])
        before = state(folder)
        done = subprocess.run(as_plain_user([build / command[0], *command[1:]], case), cwd=folder, capture_output=True,
                              text=True, errors="replace", timeout=300, input=case.get("stdin", ""))
        stderr = done.stderr.replace(str(folder), "DIR").replace(str(begun), "DIR")
        errors = [m[1] or m[2] for line in stderr.splitlines() if (m := ERROR.fullmatch(line))]
        difference = judge(case, done, errors, logs_of(folder))
        if not difference and (changed := lost(before, state(folder), case, command)):
            difference = "it changed " + ", ".join(changed)
        if not difference and "mended" in case:
            spoil(folder, case["mended"])
            difference = train(build, folder, KEYS | BEGUN | {"train.steps": "4"})
        return difference


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
    words = sys.argv[2:]
    cases = [case | {"table": table.name} for table in sorted(HERE.glob("*.toml"))
             for case in tomllib.loads(table.read_text())["case"]]
    cases = [c for c in cases if not words or any(w in c["table"] + ": " + c["name"] for w in words)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="blipren-badinput-") as name:
        sound, begun = pathlib.Path(name) / "sound", pathlib.Path(name) / "begun"
        make_sound(sound)
        make_sound(begun)
        failure = train(build, begun, KEYS | BEGUN)
        if failure:
            print(failure)
            return 1
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for case, difference in zip(cases, threads.map(lambda c: run_case(build, sound, begun, c), cases)):
                if difference:
                    failed += 1
                    print(f"{case['table']}: {case['name']}: {difference}")
    print(f"badinput tables: cases={len(cases)} failed={failed}")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())

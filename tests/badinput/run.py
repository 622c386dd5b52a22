#!/usr/bin/env python3
"""tests/badinput/run.py [BUILD] - every case of the tables beside it; README.md explains them.

Ends with a line "badinput tables: cases=N failed=M"; exit 0 only if none failed."""
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
    "run_dir": "run", "data.source": "data", "data.validation": "2", "vision.path": "vision",
    "llm.path": "llm", "qformer.layers": "1", "qformer.queries": "4", "train.steps": "10",
    "train.global_batch": "4",
}


def png(side, colour):
    """An RGB picture of one colour."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = (b"\0" + bytes(colour) * side) * side
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make_sound(folder):
    """The run that the cases spoil."""
    (folder / "data").mkdir()
    for i in range(6):
        (folder / "data" / f"{i}.png").write_bytes(png(8, (40 * i, 80, 90)))
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"a red circle number {i}"}) for i in range(6)]
    (folder / "data/metadata.jsonl").write_text("\n".join(lines) + "\n")
    for model in ("vision", "llm"):
        shutil.copytree(ROOT / "deploy/demo/models" / model, folder / model)


def yaml_of(keys):
    sections = {}
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name}: {value}")
    text = "".join(line + "\n" for line in sections.pop("", []))
    return text + "".join(f"{s}:\n" + "".join(f"  {line}\n" for line in lines) for s, lines in sections.items())


def spoil(folder, case):
    keys = {k: v for k, v in (KEYS | case.get("set", {})).items() if v != ""}
    (folder / "run.yaml").write_text(case.get("yaml", yaml_of(keys)))
    for path, text in case.get("write", {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for path, text in case.get("append", {}).items():
        with open(folder / path, "a") as file:
            file.write(text)
    for path, changes in case.get("json", {}).items():
        changes = {k: None if v == "null" else v for k, v in changes.items()}
        (folder / path).write_text(json.dumps(json.loads((folder / path).read_text()) | changes))
    for path, size in case.get("cut", {}).items():
        os.truncate(folder / path, size)
    for path in case.get("remove", []):
        gone = folder / path
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()


def run_case(build, sound, case):
    """None, or what differs."""
    with tempfile.TemporaryDirectory(prefix="blipren-badinput-") as name:
        folder = pathlib.Path(name)
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        spoil(folder, case)
        command = case.get("command", ["blipren-coord", "check", "run.yaml"])
        before = sorted(folder.rglob("*"))
        done = subprocess.run([build / command[0], *command[1:]], cwd=folder, capture_output=True, text=True,
                              errors="replace", timeout=120)
        lines = done.stderr.replace(str(folder), "DIR").splitlines()
        errors = [m[1] for line in lines if (m := re.fullmatch(r"[0-9:.]+ error [^:]*: (.*)", line))]
        pattern = case.get("like") or re.escape(case["says"])
        if len(errors) != 1 or not re.fullmatch(pattern, errors[0]):
            return f"expected \"{case.get('says') or pattern}\"\n   found {errors or lines}"
        if done.returncode != case["exit"]:
            return f"expected exit status {case['exit']}, found {done.returncode}"
        if sorted(folder.rglob("*")) != before:
            return "it wrote into the folder"
        return None


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
    cases = [case | {"table": table.name} for table in sorted(HERE.glob("*.toml"))
             for case in tomllib.loads(table.read_text())["case"]]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="blipren-badinput-") as name:
        sound = pathlib.Path(name)
        make_sound(sound)
        for case in cases:
            difference = run_case(build, sound, case)
            if difference:
                failed += 1
                print(f"{case['table']}: {case['name']}: {difference}")
    print(f"badinput tables: cases={len(cases)} failed={failed}")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())

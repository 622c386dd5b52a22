#!/usr/bin/env python3
"""tests/memory.py BUILD - addresses of a device's memory and of the host's are not mixed (common/device_memory.h): clang reads the
worker and the model, by BUILD's flags, with the one in another address space. The backends convert, and are left out.

Skipped (77) where there is no clang."""
import json
import os
import shlex
import shutil
import subprocess
import sys


def flags(command):
    """What decides how a file is read."""
    words = shlex.split(command)
    kept = []
    for i, word in enumerate(words):
        if word.startswith(("-I", "-D", "-std")):
            kept.append(word)
        elif word == "-isystem":
            kept += [word, words[i + 1]]
    return kept


def main():
    build = os.path.abspath(sys.argv[1])
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not shutil.which("clang"):
        print("memory: skipped, no clang")
        return 77
    with open(os.path.join(build, "compile_commands.json")) as f:
        entries = json.load(f)
    read, bad = set(), 0
    for entry in entries:
        path = os.path.normpath(os.path.join(entry["directory"], entry["file"]))
        if os.path.dirname(path) not in (root + "/worker", root + "/worker/model") or path in read:
            continue
        read.add(path)
        bad += subprocess.run(["clang", "-fsyntax-only", "-fopenmp", "-w", "-ferror-limit=0", "-DBLIPREN_CHECK_MEMORY", *flags(entry["command"]), path],
                              cwd=entry["directory"]).returncode != 0
    print("memory: files=%d failed=%d" % (len(read), bad))
    return 1 if bad or not read else 0


sys.exit(main())

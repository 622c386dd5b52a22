"""tests/evidence/field_table.py - the table of cases, and what the cases share."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, Workplace, program, scenes, tensors, write_yaml  # noqa: F401

CASES = []
DEMO = os.path.join(ROOT, "deploy/demo/models")


def case(line):
    """Adds a function to the table: its name says what is tried, `line` which habit of users it is about. It takes a Workplace of
    its own and returns (found, expected), which must be equal: what the programs give, and what the reference gives."""
    def add(function):
        CASES.append((line, function))
        return function
    return add


def run(name, *arguments, **options):
    return subprocess.run([program(name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="surrogateescape", timeout=300, **options)


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return path


def preprocessed(place, folder, images, vision=os.path.join(DEMO, "vision")):
    """Pixels (S,S,3) of each image as `blipren-loader preprocess` writes them, or None where it refuses."""
    import numpy as np
    from PIL import Image
    into = place.path("into-" + os.path.basename(folder))
    done = run("blipren-loader", "preprocess", "--vision", vision, "--into", into, "--json", *images)
    out = []
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        out.append(np.asarray(Image.open(entry["png"])).astype(int) if "png" in entry else None)
    return out

#!/usr/bin/env python3
"""Makes the fixtures of tests/unit/safetensors_test.c with safetensors 0.8.0 and numpy 2.4.6.

reference.safetensors  written by the Python library: what our reader must read
written.safetensors    what our writer must write, byte for byte; read back here by the library
"""
import json
import pathlib
import struct

import numpy
import safetensors.numpy

here = pathlib.Path(__file__).parent

safetensors.numpy.save_file(
    {
        "f32": numpy.array([[1.5, -2.0, 3.25], [0.0, 1e-40, -7.0]], numpy.float32),
        "f16": numpy.array([1.0, -0.5, 65504.0, 6e-8, 6.1e-5, float("inf"), -0.0], numpy.float16),
        "i64": numpy.array(7, numpy.int64),
        "empty": numpy.zeros((0, 4), numpy.float32),
    },
    here / "reference.safetensors",
    metadata={"format": "pt"},
)

# The writer keeps the given order but puts wider elements first; "b" comes before "a" here.
tensors = [
    ("b", "F32", numpy.array([[1, 2], [3, 4]], "<f4")),
    ("a", "F32", numpy.array([0.5], "<f4")),
    ("half", "F16", numpy.array([1, 2, 3], "<f2")),
    ("flag", "U8", numpy.array([255], "u1")),
]
header, data = {"__metadata__": {"step": "3"}}, b""
for name, dtype, array in tensors:
    raw = array.tobytes()
    header[name] = {
        "dtype": dtype,
        "shape": list(array.shape),
        "data_offsets": [len(data), len(data) + len(raw)],
    }
    data += raw
text = json.dumps(header, separators=(",", ":")).encode()
text += b" " * (-(len(text) + 8) % 64)
written = here / "written.safetensors"
written.write_bytes(struct.pack("<Q", len(text)) + text + data)

loaded = safetensors.numpy.load_file(written)
assert sorted(loaded) == sorted(name for name, _, _ in tensors)
for name, _, array in tensors:
    assert loaded[name].dtype == array.dtype and (loaded[name] == array).all(), name

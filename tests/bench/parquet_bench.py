"""parquet_bench.py SPEED FOLDER COMMIT ROWS - see parquet_bench."""
import json
import os
import statistics
import subprocess
import sys

import numpy
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROUNDS = 3
speed, folder, commit, row_count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
KINDS = {
    "snappy": dict(compression="snappy", use_dictionary=False),
    "zstd": dict(compression="zstd", use_dictionary=False, write_page_index=True),
    "uncompressed": dict(compression="none", use_dictionary=False),
    "default": dict(),  # snappy, a dictionary until it is full, no page index
}


def write(path, how):
    """Captions of about 60 bytes that differ, and a column beside them that nobody asks for."""
    draw, block = numpy.random.default_rng(1), 500_000
    words = numpy.array("a dog sits on the yellow boat near two small trees while it snows and the sea is calm".split(), dtype=object)
    schema = pa.schema([("caption", pa.string()), ("id", pa.int64())])
    with pq.ParquetWriter(path, schema, **how) as writer:
        for start in range(0, row_count, block):
            n = min(block, row_count - start)
            columns = [pa.array(words[draw.integers(0, len(words), n)]) for _ in range(10)]
            numbers = pa.array(numpy.arange(start, start + n))
            captions = pc.binary_join_element_wise(*columns, numbers.cast(pa.string()), " ")
            writer.write_table(pa.table([captions, numbers], schema=schema))


def by_pyarrow(path, threads):
    """In a process of its own, so that its memory can be told."""
    code = ("import re, sys, time, pyarrow.parquet as pq, pyarrow.compute as pc\n"
            "start = time.monotonic()\n"
            "column = pq.read_table(sys.argv[1], columns=['caption'], use_threads=sys.argv[2] != '1')['caption']\n"
            "seconds = time.monotonic() - start\n"
            "print(seconds, pc.sum(pc.binary_length(column)).as_py(), int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)")
    done = subprocess.run([sys.executable, "-c", code, path, threads], check=True, stdout=subprocess.PIPE)
    seconds, size, peak = done.stdout.split()
    return float(seconds), int(size), float(peak)


for kind, how in KINDS.items():
    path = os.path.join(folder, kind + ".parquet")
    write(path, how)
    ours, one, every, peaks = [], [], [], []
    for _ in range(ROUNDS):
        mine = json.loads(subprocess.run([speed, path, "caption"], check=True, stdout=subprocess.PIPE).stdout)
        single, threaded = by_pyarrow(path, "1"), by_pyarrow(path, "all")
        if (mine["rows"], mine["bytes"]) != (row_count, single[1]):
            sys.exit("parquet_bench: %s: expected %d bytes of values, found %d" % (kind, single[1], mine["bytes"]))
        ours.append(mine)
        one.append(single[0])
        every.append(threaded[0])
        peaks.append(single[2])
    middle = lambda key: statistics.median(m[key] for m in ours)
    print(json.dumps({
        "file": kind, "rows": row_count, "file_mb": round(os.path.getsize(path) / 1e6), "open_ms": middle("open_ms"),
        "read_s": round(middle("read_ms") / 1e3, 2), "pyarrow_one_thread_s": round(statistics.median(one), 2),
        "pyarrow_s": round(statistics.median(every), 2), "random_row_ms": middle("random_row_ms"), "peak_mb": middle("peak_mb"),
        "pyarrow_peak_mb": round(statistics.median(peaks)), "pyarrow": pa.__version__, "commit": commit}), flush=True)
    os.remove(path)

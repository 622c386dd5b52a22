#!/usr/bin/env python3
"""Writes the seeds seed-* of tests/fuzz/corpus/parquet/ with pyarrow 26.0.1: a file of one small column for each encoding, codec,
page version and shape, without what readers skip. The other files there are inputs that once broke the target."""
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).parent / "corpus/parquet"
TEXTS = pa.array(["ab", None, "abc", "", "abd", "b"], pa.string())
NUMBERS = pa.array([1, None, -5, 300, 1 << 30, 7], pa.int32())
LISTS = pa.array([["a", None], None, [], ["b"], ["c", "a", "b"]], pa.list_(pa.string()))
PICTURES = pa.array([{"bytes": b"\x00\x01", "path": "p"}, None, {"bytes": None, "path": "q"}],
                    pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def seed(name, values, **how):
    how = dict(compression="none", use_dictionary=False, write_statistics=False, store_schema=False) | how
    pq.write_table(pa.table({"c": values}), FOLDER / ("seed-" + name), **how)


FOLDER.mkdir(parents=True, exist_ok=True)
for codec in ("none", "snappy", "gzip", "zstd", "lz4"):
    seed("codec-" + codec, TEXTS, compression=codec)
for version in ("1.0", "2.0"):
    seed("dictionary-" + version, TEXTS, use_dictionary=True, data_page_version=version)
    seed("list-" + version, LISTS, data_page_version=version)
    seed("list-pages-" + version, LISTS, data_page_version=version, data_page_size=1, write_batch_size=1, row_group_size=4)
seed("struct", PICTURES)
seed("index", TEXTS, write_page_index=True, data_page_size=1, write_batch_size=1)
seed("checksum", TEXTS, write_page_checksum=True)
for encoding in ("DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"):
    seed(encoding.lower(), TEXTS, column_encoding=encoding)
for encoding in ("PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"):
    seed("int-" + encoding.lower(), NUMBERS, column_encoding=encoding)
for encoding in ("PLAIN", "RLE"):
    seed("bool-" + encoding.lower(), pa.array([True, None, False]), column_encoding=encoding)
seed("double", pa.array([1.5, None]))
seed("float", pa.array([1.5, -2.0], pa.float32()), column_encoding="BYTE_STREAM_SPLIT")
seed("empty", TEXTS[:0])
seed("lists", pa.array([[[1], []]], pa.list_(pa.list_(pa.int32()))))

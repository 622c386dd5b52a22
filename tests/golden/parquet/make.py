#!/usr/bin/env python3
"""Makes the fixtures of tests/unit/parquet_test.c with pyarrow 26.0.1, polars 2.1.0 and duckdb 2.0.1.

Row i of all but the refused ones (which the test writes down again):
  caption   null if i % 5 == 0, else "caption I" once more than i % 3
  id        i * i - 1000
  image     {bytes: i % 7 bytes of value i, path: null if i % 4 == 0, else "I.jpg"}
  captions  null if i % 6 == 0, else i % 4 texts "I-K", of which the one with K = 2 is null
"""
import os
import pathlib

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

here = pathlib.Path(__file__).parent


def table(rows):
    r = range(rows)
    return pa.table({
        "caption": pa.array([None if i % 5 == 0 else "caption %d" % i * (1 + i % 3) for i in r], pa.string()),
        "id": pa.array([i * i - 1000 for i in r], pa.int32()),
        "image": pa.array([{"bytes": bytes([i % 256]) * (i % 7), "path": None if i % 4 == 0 else "%d.jpg" % i} for i in r],
                          pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "captions": pa.array([None if i % 6 == 0 else [None if k == 2 else "%d-%d" % (i, k) for k in range(i % 4)] for i in r],
                             pa.list_(pa.string())),
    })


def write(name, rows, **how):
    pq.write_table(table(rows), here / name, write_statistics=False, **how)


DELTA = {"caption": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED", "image.bytes": "DELTA_LENGTH_BYTE_ARRAY",
         "image.path": "DELTA_BYTE_ARRAY", "captions.list.element": "DELTA_LENGTH_BYTE_ARRAY"}
SMALL = dict(data_page_size=100, write_batch_size=8)
write("plain.parquet", 60, compression="none", use_dictionary=False, row_group_size=25, **SMALL)
write("index.parquet", 60, compression="snappy", row_group_size=40, write_page_index=True, write_page_checksum=True, **SMALL)
write("delta.parquet", 60, compression="zstd", use_dictionary=False, column_encoding=DELTA, data_page_version="2.0")
write("gzip.parquet", 60, compression="gzip", dictionary_pagesize_limit=64, **SMALL)
write("empty.parquet", 0)
polars.from_arrow(table(60)).write_parquet(here / "polars.parquet", compression="lz4", row_group_size=30)
with duckdb.connect() as connection:
    connection.register("data", table(60))
    connection.execute("COPY (SELECT * FROM data) TO '%s' (FORMAT parquet, COMPRESSION lz4_raw)" % (here / "duckdb.parquet"))

# URLs, of which a source makes locations: tests/unit/source_test.c.
pq.write_table(pa.table({
    "url": ["http://host/val2017/a.jpg", " HTTPS://host/b c\u00e9.jpg?x=%20\n", None, "http://host/val2017/a.jpg", "file:///x.jpg", "in/d.jpg", ""],
    "caption": ["long a", "long b", "long c", None, "long e", "long f", "long g"],
    "short_caption": ["a", "b", "c", "again a", "e", "f", "g"],
}), here / "urls.parquet")

# Refused, or read but for a column.
write("brotli.parquet", 3, compression="brotli")
pq.write_table(pa.table({
    "caption": ["a", "b"],
    "matrix": [[[1], [2, 3]], []],
    "hash": pa.array([b"12345678", b"abcdefgh"], pa.binary(8)),
}), here / "others.parquet")


class Keys(pe.KmsClient):
    """Wraps keys by not wrapping them: what is in the file matters to nobody."""

    def __init__(self, config):
        super().__init__()

    def wrap_key(self, key, master):
        return key.hex().encode()

    def unwrap_key(self, key, master):
        return bytes.fromhex(key.decode())


def encrypted(name, **how):
    factory = pe.CryptoFactory(Keys)
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"k": ["caption"]}, **how)
    data = table(3).select(["caption", "id"])
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(here / name, data.schema, encryption_properties=properties, compression="none") as writer:
        writer.write_table(data)


encrypted("encrypted.parquet")
encrypted("encrypted-column.parquet", plaintext_footer=True)
for path in here.glob("*.parquet"):
    print(os.path.getsize(path), path.name)

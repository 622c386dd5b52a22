"""tests/evidence/parquet_files.py - Parquet files of all kinds by pyarrow, polars and duckdb, from one seed."""
import datetime
import decimal
import functools
import itertools
import os
import random

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = "a dog sits on the yellow boat near two small trees while it snows é 犬 🐕".split()


def some(draw, nulls, make):
    return None if draw.random() < nulls else make()


def text(draw):
    return " ".join(draw.choices(WORDS, k=draw.randrange(12)))


def blob(draw):
    return draw.randbytes(draw.choice((0, 1, 7, 300)))


def rows_of(draw, rows, nulls, make):
    return [some(draw, nulls, lambda: make(draw)) for _ in range(rows)]


def lists(draw, rows, nulls, make, longest=5):
    return [some(draw, nulls, lambda: [some(draw, nulls, lambda: make(draw)) for _ in range(draw.randrange(longest))])
            for _ in range(rows)]


def integer(bits, signed):
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return lambda draw: draw.choice((low, high, 0, 1, draw.randint(low, high), draw.randint(0, 100)))


def real(draw):
    return draw.choice((0.0, -0.0, 1.5, float("inf"), draw.gauss(0, 1e9)))


def moment(draw):
    return datetime.datetime(2020, 1, 1) + datetime.timedelta(milliseconds=draw.randrange(10**11))


# --- Tables. ---

def table(columns):
    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})


def texts(draw, rows, nulls):
    few = [text(draw) for _ in range(9)]
    return table({
        "caption": (pa.string(), rows_of(draw, rows, nulls, text)),
        "few": (pa.string(), rows_of(draw, rows, nulls, lambda d: d.choice(few))),
        "sorted": (pa.string(), sorted("http://images/train2017/%012d.jpg" % draw.randrange(10**9) for _ in range(rows))),
        "constant": (pa.string(), ["always"] * rows),
        "null": (pa.string(), [None] * rows),
        "large": (pa.large_string(), rows_of(draw, rows, nulls, text)),
        "bytes": (pa.binary(), rows_of(draw, rows, nulls, blob)),
        "category": (pa.dictionary(pa.int32(), pa.string()), rows_of(draw, rows, nulls, lambda d: d.choice(few))),
    })


def numbers(draw, rows, nulls):
    columns = {}
    for bits, signed in itertools.product((8, 16, 32, 64), (True, False)):
        kind = getattr(pa, ("int" if signed else "uint") + str(bits))()
        columns[str(kind)] = (kind, rows_of(draw, rows, nulls, integer(bits, signed)))
    columns["rising"] = (pa.int64(), list(range(rows)))
    columns["flag"] = (pa.bool_(), rows_of(draw, rows, nulls, lambda d: d.random() < 0.3))
    columns["single"] = (pa.float32(), rows_of(draw, rows, nulls, lambda d: float(d.randrange(1000)) / 8))
    columns["double"] = (pa.float64(), rows_of(draw, rows, nulls, real))
    columns["day"] = (pa.date32(), rows_of(draw, rows, nulls, lambda d: moment(d).date()))
    columns["moment"] = (pa.timestamp("us"), rows_of(draw, rows, nulls, moment))
    columns["money"] = (pa.decimal128(9, 2), rows_of(draw, rows, nulls, lambda d: decimal.Decimal(d.randrange(10**6)) / 100))
    return table(columns)


def nested(draw, rows, nulls):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.struct([("from", pa.string()), ("n", pa.int32())])

    def picture(d):
        return {"bytes": some(d, nulls, lambda: blob(d)), "path": some(d, nulls, lambda: "p/%d.jpg" % d.randrange(999))}

    def said(d):
        return {"from": some(d, nulls, lambda: text(d)), "n": some(d, nulls, lambda: d.randrange(99))}

    tags = pa.struct([("tags", pa.list_(pa.string())), ("deep", pa.struct([("er", pa.string())]))])

    def tagged(d):
        return {"tags": some(d, nulls, lambda: [text(d)] * d.randrange(4)), "deep": some(d, nulls, lambda: {"er": text(d)})}

    return table({
        "image": (image, rows_of(draw, rows, nulls, picture)),
        "captions": (pa.list_(pa.string()), lists(draw, rows, nulls, text)),
        "ids": (pa.large_list(pa.int64()), lists(draw, rows, nulls, integer(64, True))),
        "empty": (pa.list_(pa.string()), [[]] * rows),
        "no": (pa.list_(pa.string()), [None] * rows),
        "turns": (pa.list_(turn), lists(draw, rows, nulls, said)),
        "meta": (tags, rows_of(draw, rows, nulls, tagged)),
        "long": (pa.list_(pa.int32()), [list(range(draw.randrange(200))) for _ in range(rows)]),
        "lists": (pa.list_(pa.list_(pa.int32())), [[[1, 2], []]] * rows),
    })


def images(draw, rows, nulls):
    """Values of many kilobytes, longer than a page."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = min(rows, 60)
    return table({
        "image": (image, [some(draw, nulls, lambda: {"bytes": draw.randbytes(draw.randrange(90000)), "path": str(i)}) for i in range(rows)]),
        "caption": (pa.string(), [text(draw) * draw.randrange(1, 2000) for _ in range(rows)]),
    })


TABLES = {"texts": texts, "numbers": numbers, "nested": nested, "images": images}


# --- Writers. ---

def by_pyarrow(folder, name, make, draw):
    rows, nulls = draw.choice((0, 1, 9, 700, 1500)), draw.choice((0, 0.02, 0.5))
    data = TABLES[make](draw, rows, nulls)
    codec = draw.choice(("none", "snappy", "gzip", "zstd", "lz4"))
    plain = draw.random() < 0.4
    how = dict(version=draw.choice(("1.0", "2.4", "2.6")), data_page_version=draw.choice(("1.0", "2.0")), compression=codec,
               use_dictionary=not plain, data_page_size=draw.choice((200, 5000, 1 << 20)), write_batch_size=draw.choice((7, 64, 1024)),
               write_page_index=draw.random() < 0.5, write_page_checksum=draw.random() < 0.4,
               dictionary_pagesize_limit=draw.choice((300, 1 << 20)), write_statistics=draw.random() < 0.7)
    if plain and make in ("texts", "numbers"):
        how["column_encoding"] = {c: e for c in data.column_names if (e := encoding(draw, data.schema.field(c).type))}
    if make == "nested":
        how["use_compliant_nested_type"] = draw.random() < 0.7
    path = os.path.join(folder, name)
    groups = draw.choice((1, 97, 1 << 20))
    with pq.ParquetWriter(path, data.schema, **how) as writer:
        for start in range(0, max(rows, 1), max(rows // 2, 1)):
            writer.write_table(data.slice(start, max(rows // 2, 1)), row_group_size=max(groups, rows // 40 + 1))
            if draw.random() < 0.2:
                writer.write_table(data.slice(0, 0))
    return path


def encoding(draw, kind):
    if pa.types.is_dictionary(kind):
        return None
    if pa.types.is_int32(kind) or pa.types.is_int64(kind) or pa.types.is_uint32(kind):
        return draw.choice(("PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"))
    if pa.types.is_floating(kind):
        return draw.choice(("PLAIN", "BYTE_STREAM_SPLIT"))
    if pa.types.is_boolean(kind):
        return draw.choice(("PLAIN", "RLE"))
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        return draw.choice(("PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"))
    return None


def by_polars(folder, name, make, draw):
    rows, nulls = draw.choice((0, 1, 9, 1500)), draw.choice((0, 0.02, 0.5))
    data = polars.from_arrow(TABLES[make](draw, rows, nulls))
    path = os.path.join(folder, name)
    data.write_parquet(path, compression=draw.choice(("uncompressed", "snappy", "gzip", "zstd", "lz4")),
                       row_group_size=draw.choice((100, 1 << 18)), data_page_size=draw.choice((500, 1 << 20)),
                       statistics=draw.random() < 0.5)
    return path


def by_duckdb(folder, name, make, draw):
    rows, nulls = draw.choice((0, 1, 9, 1500, 5000)), draw.choice((0, 0.02, 0.5))
    data = TABLES[make](draw, rows, nulls)
    path = os.path.join(folder, name)
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.register("data", data)
        codec = draw.choice(("uncompressed", "snappy", "gzip", "zstd", "lz4_raw"))
        connection.execute("COPY (SELECT * FROM data) TO '%s' (FORMAT parquet, COMPRESSION %s, ROW_GROUP_SIZE %d, PARQUET_VERSION %s, "
                           "DICTIONARY_SIZE_LIMIT %d)" % (path, codec, draw.choice((2048, 122880)), draw.choice(("v1", "v2")),
                                                          draw.choice((1, 100000))))
    return path


def plan(seed):
    """Functions that each write one file into a folder and return its path."""
    for writer, count in ((by_pyarrow, 50), (by_polars, 17), (by_duckdb, 17)):
        for make in TABLES:
            for i in range(count):
                name = "%s-%s-%d.parquet" % (writer.__name__[3:], make, i)
                yield functools.partial(writer, name=name, make=make, draw=random.Random("%d %s" % (seed, name)))

"""Writes the *.arrow files of this folder with pyarrow 26.0.1: $(tests/oracle/venv.sh pyarrow numpy) tests/golden/arrow/make.py

good.arrow has every type that is read, in two batches; the others have what is refused, each by its name."""
import pathlib

import pyarrow as pa

FOLDER = pathlib.Path(__file__).parent


def write(name, columns, metadata=None, rows_of_batch=2, **options):
    schema = pa.schema([(key, value.type) for key, value in columns.items()], metadata)
    with pa.ipc.new_file(FOLDER / (name + ".arrow"), schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema), max_chunksize=rows_of_batch)


fixed = lambda values, size: pa.FixedSizeListArray.from_arrays(values, size)
write("good", {
    "image": pa.array(["ab", "", "cde"]),
    "i8": pa.array([1, -2, 3], pa.int8()),
    "half": fixed(pa.array([0.5, 1, -2, 65504, 0, 2**-24], pa.float16()), 2),
    "bits": fixed(fixed(pa.array(range(18), pa.uint16()), 2), 3),
    "scale": fixed(pa.array([1.5, 2.5, -1e30], pa.float32()), 1),
    "tokens": pa.array([[1, 2, 3], [], [7]], pa.list_(pa.int32())),
}, {"key": "value", "empty": ""})
write("empty", {"image": pa.array([], pa.string())})
write("nulls", {"x": pa.array([1, None], pa.int32())})
write("compressed", {"x": pa.array(list(range(1000)), pa.int32())}, compression="zstd", rows_of_batch=1000)
write("dictionary", {"x": pa.array(["a", "a"]).dictionary_encode()})
write("int64", {"x": pa.array([1], pa.int64())})
write("texts", {"x": pa.array([["a"]])})

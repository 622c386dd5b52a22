#!/usr/bin/env python3
"""Makes the shards of tests/unit/source_webdataset_test.c with GNU tar 1.34, Python's tarfile and webdataset 1.0.2.

SAMPLES shards hold key K of 0 to 5 as K.jpg (the byte K, 100 * K times), K.txt ("text K") and K.json ({"caption": "caption K",
"list": ["one K", "two K"], "n": NaN, "key": 2 ** 80}), in the folder "deep"; of key 5 the name is longer than 100 bytes, where
"long" is asked for longer than 300, and holds "é" where the format has names in UTF-8. odd.tar holds what is counted.
"""
import io
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile

import webdataset

here = pathlib.Path(__file__).parent


def name(k, length):
    return f"deep/{k}" if k < 5 else "deep/" + ("é" if length > 200 else "e") + "x" * length


def files(k, length):
    yield f"{name(k, length)}.jpg", bytes([k]) * (100 * k)
    yield f"{name(k, length)}.txt", b"text %d" % k
    fields = {"caption": f"caption {k}", "list": [f"one {k}", f"two {k}"], "n": float("nan"), "key": 2 ** 80}
    yield f"{name(k, length)}.json", json.dumps(fields).encode()


def add(tar, path, data, **info):
    member = tarfile.TarInfo(path)
    member.size = len(data)
    for key, value in info.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def by_tarfile(path, format, length):
    with tarfile.open(here / path, "w", format=format) as tar:
        for k in range(6):
            for file, data in files(k, length):
                add(tar, file, data)


def by_gnu_tar(path, format, length):
    with tempfile.TemporaryDirectory() as folder:
        for k in range(6):
            for file, data in files(k, length):
                whole = pathlib.Path(folder) / file
                whole.parent.mkdir(exist_ok=True)
                whole.write_bytes(data)
        subprocess.run(["tar", "--sort=name", "--owner=0", "--group=0", "--mtime=@0", f"--format={format}", "-C", folder, "-cf",
                        here / path, "deep"], check=True, env=os.environ | {"LC_ALL": "C.UTF-8"})


def by_webdataset(path):
    with webdataset.TarWriter(str(here / path), mtime=0, user="u", group="g") as sink:
        for k in range(6):
            found = dict((file.rsplit(".", 1)[1], data) for file, data in files(k, 250))
            sink.write({"__key__": name(k, 250)} | found)


def odd(path):
    with tarfile.open(here / path, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "deep", b"", type=tarfile.DIRTYPE)
        add(tar, "b.jpg", b"B")                             # its text comes later
        add(tar, "a.d/a.seg.png", b"mask")
        add(tar, "a.d/a.JPEG", b"A")
        add(tar, "a.d/a.txt", b"\xef\xbb\xbftext a")
        add(tar, "b.txt", b"text b")
        add(tar, "a.d/a.json", b'{"caption": "caption a"}')
        add(tar, "c.png", b"C")                             # has no text
        add(tar, "d.txt", b"no image")
        add(tar, "e.jpg", b"E")
        add(tar, "e.txt", b"no \xff UTF-8")
        add(tar, "f.jpg", b"F")
        add(tar, "f.json", b'{"caption": ')
        add(tar, "b.jpg", b"B again")
        add(tar, "b.txt", b"text b again")
        add(tar, "g.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "h.jpg", b"", type=tarfile.LNKTYPE, linkname="b.jpg")
        add(tar, "i.jp2", b"I")
        add(tar, "../../up.jpg", b"U")
        add(tar, "README", b"no field")
        add(tar, ".hidden.jpg", b"no key")
        add(tar, "__index__.json", b"{}")
        add(tar, "last", b"", type=tarfile.DIRTYPE)


if __name__ == "__main__":
    by_tarfile("python-pax.tar", tarfile.PAX_FORMAT, 350)
    by_tarfile("python-gnu.tar", tarfile.GNU_FORMAT, 350)
    by_tarfile("python-ustar.tar", tarfile.USTAR_FORMAT, 90)
    by_gnu_tar("gnu.tar", "gnu", 240)
    by_gnu_tar("posix.tar", "posix", 240)
    by_gnu_tar("ustar.tar", "ustar", 90)
    by_gnu_tar("v7.tar", "v7", 80)
    by_webdataset("webdataset.tar")
    odd("odd.tar")

#!/usr/bin/env python3
"""Writes the seeds seed-* of tests/fuzz/corpus/; the other files there are inputs that once broke
a target and stay as they are."""
import hashlib
import io
import json
import pathlib
import struct
import tarfile

CORPUS = pathlib.Path(__file__).parent / "corpus"


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def tokenizer(name, text, vocab, merges=(), model={}, **parts):
    model = {"vocab": {t: i for i, t in enumerate(vocab)}, "merges": list(merges)} | model
    text_json = json.dumps(parts | {"model": model}, ensure_ascii=False, separators=(",", ":"))
    put("tokenizer", name, text_json.encode() + b"\0" + text)


def added(id, content, **flags):
    return {"id": id, "content": content, "special": True, "normalized": False} | flags


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEXT = "it's 12 ab\n\n  abab! É\u3000\u017f\ud7ff<s> ".encode() + b"\xff\xe2\x82"
LETTERS = [*"ab", "ab", "abab", "Ġ", "Ċ", "Ã", "1", "2", "'", "s", "Ġab"]
MERGES = ["a b", "ab ab", "Ġ ab"]

tokenizer("gpt2", TEXT, LETTERS, MERGES, pre_tokenizer={"type": "ByteLevel"},
          decoder={"type": "ByteLevel"}, added_tokens=[added(12, "<s>", normalized=True)])
tokenizer("llama3", TEXT, LETTERS, MERGES, {"ignore_merges": True},
          pre_tokenizer={"type": "Sequence", "pretokenizers": [
              {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated"},
              {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
          decoder={"type": "ByteLevel"}, added_tokens=[added(12, "<s>")],
          post_processor={"type": "TemplateProcessing",
                          "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                          "special_tokens": {"<s>": {"ids": [12]}}})
tokenizer("digits", TEXT, LETTERS, MERGES,
          pre_tokenizer={"type": "Sequence", "pretokenizers": [
              {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}]})
tokenizer("llama2", TEXT, ["?", "▁", "a", "b", "▁a", "<0xFF>", "<0xE2>", "<0x0A>"],
          [["▁", "a"]], {"unk_token": "?", "fuse_unk": True, "byte_fallback": True},
          normalizer={"type": "Sequence", "normalizers": [
              {"type": "Prepend", "prepend": "▁"},
              {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
          decoder={"type": "Sequence", "decoders": [
              {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
              {"type": "ByteFallback"}, {"type": "Fuse"},
              {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
          added_tokens=[added(8, "<s>", normalized=True, single_word=True)])
MARK = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
tokenizer("metaspace", TEXT, ["?", "▁", "a", "b", "▁a"], [["▁", "a"]], {"unk_token": "?"},
          pre_tokenizer=MARK, decoder=MARK,
          added_tokens=[added(5, "<s>", lstrip=True, rstrip=True), added(6, "s", special=False)])


def safetensors(name, header, size):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    put("safetensors", name, struct.pack("<Q", len(text)) + text + bytes(range(size)))


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


safetensors("empty", {}, 0)
safetensors("bytes", {"__metadata__": {"a": "b"}, "x": tensor("U8", [2, 3], 0, 6),
                      "y": tensor("BOOL", [], 6, 7), "z": tensor("I8", [0], 7, 7)}, 7)
for dtype, width in (("F32", 4), ("F16", 2), ("BF16", 2), ("F64", 8), ("I64", 8)):
    safetensors(dtype.lower(), {"t": tensor(dtype, [2, 1], 0, 2 * width)}, 2 * width)

RUN = """run_dir: runs/a
seed: 7
precision: f32
data:
  source: photos
  captions: [{column: short, prefix: "Short caption: "}, {column: text}]
  keep: ['^[A-Z]', "\\\\.$"]
  eos: auto
  validation: 0.1
vision: {path: v}
llm: {path: l, bos: after_image}
qformer: {width: 192, heads: 6}
projector: {kind: moe}
train: {steps: 40, global_batch: 4, reproducible: true, grain: 2, lr: 3e-3, schedule: wsd}
"""
put("config", "full", RUN.encode())
put("config", "minimal", b"run_dir: a\ndata: {source: b}\nvision: {path: c}\nllm: {path: d}\ntrain: {steps: 1}\n")
put("config", "wrong", b"train: {stpes: 1}\n")

put("metadata", "jsonl", b'1{"file_name": "a.jpg", "text": ["x", "y"], "caption": null}\n\n{"file_name": "b/c.png", "text": "\\u00e9"}')
put("metadata", "csv", b'0\xef\xbb\xbffile_name,text,caption\r\na.jpg,"b, ""c""\n",d\n\nb/c.png,,"e"')


def dataset(samples):
    """A dataset.index as common/data/dataset_format.h has it: samples of (location, split, captions), of one source, and an example.
    tests/unit/dataset_test.c reads it: after a change of the format write it anew."""
    verdicts, caption_verdicts, rules, sources, split_names, passed = 9, 13, 4 * 256, 16, 4, 9
    text, rows, captions, ids = b"\0", b"", b"", [[], []]
    for i, (location, split, lines) in enumerate(samples):
        rows += struct.pack("<QQQq32sII", len(text), len(captions) // 32, 9, 7, bytes(range(i, i + 32)), len(lines), split)
        text += location + b"\0"
        ids[split].append(i)
        for line in lines:
            captions += struct.pack("<QQIIII", len(text), 0, len(line), 0, 0, 2)
            text += line + b"\0"
    note = struct.pack("<QQHHIII", 1, 0, 0, 0, 1, 0xffffffff, 0)
    names = len(text)
    text += b"a.tar\0b.tar\0"
    text += b"\0" * (-len(text) % 8)
    lengths = struct.pack("<3Q", 0, 0, len(captions) // 32)
    body = rows + captions + b"".join(struct.pack("<%dQ" % len(part), *part) for part in ids) + lengths + note + text
    words = lambda *values: struct.pack("<%dQ" % len(values), *values)
    counts = words(len(samples), len(captions) // 32, len(ids[0]), len(ids[1]), 3, 1, len(text))
    of = words(len(samples), len(ids[0]), len(ids[1]), len(samples), *[0] * (verdicts - 1 + split_names))
    header = (bytes(64) + counts + words(*[0] * (caption_verdicts + rules), 1) + of + bytes((sources - 1) * len(of)) +
              words(2, *[0] * (passed - 1)) * 2 + words(names, *[0] * (passed - 1)))
    covered = header + body
    return struct.pack("<8sII", b"BLINDEX", 5, len(header) + 48) + hashlib.sha256(covered).digest() + covered


put("dataset", "two", dataset([(b"/a.jpg", 0, [b"one", b"two"]), (b"range:512+9:/b.tar", 0, [b"two"]),
                        (b"url:https://c/d.jpg /cache/d", 1, [b"three"])]))


def varint(n):
    n &= (1 << 64) - 1
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def message(fields):
    """Protobuf of {number: value}: whole numbers, texts, bytes, floats, lists of messages (dicts)."""
    out = b""
    for number, value in fields.items():
        if isinstance(value, list):
            out += b"".join(message({number: v}) for v in value)
        elif isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            data = message(data) if isinstance(data, dict) else data
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def control(name, body, fields):
    envelope = {1: 1, 2: b"sixteen bytes...", 3: 3, 4: 42, body: fields}
    put("proto", name, b"\0" + message(envelope))


WORKER = "tcp://127.0.0.1:4000"
control("hello", 10, {1: 1, 2: "host:17", 3: "blipren avx2", 4: WORKER, 6: 1, 7: b"d" * 32})
control("hello-loader", 10, {1: 2, 2: "host:18", 6: 1, 8: 4})
control("beat", 11, {1: "train", 2: "data", 3: 7})
control("ended", 12, {1: 24, 2: b"d" * 32, 3: 2})
control("rendezvous", 13, {1: "rank_0", 2: b"host"})
control("formed", 14, {1: 7, 2: b"d" * 32})
control("received", 15, {1: 1, 2: 7, 3: 2})
control("consumed", 16, {1: 2, 2: 7, 3: 2})
control("report", 17, {1: 7, 2: 12.5, 3: 90, 4: 8, 5: 0.5, 6: 1e-4, 8: [{2: 8}], 9: 99, 10: 0.25,
                       13: struct.pack("<2d", 0.25, 0.75)})
control("validation", 18, {1: 7, 3: 12.5, 4: 90, 9: [{1: 5, 2: "two circles", 3: 1}], 11: 8})
control("broken", 19, {1: "reset"})
control("saved", 20, {1: 7, 2: "step-000007-g3"})
control("completed", 21, {1: 1, 2: 7, 3: 2, 4: [{1: 1, 2: 5, 3: "truncated"}, {1: 4, 3: "giant"}]})
control("goodbye", 22, {1: "done"})
control("welcome", 40, {1: "/runs/1", 2: 1666, 3: 10000, 5: 1})
control("refuse", 41, {1: "no", 2: "yes"})
control("pulse", 42, {})
control("end", 43, {1: "lost"})
control("form", 44, {1: 1, 2: 2, 3: 1, 4: 7, 5: "step-000007-g3", 6: 2})
control("assignment", 45, {1: 1, 2: 7, 3: 2, 4: 16, 5: b"\1\2\3", 6: b"\0\0\1", 7: 9, 8: WORKER})
control("save", 46, {1: 7, 2: "step-000007-g3"})
control("stop", 47, {1: 7, 2: "done"})
control("store", 48, {1: [{1: "rank_0", 2: b"host"}, {1: "rank_1", 2: b"host"}]})
TOKEN, CHECKPOINT, TENSOR = b"sixteen of token", "step-000007-g3", "qformer.moment1.safetensors"
control("fetch", 30, {1: TOKEN, 3: "dataset.index", 4: 131072})
control("fetch-checkpoint", 30, {1: TOKEN, 2: CHECKPOINT, 3: TENSOR})
control("put", 31, {1: TOKEN, 2: CHECKPOINT, 3: TENSOR, 4: 5, 5: 10, 6: b"bytes"})
control("put-all", 31, {1: TOKEN, 2: CHECKPOINT})
control("piece", 60, {2: "config.yaml", 3: 5, 4: 10, 5: b"d" * 32, 6: b"bytes"})
control("piece-error", 60, {1: CHECKPOINT, 2: TENSOR, 7: "cannot be opened"})
control("kept", 61, {1: CHECKPOINT, 2: TENSOR, 3: 10})
control("kept-error", 61, {1: CHECKPOINT, 4: "nobody has asked for that checkpoint"})
HASH = struct.pack("<Q", 1 << 63)
put("proto", "header", b"\1" + message({
    1: 1, 2: b"sixteen bytes...", 3: 3, 4: 9, 5: 1, 6: 7, 7: 2, 8: 16, 9: 64, 10: [
        message({1: 5, 3: 9, 4: 3}) + varint(5 << 3 | 1) + HASH + message({6: 3}),
        {1: 6, 2: 1}]}))


def batch(name, kind, samples, images, ids, rows=False):
    """tests/fuzz/batch_fuzz.c's plan: groups of 5 places, images of side 2, rows of 20 bytes."""
    first = 5 if kind == 2 else 0
    slots = [{1: 9 + i, 2: 1} if bad else {1: 9 + i, 3: 2, 4: 1, 6: 1} for i, bad in enumerate(samples)]
    header = message({1: 1, 2: b"sixteen bytes...", 3: 3, 4: 9, 5: kind, 6: 7, 7: first // 5, 8: first, 9: 2, 10: slots,
                      **({12: 1, 13: 1} if rows else {})})
    put("batch", name, bytes([len(header), images]) + header + bytes(images) + struct.pack("<%di" % len(ids), *ids))


batch("train", 1, [0, 1, 0, 0, 0], 48, [1, 2] * 4)
batch("validate", 2, [0, 0], 24, [99, 0, 3, 4])
batch("rows", 1, [0, 1, 0, 0, 0], 80, [1, 2] * 4, rows=True)
batch("foreign-id", 2, [0, 0], 24, [100, 0, -1, 4])


def shard(name, files, form, blocks=2):
    """A tar with that many blocks of zeros at its end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for path, data in files:
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    padded = out.getvalue().rstrip(b"\0")
    put("tar", name, padded + bytes(-len(padded) % 512 + 512 * blocks))


FILES = [("a/b.jpg", b"image"), ("a/b.txt", b"text"), ("a/b.json", b'{"caption": ["one", "two"], "n": NaN}'),
         ("c.png", b""), ("d.txt", b"alone"), ("a/b.jpg", b"again")]
shard("ustar", FILES, tarfile.USTAR_FORMAT)
shard("pax", [("é" * 60 + path, data) for path, data in FILES[:2]], tarfile.PAX_FORMAT)
shard("gnu", [("x" * 120 + path, data) for path, data in FILES[:2]], tarfile.GNU_FORMAT)
shard("no-end", FILES[:2], tarfile.USTAR_FORMAT, 0)

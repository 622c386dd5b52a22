#!/usr/bin/env python3
"""Writes the seeds seed-* of tests/fuzz/corpus/; the other files there are inputs that once broke
a target and stay as they are."""
import hashlib
import json
import pathlib
import struct

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
    """A dataset.index as common/dataset_format.h has it: samples of (image, split, captions)."""
    text, rows, captions, ids = b"", b"", b"", [[], []]
    for i, (image, split, lines) in enumerate(samples):
        rows += struct.pack("<QQ32sII", len(text), len(captions) // 24, bytes(range(i, i + 32)), len(lines), split)
        text += image + b"\0"
        ids[split].append(i)
        for line in lines:
            captions += struct.pack("<QIIII", len(text), len(line), 0, 2, 0)
            text += line + b"\0"
    note = struct.pack("<QII", 0, 0, 1)
    text += b"\0" * (-len(text) % 8)
    lengths = struct.pack("<3Q", 0, 0, len(captions) // 24)
    body = rows + captions + b"".join(struct.pack("<%dQ" % len(part), *part) for part in ids) + lengths + note + text
    counts = struct.pack("<7Q", len(samples), len(captions) // 24, len(ids[0]), len(ids[1]), 3, 1, len(text))
    covered = bytes(64) + counts + bytes(8 * (5 + 8)) + body
    return struct.pack("<8sII", b"BLINDEX", 1, len(covered) - len(body) + 48) + hashlib.sha256(covered).digest() + covered


put("dataset", "two", dataset([(b"/a.jpg", 0, [b"one", b"two"]), (b"/b.jpg", 1, [b"three"])]))


def varint(x):
    out = b""
    while x > 127:
        out += bytes([x % 128 + 128])
        x //= 128
    return out + bytes([x])


def message(*fields):
    """Protobuf: fields of (number, value); a value of bytes is one of a string, bytes or message."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number * 8 + 2) + varint(len(value)) + value
        else:
            out += varint(number * 8) + varint(value)
    return out


RUN_ID = b"a run's own id.."
DIGEST = bytes(range(32))


def envelope(name, number, *body):
    put("proto", name, b"0" + message((1, 1), (2, RUN_ID), (3, 2), (4, 77), (number, message(*body))))


envelope("hello", 10, (1, 1), (2, b"host:1"), (3, b"blipren"), (4, b"tcp://127.0.0.1:5"), (6, 1), (7, DIGEST), (8, 4))
envelope("beat", 11, (1, b"train"), (2, b"data"), (3, 9))
envelope("ended", 12, (1, 8), (2, DIGEST), (3, 1))
envelope("rendezvous", 13, (1, b"rank0"), (2, b"\0\1\2"))
envelope("report", 17, (1, 3), (3, 40), (8, message((1, 0), (2, 6))), (9, 123))
envelope("validation", 18, (1, 3), (3, 40), (9, message((1, 5), (2, b"a cat"), (3, 1))))
envelope("sent", 21, (1, 1), (2, 3), (3, 1), (4, message((1, 0), (2, 9), (3, b"truncated"))))
envelope("welcome", 40, (1, b"/runs/a"), (2, 500), (3, 3000))
envelope("form", 44, (1, 0), (2, 2), (3, (1 << 64) - 1), (4, 3), (5, b"step-000003-g1"))
envelope("order", 45, (1, 1), (2, 3), (3, 1), (5, b"\5\6"), (6, b"\0\0"), (7, 5), (8, b"tcp://127.0.0.1:5"))


def header(*slots, **changes):
    head = dict(version=1, run=RUN_ID, generation=2, worker=5, kind=1, step=3, group=1, first=5, side=2)
    return message(*enumerate((head | changes).values(), 1), *((10, message(*s)) for s in slots))


def batch(name, head, pixels, ids):
    put("batch", name, bytes([len(head), len(pixels)]) + head + pixels + struct.pack("<%di" % len(ids), *ids))


SLOT = ((1, 9), (3, 2), (4, 1), (6, 1))
put("proto", "header", b"1" + header(SLOT, ((1, 8), (2, 1))))
batch("train", header(SLOT, ((1, 8), (2, 1)), SLOT, SLOT, SLOT), bytes(48), [1, 2] * 4)
batch("validate", header(SLOT, SLOT, kind=2), bytes(24), [99, 0, 3, 4])

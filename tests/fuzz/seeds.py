#!/usr/bin/env python3
"""Writes the seeds seed-* of tests/fuzz/corpus/; the other files there are inputs that once broke
a target and stay as they are."""
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

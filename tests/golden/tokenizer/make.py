#!/usr/bin/env python3
"""Makes the fixtures of tests/unit/tokenizer_test.c with tokenizers 0.23.3: one folder with a tiny
tokenizer.json for each kind, and cases.json with the ids and texts that the library gives.

cases.json: {NAME: {"encode": [[text in hex, ids, ids with special tokens]],
                    "decode": [[ids, text in hex, text without special tokens in hex]]}}
"""
import json
import pathlib
import random

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
HERE = pathlib.Path(__file__).parent

CORPUS = [
    "Short caption: a red circle and two small blue squares on a striped background.",
    "A person in a yellow life jacket sits on a yellow boat near a rocky shoreline.",
    "It's what we'll see: they've 12 cats, 345 dogs and 6789 birds; I'm sure you'd agree.",
    "The circle is above the squares. The squares are below the circle. Three large stars.",
    "int main(void)\n{\n\treturn 0;\n}\n\n\n  indented    text\r\n",
    "Ünïcödé façade, Ξεσκεπάζω, привет мир, 天地玄黃, いろは, 다람쥐, 👨‍👩‍👧 🦊",
] * 4

TEXTS = [
    "", " ", "a", "  ", "\n", "A red circle.", " leading", "trailing ", "two  spaces   three",
    "Short caption: A person in a yellow life jacket", "It's we'll THEY'VE I'M 'tis 'S '\u017f",
    "12345 6 78 1a2b", "x\n\n y\r\n\tz \n ", "tabs\t\tand\u00a0nbsp\u3000wide\u2003em\u200bzero",
    "\u180e \u180ea", "café cafe\u0301 Straße ŉ", "Ξεσκεπάζω привет 天地 いろは 다람쥐", "👨‍👩‍👧‍👦🏽 🦊",
    "½ ² Ⅷ ٣ １２ 𝟘 \U00011de1 \U0001e4f0", "\ua7cb\U000105c0\U00016d40 new letters",
    "!!! ... ((x)) --- a!b?c", "<s>", "a<s>b", " <s> x </s> ", "<|sep|>", "x  <|strip|>  y",
    "<word> a<word> <word>b <word>", "<<s><|se <|sep|>|>", "<|sep|><|sep|> <|sep|>", "norm token",
    "a norm token b", "▁a▁ ▁b", "Ġ Ċ", "é" * 40, " " * 33, "ab" * 50, "\x00\x01\x7f\u0080\u00ad",
    b"bad \xff byte", b"\xe2\x82 cut \xf0\x9f\x98", b"\xed\xa0\x80 surrogate", b"\xc0\xaf \xf8",
    "the circle is above the squares below the circle " * 5,
]


def added(id, content, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False} | flags


def added_after(count):
    """Added tokens of every kind, behind a vocabulary of so many."""
    return [
        added(count, "<s>", special=True),
        added(count + 1, "</s>", special=True),
        added(count + 2, "<|sep|>"),
        added(count + 3, "<|strip|>", lstrip=True, rstrip=True, special=True),
        added(count + 4, "<word>", single_word=True),
        added(count + 5, "norm token", normalized=True),
        added(count + 6, "<|se"),
    ]


def template(before, after):
    special = lambda name, id: {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special(*t) for t in before] + [text] + [special(*t) for t in after],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in before + after},
    }


def trained(pre_tokenizer, size, alphabet):
    """Vocabulary and merges of a BPE trained on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [list(m) for m in model["merges"]]


def write(name, vocab, merges, model={}, **parts):
    count = len(vocab)
    part = {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": added_after(count), "normalizer": None, "pre_tokenizer": None,
            "post_processor": None, "decoder": None} | parts
    part["model"] = {"type": "BPE", "dropout": None, "unk_token": None,
                     "continuing_subword_prefix": None, "end_of_word_suffix": None,
                     "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                     "vocab": vocab, "merges": merges} | model
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    text = json.dumps(part, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n")
    return name


def byte_level(name, pre_tokenizer, size, legacy_merges=False, post=lambda count: None, model={}):
    vocab, merges = trained(
        pre_tokenizers.ByteLevel(add_prefix_space=False), size,
        pre_tokenizers.ByteLevel.alphabet())
    if legacy_merges:
        merges = [" ".join(m) for m in merges]
    return write(name, vocab, merges, model, pre_tokenizer=pre_tokenizer,
                 decoder=byte_level_step(), post_processor=post(len(vocab)))


def byte_level_step(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": True} | options


def make_gpt2():
    return byte_level("gpt2", byte_level_step(), 330, legacy_merges=True,
                      post=lambda count: byte_level_step(trim_offsets=False))


def make_prefix_space():
    """GPT-2's with a space in front, and digits together."""
    return byte_level("prefix_space", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": False},
        byte_level_step(add_prefix_space=True)]}, 300)


def make_smollm2():
    return byte_level("smollm2", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, byte_level_step()]}, 330)


def make_llama3():
    split = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex":
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}}
    return byte_level(
        "llama3", {"type": "Sequence", "pretokenizers": [split, byte_level_step(use_regex=False)]},
        330, model={"ignore_merges": True},
        post=lambda count: {"type": "Sequence", "processors": [
            byte_level_step(), template([("<s>", count)], [("</s>", count + 1)])]})


def llama_vocabulary():
    """<unk>, byte tokens (one is missing), characters and merges on text with marks for spaces."""
    vocab, merges = trained(pre_tokenizers.Metaspace(), 220, [])
    names = ["<unk>"] + [f"<0x{b:02X}>" for b in range(256) if b != 0xF0]
    return {n: i for i, n in enumerate(names + sorted(vocab, key=vocab.get))}, merges


LLAMA_MODEL = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


def make_llama2():
    vocab, merges = llama_vocabulary()
    return write(
        "llama2", vocab, merges, LLAMA_MODEL,
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        decoder={"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        post_processor=template([("<s>", len(vocab))], []))


def make_metaspace():
    vocab, merges = llama_vocabulary()
    mark = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    return write("metaspace", vocab, merges, LLAMA_MODEL | {"byte_fallback": False},
                 pre_tokenizer=mark, decoder=mark)


def make_merges():
    """Random merges in which many pairs spell the same token; nothing around the model."""
    rng = random.Random(3)
    vocab, merges = {"?": 0, "a": 1, "b": 2, "c": 3}, []
    while len(merges) < 60:
        left, right = rng.choices([t for t in vocab if t != "?" and len(t) < 5], k=2)
        if [left, right] not in merges:
            vocab.setdefault(left + right, len(vocab))
            merges.append([left, right])
    return write("merges", vocab, merges, {"unk_token": "?"})


def check(name):
    tokenizer = Tokenizer.from_file(str(HERE / name / "tokenizer.json"))
    rng = random.Random(name)
    texts = [t if isinstance(t, bytes) else t.encode() for t in TEXTS]
    if name == "merges":
        texts += ["".join(rng.choices("aaabbbccc?", k=n)).encode() for n in range(4, 60, 3)]
    encoded = []
    for text in texts:
        string = text.decode(errors="replace")
        plain = tokenizer.encode(string, add_special_tokens=False).ids
        special = tokenizer.encode(string).ids
        encoded.append([text.hex(), plain, special])
    size = tokenizer.get_vocab_size()
    lists = [special for _, _, special in encoded[::3]]
    lists += [[rng.randrange(size + 2) for _ in range(n)] for n in range(25)]
    decoded = [[ids, tokenizer.decode(ids, skip_special_tokens=False).encode().hex(),
                tokenizer.decode(ids).encode().hex()] for ids in lists]
    return {"encode": encoded, "decode": decoded}


makers = [make_gpt2, make_prefix_space, make_smollm2, make_llama3, make_llama2, make_metaspace,
          make_merges]
cases = {name: check(name) for name in [make() for make in makers]}
lines = []
for name, case in cases.items():
    rows = lambda key: ",\n".join(json.dumps(c, separators=(",", ":")) for c in case[key])
    lines.append(f'"{name}": {{"encode": [\n{rows("encode")}],\n"decode": [\n{rows("decode")}]}}')
(HERE / "cases.json").write_text("{" + ",\n".join(lines) + "}\n")
print({name: len(case["encode"]) for name, case in cases.items()})

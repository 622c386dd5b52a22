#!/usr/bin/env python3
"""Makes common/tokenizer/unicode_table.inc: the character classes that tokenizers 0.23.3 works with.

They come from the library itself, code point by code point, because its parts follow different
Unicode versions (16 in its regular expressions, 17 in its Digits) and no other library has both:
  L, N, S  \\p{L}, \\p{N}, \\s of its regular expressions (Split with a Regex)
  D        what the Digits pre-tokenizer splits off
  W        what joins a word in the sense of an added token's single_word
"""
import pathlib

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

assert tokenizers.__version__ == "0.23.3", tokenizers.__version__
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def batches(size):
    for i in range(0, len(POINTS), size):
        yield POINTS[i : i + size]


def by_regex(pattern):
    """What a Split that removes the pattern takes away."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    kept = set()
    for batch in batches(4096):
        for piece, _ in split.pre_tokenize_str("".join(map(chr, batch))):
            kept.update(map(ord, piece))
    return set(POINTS) - kept


def by_digits():
    """Characters stand between letters, so that one which is split off has odd neighbours."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    found = set()
    for batch in batches(1024):
        for piece, (start, _) in digits.pre_tokenize_str("a".join(map(chr, batch))):
            if len(piece) == 1 and start % 2 == 0:
                found.add(ord(piece))
    return found


def by_single_word():
    """A single_word token is found only where no word character stands before it."""
    tokenizer = Tokenizer(models.BPE(vocab={"?": 0}, merges=[], unk_token="?"))
    tokenizer.add_tokens([AddedToken("\ue000", single_word=True, normalized=False)])
    found = set()
    for batch in batches(1024):
        encoded = tokenizer.encode(" ".join(chr(c) + "\ue000" for c in batch))
        matched = {
            start
            for (start, _), token in zip(encoded.offsets, encoded.tokens)
            if token == "\ue000"
        }
        found.update(c for i, c in enumerate(batch) if 3 * i + 1 not in matched)
    found.discard(0xE000)  # twice the token itself, a private character of no class
    return found


classes = [
    ("UNICODE_LETTER", by_regex(r"\p{L}")),
    ("UNICODE_NUMBER", by_regex(r"\p{N}")),
    ("UNICODE_SPACE", by_regex(r"\s")),
    ("UNICODE_DIGIT", by_digits()),
    ("UNICODE_WORD", by_single_word()),
]
ranges, previous = [], 0
for point in range(0x110000):
    bits = sum(1 << i for i, (_, members) in enumerate(classes) if point in members)
    if bits != previous:
        ranges.append((point, bits))
        previous = bits



def array(name, values):
    """A C array, wrapped at 100 columns."""
    lines, line = [f"static const uint32_t {name}[] = {{"], "   "
    for value in values:
        if len(line) + len(value) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {value},"
    return lines + [line, "};"]


ascii_classes = [max((r for r in ranges if r[0] <= c), default=(0, 0))[1] for c in range(128)]
lines = [
    "/* common/tokenizer/unicode_table.inc - made by tests/golden/unicode/make.py from tokenizers "
    f"{tokenizers.__version__}.",
    " * Members: " + ", ".join(f"{len(m)} {name[8:].lower()}" for name, m in classes) + ". */",
    "",
    "/* The classes of ASCII. */",
    *array("ascii_classes", (str(bits) for bits in ascii_classes)),
    "",
    "/* Each range's first code point << 8 | its classes. */",
    *array("class_ranges", (f"0x{point << 8 | bits:X}" for point, bits in ranges)),
]
target = pathlib.Path(__file__).parents[3] / "common" / "tokenizer" / "unicode_table.inc"
target.write_text("\n".join(lines) + "\n")
print(f"{target.name}: {len(ranges)} ranges, " + ", ".join(
    f"{name} {len(members)}" for name, members in classes))

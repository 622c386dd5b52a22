"""Steps of a run as the recipe has them, from an image folder: captions, order, pixels and tokens, without the C code.

Reads Hugging Face's imagefolder with metadata.jsonl; images through PIL and transformers' processor, text through
tokenizers.
"""

import hashlib
import json
import os

import numpy as np
import torch
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import order


class Text:
    """llm: folder of the language model. Captions become (ids, labels), without BOS."""

    def __init__(self, llm):
        self.tokenizer = Tokenizer.from_file(os.path.join(llm, "tokenizer.json"))
        with open(os.path.join(llm, "config.json")) as file:
            eos = json.load(file)["eos_token_id"]
        self.eos = eos[0] if isinstance(eos, list) else eos
        with_special, bare = self.tokenizer.encode("a").ids, self.encode("a")
        self.bos = with_special[0] if with_special[0] != bare[0] else -1

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def caption(self, prefix, caption, max_tokens=128):
        """(ids, labels), or None where the rules drop it."""
        prefix, caption = prefix.rstrip(), caption.strip()
        prompt = self.encode(prefix) if prefix else []
        ids = self.encode(f"{prefix} {caption}" if prefix else caption)
        if not caption or len(ids) <= len(prompt) or ids[: len(prompt)] != prompt:
            return None
        if len(ids) - len(prompt) > max_tokens:
            return None
        return ids + [self.eos], [0] * len(prompt) + [1] * (len(ids) - len(prompt) + 1)


class Dataset:
    """folder: an image folder; columns: list of (column, prefix); choice: first or any; validation: images held out."""

    def __init__(self, folder, columns, choice, text, seed, validation):
        self.folder, self.text, self.seed = folder, text, seed
        self.images, self.captions, hashes = [], [], []
        seen = set()
        with open(os.path.join(folder, "metadata.jsonl")) as file:
            rows = [json.loads(line) for line in file]
        for row in rows:
            with open(os.path.join(folder, row["file_name"]), "rb") as file:
                digest = hashlib.sha256(file.read()).digest()
            kept = []
            for prefix, caption in candidates(row, columns, choice):
                made = text.caption(prefix, caption)
                key = (digest, prefix, caption.strip())
                if made and key not in seen:
                    seen.add(key)
                    kept.append(made)
            if kept:
                self.images.append(row["file_name"])
                self.captions.append(kept)
                hashes.append(digest)
        held = order.held_out(seed, hashes, validation)
        self.train = [i for i, digest in enumerate(hashes) if digest not in held]

    def sample(self, position):
        """Global position -> (file name, (ids, labels))."""
        epoch, place = divmod(position, len(self.train))
        sample = self.train[order.permute(self.seed, epoch, len(self.train), place)]
        captions = self.captions[sample]
        return self.images[sample], captions[order.choose(self.seed, epoch, sample, len(captions))]

    def steps(self, count, batch, look):
        """Yields each step's samples (pixels, ids, labels); look: file name -> pixels or None, where there is no image."""
        for step in range(count):
            samples = [self.sample(p) for p in range(step * batch, (step + 1) * batch)]
            seen = [(look(os.path.join(self.folder, name)), *caption) for name, caption in samples]
            yield [s for s in seen if s[0] is not None]


def candidates(row, columns, choice):
    for column, prefix in columns:
        texts = row.get(column) or []
        texts = [texts] if isinstance(texts, str) else texts
        found = [(prefix, t) for t in texts]
        yield from found
        if choice == "first" and any(t.strip() for t in texts):
            return


class Look:
    """vision: folder of the vision tower. Called with a path: pixels (S,S,3) u8, None where PIL cannot read it."""

    def __init__(self, vision):
        with open(os.path.join(vision, "config.json")) as file:
            config = json.load(file)
        side = config.get("vision_config", config)["image_size"]
        resample = 2 if config["model_type"] == "vit" else 3
        path = os.path.join(vision, "preprocessor_config.json")
        if os.path.exists(path):
            with open(path) as file:
                resample = json.load(file).get("resample", resample)
        self.processor = SiglipImageProcessorPil(size={"width": side, "height": side}, resample=resample)

    def __call__(self, path):
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except OSError:
            return None
        raw = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(raw, 0, -1)).astype(np.uint8))

"""tests/evidence/field_models.py - folders of models, beside transformers."""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, ViTConfig, ViTImageProcessor, ViTModel

from field_table import BUILD, DEMO, ROOT, case, jsonl, photo, run, run_yaml, write

sys.path.insert(0, os.path.join(ROOT, "tests/oracle"))
import parity  # noqa: E402
import recipe  # noqa: E402


def models(place):
    """A copy of the demo's models to be changed."""
    shutil.copytree(DEMO, place.path("models"))
    return place.path("models")


def differs(place, vision, llm, processor=None):
    """Which outputs of the model differ from transformers' by more than 1e-5; processor: whose normalisation it takes."""
    torch.manual_seed(1)
    options = {"vision": vision, "llm": llm, "projector": "normal", "bos": "first", "bos_id": 1, "width": 0, "queries": 4, "layers": 1,
               "heads": 4, "threads": 2, "max_new": 8, "beams": 2, "precision": "f32", "weights": place.path("weights")}
    captioner = recipe.Captioner(options)
    if processor:
        captioner.mean, captioner.std = processor.image_mean, processor.image_std
        captioner.rescale = processor.rescale_factor
    captioner.save(options["weights"])
    batch = parity.make_input(captioner, 1)
    parity.write_input(place.path("input.safetensors"), *batch)
    worst = {}
    expected = parity.expected_outputs(captioner, *batch, options)
    found = parity.run_ours(os.path.join(BUILD, "tests/tools/model_dump"), place.folder, options)
    parity.compare(found, expected, worst, "")
    return [kind for kind, (error, _) in worst.items() if error > parity.BARS.get(kind, 0.0)]


def small_vit(place):
    torch.manual_seed(2)
    config = ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=8)
    ViTModel(config, add_pooling_layer=False).save_pretrained(place.path("vit"))
    return place.path("vit")


def squares(place, folder, processor):
    """Names of pictures whose resized pixels differ from the processor's by more than 1."""
    import numpy as np
    from PIL import Image
    paths = []
    for i, size in enumerate(((90, 50), (33, 64), (20, 20))):
        paths.append(place.path("photo%d.png" % i))
        photo(i, *size).save(paths[-1])
    done = run("blipren-loader", "preprocess", "--model", folder, "--json", "--into", place.path("squares"), *paths)
    wrong = []
    for path, line in zip(paths, done.stdout.splitlines()):
        raw = processor(images=Image.open(path), do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        ours = np.asarray(Image.open(json.loads(line)["png"])).astype(int)
        if np.abs(np.moveaxis(raw, 0, -1) - ours).max() > 1:
            wrong.append(path)
    return wrong if len(done.stdout.splitlines()) == len(paths) else done.stderr


@case("side files of models")
def settings_nested_in_processor_config_are_those_of_transformers_5(place):
    folder = small_vit(place)
    settings = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6],
                                 resample=2).to_dict()
    write(folder + "/processor_config.json", json.dumps({"processor_class": "X", "image_processor": settings}))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return (squares(place, folder, processor), differs(place, folder, DEMO + "/llm", processor)), ([], [])


@case("side files of models")
def nested_settings_come_before_a_file_of_their_own(place):
    folder = small_vit(place)
    for name, mean in (("processor_config.json", 0.1), ("preprocessor_config.json", 0.9)):
        settings = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[mean] * 3).to_dict()
        write(folder + "/" + name, json.dumps(settings if name[0] == "p" and name[3] == "p" else {"image_processor": settings}))
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return (processor.image_mean[0], differs(place, folder, DEMO + "/llm", processor)), (0.1, [])


@case("side files of models")
def without_settings_those_of_the_family_hold_and_check_says_so(place):
    folder = small_vit(place)
    model = models(place)
    shutil.rmtree(model + "/vision")
    shutil.copytree(folder, model + "/vision")
    processor = AutoImageProcessor.from_pretrained(write_class(folder, place), backend="pil")
    photo().save(write(place.path("data/a.png"), b""))
    write(place.path("data/a.txt"), "a red circle")
    page = run("blipren-coord", "check", run_yaml(place, place.path("data"), model=model)).stdout
    said = "has neither processor_config.json nor preprocessor_config.json: images are resized to 32 x 32 (bilinear)" in page
    return (squares(place, folder, processor), differs(place, folder, DEMO + "/llm", processor), said), ([], [], True)


def write_class(folder, place):
    """A folder that names transformers' own class and its model's size, and nothing else."""
    write(place.path("class/preprocessor_config.json"), json.dumps({"image_processor_type": "ViTImageProcessor",
                                                                    "size": {"height": 32, "width": 32}}))
    return place.path("class")


def captioned(place, model, change):
    """What `caption` says of a checkpoint after a file of its frozen models was changed."""
    photo().save(write(place.path("data/a.png"), b""))
    write(place.path("data/a.txt"), "a red circle")
    done = run("blipren-coord", "train", run_yaml(place, place.path("data"), "validation: 0", model), "--local", "1,1")
    assert done.returncode == 0, done.stderr
    change()
    return run("blipren-worker", "caption", "--checkpoint", place.path("run/checkpoints/latest"), place.path("data/a.png"))


@case("side files of models")
def another_tokenizer_or_preprocessing_is_another_model(place):
    model = models(place)

    def change(name, edit):
        with open(name) as file:
            content = json.load(file)
        edit(content)
        write(name, json.dumps(content))

    def restore():
        shutil.rmtree(model)
        shutil.copytree(DEMO, model)
    codes = []
    captioned(place, model, lambda: None)
    for name, edit in (("vision/preprocessor_config.json", lambda c: c.update(image_mean=[0.4] * 3)),
                       ("llm/generation_config.json", lambda c: c.update(eos_token_id=3)),
                       ("llm/tokenizer.json", lambda c: c.update(truncation=None, padding=None, version="1.0 "))):
        change(os.path.join(model, name), edit)
        done = run("blipren-worker", "caption", "--checkpoint", place.path("run/checkpoints/latest"), place.path("data/a.png"))
        codes.append((done.returncode, "expected the model the checkpoint was trained on" in done.stderr))
        restore()
    return codes, [(3, True)] * 3


@case("broken weights")
def a_frozen_tensor_with_nan_is_named_and_no_run_ends_as_complete(place):
    model = models(place)
    tensors = load_file(model + "/llm/model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, model + "/llm/model.safetensors", {"format": "pt"})
    photo().save(write(place.path("data/a.png"), b""))
    write(place.path("data/a.txt"), "a red circle")
    yaml = run_yaml(place, place.path("data"), "validation: 0", model)
    check = run("blipren-coord", "check", yaml)
    train = run("blipren-coord", "train", yaml, "--local", "1,1")
    return (check.returncode, 'tensor "model.layers.1.mlp.up_proj.weight": expected finite values, found nan' in check.stdout,
            train.returncode, "nothing is trained" in train.stderr, "complete" in train.stdout), (4, True, 11, True, False)


@case("broken weights")
def a_score_that_is_not_finite_is_an_error(place):
    model = models(place)
    tensors = load_file(model + "/llm/model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, model + "/llm/model.safetensors", {"format": "pt"})
    photo().save(write(place.path("data/a.png"), b""))
    write(place.path("data/a.txt"), "a red circle")
    run("blipren-coord", "train", run_yaml(place, place.path("data"), "validation: 0", model), "--local", "1,1")
    write(place.path("data/pairs.jsonl"), jsonl({"file_name": "a.png", "caption": "a red circle"}))
    done = run("blipren-worker", "score", "--checkpoint", place.path("run/checkpoints/latest"), "--pairs", place.path("data/pairs.jsonl"))
    return (done.returncode, [set(json.loads(line)) for line in done.stdout.splitlines()]), (11, [{"file_name", "caption", "error"}])


@case("tied or not")
def two_matrices_under_tie_word_embeddings_are_used_untied(place):
    model = models(place)
    with open(model + "/llm/config.json") as file:
        config = json.load(file)
    write(model + "/llm/config.json", json.dumps(config | {"tie_word_embeddings": True}))
    return differs(place, model + "/vision", model + "/llm"), []


@case("tied or not")
def two_equal_matrices_are_one(place):
    model = models(place)
    with open(model + "/llm/config.json") as file:
        config = json.load(file)
    write(model + "/llm/config.json", json.dumps(config | {"tie_word_embeddings": True}))
    tensors = load_file(model + "/llm/model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, model + "/llm/model.safetensors", {"format": "pt"})
    return differs(place, model + "/vision", model + "/llm"), []


@case("leniency")
def metadata_null_and_tensors_of_types_that_nothing_uses_do_not_matter(place):
    model = models(place)
    tensors = load_file(model + "/llm/model.safetensors")
    plain = differs(place, model + "/vision", model + "/llm")
    import struct
    save_file(tensors, model + "/llm/model.safetensors")
    with open(model + "/llm/model.safetensors", "rb") as file:
        raw = file.read()
    size = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8:8 + size]), raw[8 + size:]
    header["__metadata__"] = None
    for i, kind in enumerate(("F8_E4M3", "C64", "U64", "F4")):
        bytes_ = 16
        shape = [16 * 8 // {"F8_E4M3": 8, "C64": 64, "U64": 64, "F4": 4}[kind]]
        header["extra.%d" % i] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + bytes_]}
        data += b"\0" * bytes_
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write(model + "/llm/model.safetensors", struct.pack("<Q", len(text)) + text + data)
    return differs_ours(place, model), plain


def differs_ours(place, model):
    """The same comparison; transformers reads the demo's own folder, which has the same tensors."""
    options = {"vision": model + "/vision", "llm": model + "/llm"}
    found = parity.run_ours(os.path.join(BUILD, "tests/tools/model_dump"), place.folder,
                            json.load(open(place.path("options.json"))) | options)
    torch.manual_seed(1)
    before = json.load(open(place.path("options.json"))) | {"vision": DEMO + "/vision", "llm": DEMO + "/llm"}
    again = parity.run_ours(os.path.join(BUILD, "tests/tools/model_dump"), place.folder, before)
    return [name for name in again if not torch.equal(found[name], again[name])]

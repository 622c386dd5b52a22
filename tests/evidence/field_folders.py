"""tests/evidence/field_folders.py - folders of images and captions, beside Hugging Face's datasets and tokenizers."""
import json
import os
import re
import shutil

import datasets
import tokenizers

from field_table import DEMO, ROOT, case, jsonl, photo, run, run_yaml, write


def counted(yaml):
    """(samples to train, to validate) as `inspect` counts them, and its page."""
    done = run("blipren-loader", "inspect", yaml)
    train = re.search(r"^ +(\d+)  train$", done.stdout, re.M)
    validation = re.search(r"^ +(\d+)  validation$", done.stdout, re.M)
    return (int(train[1]), int(validation[1]), done.stdout) if train else (0, 0, done.stdout + done.stderr)


def put(place, name, seed, caption=None):
    path = write(place.path("data", name), b"")
    photo(seed, 12, 12).save(path, "PNG")
    if caption:
        write(path[:-4] + ".txt", caption)
    return path


@case("splits in folders")
def the_folders_that_datasets_takes_for_splits_are_ours(place):
    wrong = []
    for number, names in enumerate((("train", "validation", "test"), ("train", "val", "test"), ("training", "valid", "testing"),
                                    ("train2017", "dev", "eval"), ("my_train", "val-2", "evaluation"), ("train", "other"),
                                    ("a/train", "a/val"), ("trains", "tests"))):
        folder = place.path("data", str(number))
        shutil.rmtree(folder, ignore_errors=True)
        for i, name in enumerate(names):
            for j in range(i + 2):
                path = write(os.path.join(folder, name, "%d.png" % j), b"")
                photo(100 * number + 10 * i + j, 12, 12).save(path, "PNG")
            write(os.path.join(folder, name, "metadata.jsonl"),
                  jsonl(*({"file_name": "%d.png" % j, "text": "a red circle %d" % j} for j in range(i + 2))))
        loaded = datasets.load_dataset("imagefolder", data_dir=folder, cache_dir=place.path("cache"))
        expected = (len(loaded["train"]) if "train" in loaded else 0, len(loaded["validation"]) if "validation" in loaded else 0)
        found = counted(run_yaml(place, folder, "validation: 0"))[:2]
        if found != expected:
            wrong.append((names, found, expected))
    return wrong, []


@case("splits in folders")
def nothing_in_test_is_trained_on_and_check_says_so(place):
    for i, name in enumerate(("train/a.png", "train/b.png", "test/c.png", "val/d.png")):
        put(place, name, i, "a red circle")
    page = run("blipren-coord", "check", run_yaml(place, place.path("data"))).stdout
    return "train has 2 samples, validation 1, test 1 (not used), none of them 0" in page, True


@case("splits in folders")
def parquet_files_named_by_a_split_are_of_it(place):
    import io
    import pyarrow
    import pyarrow.parquet

    def image(seed):
        out = io.BytesIO()
        photo(seed, 12, 12).save(out, "PNG")
        return {"bytes": out.getvalue(), "path": "test/%d.png" % seed}
    os.makedirs(place.path("data"))
    for number, (name, rows) in enumerate((("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("validation-00000-of-00001", 2),
                                           ("test-00000-of-00001", 4))):
        table = pyarrow.table({"image": [image(10 * number + i) for i in range(rows)], "text": ["a red circle"] * rows})
        pyarrow.parquet.write_table(table, place.path("data/%s.parquet" % name))
    loaded = datasets.load_dataset("parquet", data_dir=place.path("data"), cache_dir=place.path("cache"))
    return counted(run_yaml(place, place.path("data"), "validation: 0"))[:2], (len(loaded["train"]), len(loaded["validation"]))


@case("encodings")
def text_that_is_not_utf8_is_refused_by_file_and_line(place):
    put(place, "a.png", 1)
    out = []
    for name, content, where in (("a.txt", "caf\xe9".encode("latin-1"), "data/a.txt"),
                                 ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", "metadata.csv:2"),
                                 ("metadata.jsonl", b'{"file_name": "a.png", "text": "caf\xe9"}\n', "metadata.jsonl:1")):
        write(place.path("data", name), content)
        done = run("blipren-coord", "check", run_yaml(place, place.path("data")))
        try:
            content.decode()
            reference = 0
        except UnicodeDecodeError:
            reference = 4
        out.append((done.returncode, where in done.stdout) == (reference, True))
        os.unlink(place.path("data", name))
    return out, [True] * 3


@case("what is passed over")
def what_is_not_read_is_counted_with_the_first_name(place):
    for i in range(3):
        put(place, "%d.png" % i, i, "a red circle %d" % i)
    write(place.path("data/lone.txt"), "nothing")
    write(place.path("data/z.psd.svg"), "<svg/>")
    os.symlink("/nowhere", place.path("data/dead.png"))
    done = run("blipren-loader", "inspect", run_yaml(place, place.path("data"), "validation: 0"))
    lines = re.findall(r"(\d+)  passed over: ([a-z ]+).*\n +(\S+)", done.stdout)
    return sorted((count, words.split()[0], name) for count, words, name in lines), \
        [("1", "image", "z.psd.svg"), ("1", "links", "dead.png"), ("1", "text", "lone.txt")]


@case("what is passed over")
def dropped_captions_are_named_in_inspect_check_and_train(place):
    for i in range(6):
        put(place, "%d.png" % i, i, "a red circle" if i else "a red circle and " * 40)
    keys = "validation: 0, max_bad_fraction: 0.5"
    yaml = run_yaml(place, place.path("data"), keys)
    check, train = run("blipren-coord", "check", yaml), run("blipren-coord", "train", yaml, "--local", "1,1")
    line = "1 of 6 captions are dropped: too long (data.max_tokens); the first is 0.png: a red circle and"
    return (line in check.stdout, line in train.stderr, "1  dropped: too long (data.max_tokens)" in counted(yaml)[2]), (True,) * 3


@case("what is passed over")
def linked_folders_are_followed_once(place):
    put(place, "real/a.png", 1, "a red circle")
    put(place, "b.png", 2, "a blue star")
    os.symlink(place.path("data/real"), place.path("data/linked"))
    os.symlink(place.path("data"), place.path("data/real/loop"))
    train, _, page = counted(run_yaml(place, place.path("data"), "validation: 0, deduplicate: false"))
    found = sum(len([n for n in names if n.endswith(".png")]) for _, _, names in walk(place.path("data")))
    return (train, "back to a folder they are in" in page), (found, True)


def walk(folder, seen=()):
    """os.walk that follows links, but into no folder that it is in."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    names = os.listdir(folder)
    folders = [n for n in names if os.path.isdir(os.path.join(folder, n))]
    yield folder, folders, [n for n in names if n not in folders]
    for name in folders:
        yield from walk(os.path.join(folder, name), (*seen, real))


@case("what is passed over")
def jfif_and_jpe_are_jpeg(place):
    for i, end in enumerate((".jpg", ".jpeg", ".jfif", ".jpe", ".JPG")):
        path = write(place.path("data", "%d%s" % (i, end)), b"")
        photo(i, 12, 12).save(path, "JPEG")
        write(place.path("data", "%d.txt" % i), "a red circle %d" % i)
    return counted(run_yaml(place, place.path("data"), "validation: 0"))[0], 5


@case("what is passed over")
def pairs_behind_a_metadata_file_further_down_are_counted(place):
    put(place, "a.png", 1, "a red circle")
    put(place, "b.png", 2, "a red circle")
    put(place, "below/c.png", 3)
    write(place.path("data/below/metadata.jsonl"), jsonl({"file_name": "c.png", "text": "a blue star"}))
    train, _, page = counted(run_yaml(place, place.path("data"), "validation: 0"))
    return (train, "2  passed over: text files beside images" in page), (1, True)


@case("one rule for loss")
def lost_captions_and_lost_images_fall_under_one_threshold(place):
    out = []
    for keys, captions, images in (("max_tokens: 3", 5, 0), ("", 0, 5), ("max_tokens: 3, max_bad_fraction: 0.9", 5, 0),
                                   ("max_bad_fraction: 0.9", 0, 5)):
        shutil.rmtree(place.path("data"), ignore_errors=True)
        lines = []
        for i in range(10):
            put(place, "%d.png" % i, i)
            lines.append({"file_name": "%d.png" % i, "text": "red" if i >= captions else "a red circle and a blue star " * 4})
            if i < images:
                os.unlink(place.path("data/%d.png" % i))
        write(place.path("data/metadata.jsonl"), jsonl(*lines))
        done = run("blipren-coord", "check", run_yaml(place, place.path("data"), "validation: 0" + (keys and ", " + keys)))
        out.append((done.returncode, "data.max_tokens" in done.stdout if captions else "missing" in done.stdout))
    return [code for code, _ in out], [11, 11, 0, 0]


@case("check opens data")
def files_that_are_no_pictures_are_found_before_training(place):
    for i in range(4):
        write(place.path("data/%d.jpg" % i), b"\0\0\0\x18ftypheic" + bytes([i]) * 400)
        write(place.path("data/%d.txt" % i), "a red circle")
    done = run("blipren-coord", "check", run_yaml(place, place.path("data"), "validation: 0"))
    return (done.returncode, "4 of 4 images decoded are bad" in done.stdout), (11, True)


@case("leniency")
def odd_values_in_columns_that_no_rule_names_are_ignored(place):
    put(place, "a.png", 1)
    put(place, "b.png", 2)
    odd = [{"n": None, "list": [1, "a", {}], "nested": {"deep": [[]]}}, {"n": 12345678901234567890123, "f": float("nan"), "g": float("-inf"), "h": [1e300], "list": "x"}]
    write(place.path("data/metadata.jsonl"), "".join(
        json.dumps({"file_name": name, "text": "a red circle", **values}) + "\n" for name, values in zip(("a.png", "b.png"), odd)))
    return counted(run_yaml(place, place.path("data"), "validation: 0"))[0], 2


@case("csv with a Python list")
def a_printed_python_list_is_warned_of_with_the_key(place):
    put(place, "a.png", 1)
    put(place, "b.png", 2)
    write(place.path("data/metadata.csv"), 'file_name,text\na.png,"[\'a red circle\', \'a circle\']"\nb.png,a blue star\n')
    loaded = datasets.load_dataset("imagefolder", data_dir=place.path("data"), cache_dir=place.path("cache"))["train"]
    printed = sum(text.startswith("['") for text in loaded["text"])
    page = run("blipren-coord", "check", run_yaml(place, place.path("data"), "validation: 0")).stdout
    return "warning  data      %d captions look like a printed Python list" % printed in page and "data.captions" in page, True


def encoded(folder, prefix, join, caption):
    """Ids of prefix and caption as the tokenizers library has them, none where the prefix's last token merges with the caption."""
    oracle = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    prefix = prefix.rstrip() if join else prefix
    alone, both = (oracle.encode(text, add_special_tokens=False).ids for text in (prefix, prefix + join + caption))
    return both if both[:len(alone)] == alone else []


def inspected(place, keys):
    """Ids of the first sample's prefix and caption as `inspect` shows them."""
    page = counted(run_yaml(place, place.path("data"), "validation: 0, " + keys))[2]
    return [int(i) for mark, i in re.findall(r"^    (prefix|label) +(\d+)  ", page.partition("sample 0,")[2].split("sample ")[0], re.M)]


@case("chat templates")
def a_prefix_may_end_in_line_breaks_and_take_no_space(place):
    put(place, "a.png", 1)
    write(place.path("data/metadata.jsonl"), jsonl({"file_name": "a.png", "text": "a red circle"}))
    out = []
    for prefix, join in (("Short caption:", " "), ("assistant\n\n", ""), ("Caption:\n", ""), ("Caption: ", " "), ("x ", "")):
        keys = "captions: [{column: text, prefix: %s, join: %s}]" % (json.dumps(prefix), json.dumps(join))
        out.append(inspected(place, keys) == encoded(DEMO + "/llm", prefix, join, "a red circle"))
    return out, [True] * 5


@case("README's example")
def where_prefix_and_caption_merge_the_setting_that_helps_is_named_and_helps(place):
    for i in range(4):
        put(place, "%d.png" % i, i)
    write(place.path("data/metadata.jsonl"), jsonl(*({"file_name": "%d.png" % i, "text": "a red circle"} for i in range(4))))
    model = place.path("models")
    shutil.copytree(DEMO, model)
    with open(model + "/llm/tokenizer.json") as file:
        tokenizer = json.load(file)
    tokenizer["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer["model"]["vocab"][":\u0120"] = tokenizer["model"]["vocab"].pop("\u0120circle")
    tokenizer["model"]["merges"] = [m for m in tokenizer["model"]["merges"] if "circle" not in "".join(m)]
    tokenizer["model"]["merges"].insert(0, [":", "\u0120"])
    write(model + "/llm/tokenizer.json", json.dumps(tokenizer))
    codes = []
    for caption in ('{column: text, prefix: "Caption:"}', '{column: text, prefix: "Caption:\\n", join: ""}'):
        done = run("blipren-coord", "check", run_yaml(place, place.path("data"), "validation: 0, captions: [%s]" % caption, model))
        codes.append((done.returncode, 'end with a line break ("...\\n") and set its join to ""' in done.stdout))
    return codes, [(11, True), (0, False)]


@case("length in epochs")
def epochs_become_steps(place):
    for i in range(10):
        put(place, "%d.png" % i, i, "a red circle %d" % i)
    yaml = run_yaml(place, place.path("data"), "validation: 0")
    with open(yaml) as file:
        text = file.read()
    write(yaml, text.replace("steps: 4", "epochs: 2.5"))
    page = run("blipren-coord", "check", yaml).stdout
    return "7 steps of 4 samples" in page, True  # 2.5 times 10 samples


@case("captioning a set")
def names_with_tabs_and_line_breaks_come_back_from_json(place):
    names = ["tab\there.png", "line\nbreak.png", "caf\u00e9.png"]
    paths = [put(place, name, i) for i, name in enumerate(names)]
    done = run("blipren-loader", "preprocess", "--model", DEMO + "/vision", "--json", "--into", place.path("squares"), *paths)
    return [json.loads(line)["file_name"] for line in done.stdout.splitlines()], paths


@case("captioning a set")
def images_of_one_name_do_not_overwrite_each_other(place):
    paths = [put(place, "x/a.png", 1), put(place, "y/a.png", 2)]
    done = run("blipren-loader", "preprocess", "--model", DEMO + "/vision", "--json", "--into", place.path("squares"), *paths)
    written = {json.loads(line)["png"] for line in done.stdout.splitlines()}
    return (len(written), sorted(os.listdir(place.path("squares")))), (2, ["a.png-2.png", "a.png.png"])


@case("captioning a set")
def a_folder_is_captioned_into_a_file_and_resumed(place):
    for i in range(5):
        put(place, "%d.png" % i, i, "a red circle")
    trained = run("blipren-coord", "train", run_yaml(place, place.path("data"), "validation: 0"), "--local", "1,1")
    assert trained.returncode == 0, trained.stderr
    command = ["caption", "--checkpoint", place.path("run/checkpoints/latest"), "--out", place.path("out.jsonl"), place.path("data")]
    run("blipren-worker", *command)
    with open(place.path("out.jsonl")) as file:
        whole = file.read()
    write(place.path("out.jsonl"), whole[:len(whole) // 2])
    run("blipren-worker", *command)
    with open(place.path("out.jsonl")) as file:
        again = file.read()
    return (again == whole, [os.path.basename(json.loads(line)["file_name"]) for line in whole.splitlines()]), \
        (True, ["%d.png" % i for i in range(5)])


@case("README's example")
def an_error_of_check_appears_once(place):
    import subprocess
    from field_table import program
    done = subprocess.run([program("blipren-coord"), "check", run_yaml(place, place.path("none"))], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    return len([line for line in done.stdout.splitlines() if place.path("none") in line]), 1


@case("README's example")
def the_run_of_the_readme_is_shortened_by_its_steps_alone(place):
    with open(os.path.join(ROOT, "README.md")) as file:
        yaml = file.read().split("```yaml\n")[1].split("```")[0]
    for i in range(30):
        put(place, "%d.png" % i, i)
    write(place.path("data/metadata.jsonl"), jsonl(*({"file_name": "%d.png" % i, "caption": "a red circle %d" % i} for i in range(30))))
    for found, mine in (("path: google/siglip-so400m-patch14-384", "path: %s/vision" % DEMO),
                        ("path: meta-llama/Llama-3.2-1B", "path: %s/llm" % DEMO), ("source: photos", "source: data"),
                        ("steps: 6000", "steps: 30")):
        assert found in yaml
        yaml = yaml.replace(found, mine)
    done = run("blipren-coord", "check", write(place.path("run.yaml"), yaml))
    return (done.returncode, "30 steps of 256 samples" in done.stdout), (0, True)

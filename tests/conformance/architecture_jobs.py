"""Every architecture through whole jobs: rtn and gptq in format gptq, verified, and computed again by transformers.

    architecture_jobs.py QUANT_ENGINE [NAME ...]

The models are those of tiny_models.py (with names: those that begin so). What the engine wrote is decoded by
engine_jobs.py, put back into a plain checkpoint under the names it was written with, and loaded by transformers in
float32; its logits must be those that the engine recorded from memory in verification_probe.json. The bound is the
summation noise of two implementations. Experts that saw too few tokens must be on record as rounded.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from engine_jobs import dense_gptq, modules_of, read_tensors, run_job
from safetensors.torch import load_file, save_file
from tiny_models import MODELS, SEED, make
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)

FLOAT32_BOUND = 2e-3
NAMES = ["llama-biases", "mistral-window", "qwen2", "qwen3", "gpt2", "gpt2-old", "gpt2-inner-untied", "phi", "phi-part",
         "phi3", "phi3-longrope", "gemma2", "gemma3", "mixtral", "mixtral-starved", "qwen3moe", "qwen3moe-dense-layers"]
# Whole rows: the models' sizes hold no groups, and whole words of 4-bit codes only.
CASES = [("rtn", {"bits": 4, "group_size": -1}), ("gptq", {"bits": 4, "group_size": -1}),
         ("gptq", {"bits": 4, "group_size": -1, "sym": False, "true_sequential": False}),
         ("gptq", {"bits": 4, "group_size": -1, "input_correction": 0.5})]
# Architectures that no rotation goes through: with `fallback` the job goes on with gptq and says so.
NOT_ROTATED = ("gpt2", "phi", "phi-part", "gemma2", "gemma3")
FALLBACK_CASE = ("quarot", {"bits": 4, "group_size": -1, "random_signs": False})


def starve(folder):
    """A router of one expert a token that never chooses expert 1: of two opposite scores one is above its zero."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith("block_sparse_moe.gate.weight"):
            tensor[1], tensor[2] = 0, -tensor[0]
    save_file(tensors, path, metadata={"format": "pt"})


def add_tokenizer(folder):
    """Printable ASCII, one token a character: verify generates from text."""
    vocabulary = {"<unk>": 0} | {chr(code): code - 31 for code in range(32, 127)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))


def decoded(original, quantized, bits, folder):
    """A plain checkpoint of what `quantized` computes."""
    tensors = read_tensors(quantized)
    conv1d = json.loads((original / "config.json").read_text())["model_type"] == "gpt2"
    for module in modules_of(tensors):
        weight = torch.from_numpy(dense_gptq(tensors, module, bits))
        tensors[module + ".weight"] = (weight.T if conv1d else weight).contiguous()
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            del tensors[f"{module}.{suffix}"]
    folder.mkdir()
    shutil.copy(original / "config.json", folder)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def worst_difference(logits, probe):
    worst = 0.0
    for entry in probe["positions"]:
        row = logits[entry["position"]].double()
        worst = max(worst, (row[entry["ids"]] - torch.tensor(entry["logits"]).double()).abs().max().item())
    return worst


@torch.no_grad()
def check(engine, name, model, text, method, options, work):
    spec = {"quantize": {"model": str(model), "method": method, "options": options, "fallback": method == "quarot",
                         "calibration": {"source": str(text), "sequences": 8, "sequenceLength": 32}},
            "runtime": {"device": "cpu", "threads": 1}}
    result, fallbacks = run_job(engine, spec, work / "job")
    out = work / "job/out"
    verified, _ = run_job(engine, {"verify": {"model": str(out)}, "runtime": {"device": "cpu", "threads": 1}},
                          work / "verify")
    good = verified["passed"] and (method == "quarot") == any(f["kind"] == "method" for f in fallbacks)
    good &= result["method"] == ("gptq" if method == "quarot" else method)
    probe = json.loads((out / "verification_probe.json").read_text())
    theirs = decoded(model, out, options["bits"], work / "plain")
    worst = worst_difference(theirs(torch.tensor([probe["tokens"]])).logits[0].float(), probe)
    good &= worst <= FLOAT32_BOUND
    starved = [f["module"] for f in fallbacks if f["kind"] == "rtn"]
    if name == "mixtral-starved" and method == "gptq":
        good &= any(".experts.1." in module for module in starved)
    good &= all(".experts." in module for module in starved)
    print(f"{'ok  ' if good else 'FAIL'} {name} {method} {options}: difference {worst:.1e}, verified"
          f" {verified['passed']}, {len(result['modules'])} modules, {len(starved)} rounded for want of tokens", flush=True)
    return good


def main(engine, *wanted):
    failed = 0
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        text = root / "ids.jsonl"
        generator = torch.Generator().manual_seed(SEED)
        text.write_text("".join(json.dumps({"text": torch.randint(199, (64,), generator=generator).tolist()}) + "\n"
                                for _ in range(8)))
        for name in NAMES:
            if wanted and not name.startswith(wanted):
                continue
            model = root / name
            make("mixtral-window-tied" if name == "mixtral-starved" else name, model)
            add_tokenizer(model)
            if name == "mixtral-starved":
                starve(model)
            for number, (method, options) in enumerate(CASES + [FALLBACK_CASE] * (name in NOT_ROTATED)):
                failed += not check(engine, name, model, text, method, options, root / f"{name}-{number}")
    print(f"{failed} failures")
    sys.exit(1 if failed else 0)


assert set(NAMES) - {"mixtral-starved"} <= set(MODELS)
main(*sys.argv[1:])

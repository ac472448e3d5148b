"""The decoder against transformers: logits, block streaming, the KV cache, greedy generation.

Usage: logits_oracle.py MODELS_DUMP [MODEL_FOLDER ... | NAME ...]

Checks models/tiny-6m, the folders given, the models in the folder that QUANTD_REF_MODELS names, and small random
checkpoints of every architecture (tiny_models.py). With names, only the random ones that begin so. QUANTD_ORACLE_DEVICE
(default "cpu") is where the engine runs; transformers always runs on the CPU. Needs no network.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from safetensors.torch import load_file
from tiny_models import MODELS, SEED, make
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()

DUMP = sys.argv[1]
DEVICE = os.environ.get("QUANTD_ORACLE_DEVICE", "cpu")
SOURCE = Path(__file__).resolve().parents[2]
NEW_TOKENS = 64
CHUNKS = [11, 1, 1, 5]

# float32: the promise of the engine. Two programs that add the same numbers in another order differ by about
# 1e-7 of the largest logit (20 here) a layer.
ABS_ERROR_FP32 = 1e-4

# 16 bits: transformers' own 16-bit logits differ from its float32 ones by E (maximum) and e (root mean square). The
# engine makes the same casts in the same order and differs only where sums are ordered otherwise, which is one
# rounding of the same size as those that make up E. Its error against float32 must therefore be that of
# transformers up to the spread of a maximum over other roundings: 2 E for the maximum, and for the mean,
# over thousands of logits a far steadier number, 1.25 e.
FACTOR_MAX_16 = 2.0
FACTOR_RMS_16 = 1.25


# One thread: the models are small, and two programs that spin for the same processors take a hundred times longer.
torch.set_num_threads(1)

failures = []


def check(name, good, words):
    if not good:
        failures.append(f"{name}: {words}")
    print(f"  {'ok  ' if good else 'FAIL'} {words}", flush=True)


def ask(folder, request):
    """What models_dump makes of `request`: (tensors, measurements)."""
    with tempfile.TemporaryDirectory() as work:
        ask_path, out_path = Path(work, "request.json"), Path(work, "out.safetensors")
        ask_path.write_text(json.dumps(dict(request, device=DEVICE, threads=1)))
        run = subprocess.run([DUMP, str(folder), str(ask_path), str(out_path)], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{folder}: {run.stderr}")
        return load_file(out_path), json.loads(run.stdout)


@torch.no_grad()
def reference(folder, dtype, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return model, model(ids).logits.float()


@torch.no_grad()
def greedy(model, prompt):
    """transformers' own forward pass and argmax; generate() would stop or alter tokens by generation_config.json.

    Longrope changes every key once a sequence outgrows the trained length: there generate() drops its cache, and the
    whole sequence is given again here.
    """
    limit = outgrown_at(model.config)
    ids, cache, tokens = torch.tensor([prompt]), None, []
    for _ in range(NEW_TOKENS):
        out = model(ids, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        tokens.append(int(out.logits[0, -1].argmax()))
        ids = torch.tensor([[tokens[-1]]])
        if len(prompt) + len(tokens) == limit:
            ids, cache = torch.tensor([prompt + tokens]), None
    return tokens


def outgrown_at(config):
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") != "longrope":
        return None
    return parameters["original_max_position_embeddings"] + 1


def depends_on_length(config):
    return (getattr(config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope")


@torch.no_grad()
def cached(model, ids):
    """Logits of chunks through transformers' cache: what "cached" must be where they depend on the length so far."""
    cache, parts, at = None, [], 0
    while at < ids.shape[1]:
        count = CHUNKS[len(parts) % len(CHUNKS)]
        out = model(ids[:, at:at + count], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits.float())
        at += count
    return torch.cat(parts, 1)


def compare(name, folder, bench=False):
    print(name)
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = json.loads(Path(folder, "config.json").read_text())["vocab_size"]
    ids = torch.randint(vocabulary, (3, 48), generator=generator)
    prompts = [ids[0, :5].tolist(), ids[1, :17].tolist(), ids[2, :1].tolist()]
    request = dict(dtype="float32", sequences=ids.tolist(), chunks=CHUNKS, prompts=prompts,
                   new_tokens=NEW_TOKENS)
    if bench:
        request["bench_tokens"] = 256
    ours, measured = ask(folder, request)
    model, expected = reference(folder, torch.float32, ids)
    for way in ("logits", "streamed", "cached"):
        theirs = cached(model, ids) if way == "cached" else expected
        error = (ours[way] - theirs).abs().max().item()
        check(name, error <= ABS_ERROR_FP32, f"float32 {way}: max abs error {error:.2e} (allowed {ABS_ERROR_FP32:.0e})")
    tokens = [greedy(model, prompt) for prompt in prompts]
    for way in ("together", "alone"):
        check(name, ours[way].tolist() == tokens, f"{NEW_TOKENS} greedy tokens from prompts {way}")
    if bench:
        print("  ", json.dumps(measured))
    for dtype in (torch.bfloat16, torch.float16):
        compare16(name, folder, ids, expected, dtype)


def compare16(name, folder, ids, expected, dtype):
    text = str(dtype).removeprefix("torch.")
    ours, _ = ask(folder, dict(dtype=text, sequences=ids.tolist(), chunks=CHUNKS))
    model, theirs = reference(folder, dtype, ids)
    if depends_on_length(model.config):
        return  # The cached logits are others than those of one pass; float32 has compared them.
    their_max, their_rms = (theirs - expected).abs().max().item(), (theirs - expected).square().mean().sqrt().item()
    for way in ("logits", "cached"):
        error = ours[way] - expected
        error_max, error_rms = error.abs().max().item(), error.square().mean().sqrt().item()
        good = error_max <= FACTOR_MAX_16 * their_max and error_rms <= FACTOR_RMS_16 * their_rms
        check(name, good, f"{text} {way}: error max {error_max:.3g}, rms {error_rms:.3g}"
                          f" (transformers {their_max:.3g}, {their_rms:.3g})")


def main():
    names = [name for name in sys.argv[2:] if not Path(name).is_dir()]
    folders = [name for name in sys.argv[2:] if Path(name).is_dir()]
    if not names:
        beside = os.environ.get("QUANTD_REF_MODELS")
        trained = [config.parent for config in sorted(Path(beside).glob("*/config.json"))] if beside else []
        for folder in [SOURCE / "models/tiny-6m", *folders, *trained]:
            compare(Path(folder).name, folder, bench=True)
    with tempfile.TemporaryDirectory() as work:
        for name in MODELS:
            if not names or name.startswith(tuple(names)):
                make(name, Path(work, name))
                compare(name, Path(work, name))
        if Path(work, "llama-sharded").exists():
            shards = list(Path(work, "llama-sharded").glob("*.safetensors"))
            check("llama-sharded", len(shards) > 1, f"{len(shards)} shards")
    print(f"{len(failures)} failures", *failures, sep="\n")
    sys.exit(1 if failures else 0)


main()

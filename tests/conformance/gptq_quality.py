"""KL divergence of the integer methods against bf16 on ref-17m, under the protocol of the published figures.

    gptq_quality.py QUANT_ENGINE [case ...]

QUANTD_REF_MODELS names the folder that holds ref-17m, beside a folder data with wikitext-2/wiki.test.raw; without it
the test is skipped (exit 77). Calibration: 128 x 512 tokens of the engine's own text. QUANTD_DEVICE=cuda runs all of it on a GPU. Figure: mean KL(bf16 || variant), natural logarithm, over the 51,100 predicted positions of the first 100
windows of 512 tokens of the raw WikiText-2 test text (tokenized whole, no special tokens), everything computed in
float32. The bounds are what GPTQModel 7.7.0 reaches at the same bits and group size (awq: its AWQ; adaround: AutoRound
0.16.1), and RTN's.
"""
import os
import sys
import tempfile
import time

import torch
from engine_jobs import dequantized_model, run_job

WINDOWS, LENGTH = 100, 512
DEVICE = os.environ.get("QUANTD_DEVICE", "cpu")
CLASSIC = {"scale_search": False, "desc_act": True}
# name: method, options, the best published KL divergence of that method at the same bits and group, RTN's.
CASES = {
    "rtn4": ("rtn", {"bits": 4}, 0.0413, None),
    "rtn3": ("rtn", {"bits": 3}, 0.1980, None),
    "rtn2": ("rtn", {"bits": 2}, 1.4110, None),
    "4": ("gptq", {"bits": 4}, 0.0296, 0.0412),
    "4-desc_act": ("gptq", {"bits": 4, "desc_act": True}, 0.0296, 0.0412),
    "4-static": ("gptq", {"bits": 4, "desc_act": True, "static_groups": True}, 0.0296, 0.0412),
    "4-classic": ("gptq", {"bits": 4, **CLASSIC}, 0.0300, 0.0412),
    "3": ("gptq", {"bits": 3}, 0.1463, 0.1979),
    "3-desc_act": ("gptq", {"bits": 3, "desc_act": True}, 0.1463, 0.1979),
    "3-classic": ("gptq", {"bits": 3, **CLASSIC}, 0.1463, 0.1979),
    "2": ("gptq", {"bits": 2}, 1.0006, 1.4109),
    "2-asym": ("gptq", {"bits": 2, "sym": False}, 0.7695, 1.4109),
    "awq4": ("awq", {"bits": 4}, 0.0311, 0.0412),
    "quarot4": ("quarot", {"bits": 4}, 0.0296, 0.0412),
    "quarot3": ("quarot", {"bits": 3}, 0.1463, 0.1979),
    "adaround4": ("adaround", {"bits": 4}, 0.0226, 0.0412),
    "adaround3": ("adaround", {"bits": 3}, 0.0879, 0.1979),
    "adaround2-g32": ("adaround", {"bits": 2, "group_size": 32}, 0.2821, 1.4109),
    "2-asym-g32": ("gptq", {"bits": 2, "sym": False, "group_size": 32}, 0.4609, 1.4109),
}


def log_probabilities(model, windows):
    with torch.no_grad():
        for window in windows:
            yield torch.log_softmax(model(window[None, :-1].to(DEVICE)).logits[0].float(), dim=-1)


def divergence(baseline, variant):
    total, count = 0.0, 0
    for p, q in zip(baseline, variant):
        total += (p.exp() * (p - q)).sum(-1).double().sum().item()
        count += p.shape[0]
    return total / count


def main(engine, *names):
    models = os.environ.get("QUANTD_REF_MODELS")
    if not models:
        print("QUANTD_REF_MODELS is unset")
        sys.exit(77)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    reference = models + "/ref-17m"
    with open(models + "/../data/wikitext-2/wiki.test.raw", encoding="utf-8") as file:
        ids = AutoTokenizer.from_pretrained(reference)(file.read(), add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: WINDOWS * LENGTH]).reshape(WINDOWS, LENGTH)
    baseline = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval().to(DEVICE)
    failed = []
    print(f"{'case':12} {'KL':>8} {'bound':>8} {'RTN':>8} {'seconds':>8} {'peak MB':>8}")
    for name in names or CASES:
        method, options, bound, rtn = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            spec = {"quantize": {"model": reference, "method": method, "options": options, "format": "gptq",
                                 "calibration": {"sequences": 128, "sequenceLength": 512}},
                    "runtime": {"device": DEVICE, "dtype": "float32"}}
            start = time.time()
            result, _ = run_job(engine, spec, folder)
            seconds = time.time() - start
            variant = dequantized_model(reference, folder + "/out", lambda module: options["bits"]).to(DEVICE)
        value = divergence(log_probabilities(baseline, windows), log_probabilities(variant, windows))
        print(f"{name:12} {value:8.4f} {bound or 0:8.4f} {rtn or 0:8.4f} {seconds:8.1f}"
              f" {result['peakHostBytes'] / 1e6:8.0f}", flush=True)
        if (bound and value > bound) or (rtn and value >= rtn):
            failed.append(name)
    assert not failed, failed


main(*sys.argv[1:])

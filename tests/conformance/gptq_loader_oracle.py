"""What the engine writes in format gptq, loaded by a stranger.

    gptq_loader_oracle.py QUANT_ENGINE MODEL [transformers]

By default the stranger is the numpy decoder of engine_jobs.py put into transformers' float32 model; with
`transformers` it is transformers' own GPTQ loader (gptqmodel). Both are held against the logits that the engine computed
from memory and recorded in verification_probe.json. The bound for float32 is the summation noise of two
implementations; the loader computes in float16, so its bound is float16's rounding unit over the depth of the network.
"""
import json
import sys
import tempfile

import torch
from engine_jobs import dequantized_model, run_job

CASES = [
    {"bits": 4, "group_size": 128},
    {"bits": 3, "group_size": 64, "sym": False},
    {"bits": 2, "group_size": 32, "sym": False},
    {"bits": 8, "group_size": -1},
    {"bits": 4, "group_size": 64, "desc_act": True},
]
FLOAT32_BOUND = 2e-3


def worst_difference(logits, probe):
    worst = 0.0
    for entry in probe["positions"]:
        row = logits[entry["position"]].double()
        worst = max(worst, (row[entry["ids"]] - torch.tensor(entry["logits"]).double()).abs().max().item())
        worst = max(worst, abs(row.logsumexp(0).item() - entry["logsumexp"]))
    return worst


def load_with_transformers(folder):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, device_map="cpu").eval()


def main(engine, model, loader="numpy"):
    failed = []
    for options in CASES:
        with tempfile.TemporaryDirectory() as folder:
            spec = {"quantize": {"model": model, "method": "gptq", "options": options,
                                 "calibration": {"sequences": 8, "sequenceLength": 128}},
                    "runtime": {"device": "cpu"}}
            run_job(engine, spec, folder)
            with open(folder + "/out/verification_probe.json") as file:
                probe = json.load(file)
            if loader == "transformers":
                loaded = load_with_transformers(folder + "/out")
            else:
                loaded = dequantized_model(model, folder + "/out", lambda module: options["bits"])
            with torch.no_grad():
                logits = loaded(torch.tensor([probe["tokens"]])).logits[0].float()
        scale = max(abs(value) for entry in probe["positions"] for value in entry["logits"])
        depth = loaded.config.num_hidden_layers
        bound = FLOAT32_BOUND if loader == "numpy" else 16 * 2**-11 * scale * (depth**0.5)
        worst = worst_difference(logits, probe)
        print(f"{loader} {options}: largest difference {worst:.2e}, bound {bound:.2e}, logits up to {scale:.1f}")
        if not worst <= bound:
            failed.append(options)
    assert not failed, failed


main(*sys.argv[1:])

"""What the engine writes in format gguf, read by strangers.

    gguf_loader_oracle.py QUANT_ENGINE MODEL

For every case: the gguf package reads every tensor; transformers (where it loads the type) and llama.cpp (through
xllamacpp) compute the probe's tokens. transformers dequantizes to float32, so its logits are the recorded ones up to
summation noise. llama.cpp rounds activations to 8 bits in blocks of 32 for its integer products; its log-probabilities of the
likeliest tokens are held to that.
"""
import json
import sys
import tempfile

import gguf
import torch
from engine_jobs import run_job

CASES = [
    {"type": "f16"},
    {"type": "q8_0"},
    {"type": "q4_0"},
    {"type": "q4_1"},
    {"type": "q5_0", "embedding": "q8_0"},
    {"type": "q5_1"},
    {"type": "q4_k_m"},
    {"type": "q6_k", "importance": True},
    {"type": "q3_k"},
    {"type": "q2_k"},
]
TRANSFORMERS_LOADS = {"f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q6_k", "q4_k_m", "q3_k", "q2_k"}
FLOAT32_BOUND = 2e-3
# llama.cpp keeps f16's activations in 16 bits. Those of all other types it rounds to 8 bits in blocks of 32 or 256: measured
# on tiny-6m up to .21 (q2_k). A name, a permutation or a scale that is wrong shows as several nats.
LLAMA_BOUNDS = {"f16": 0.03}
LLAMA_BOUND = 0.3
TOP = 5


def read_with_gguf(path):
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert torch.isfinite(torch.from_numpy(numbers.copy()).float()).all(), tensor.name
    return len(reader.tensors)


def transformers_logits(folder, tokens):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double()


def llama_logprobs(path, tokens):
    """{id: log-probability} of the likeliest next tokens after `tokens`."""
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = 256
    params.cpuparams.n_threads = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": tokens, "max_tokens": 1, "logprobs": TOP, "temperature": 0})
    return {entry["id"]: entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}


def main(engine, model):
    failed = []
    for options in CASES:
        with tempfile.TemporaryDirectory() as folder:
            spec = {"quantize": {"model": model, "method": "gguf", "options": options,
                                 "calibration": {"sequences": 8, "sequenceLength": 128}},
                    "runtime": {"device": "cpu"}}
            run_job(engine, spec, folder)
            path = folder + "/out/model.gguf"
            with open(folder + "/out/verification_probe.json") as file:
                probe = json.load(file)
            tensors = read_with_gguf(path)
            worst = 0.0
            if options["type"] in TRANSFORMERS_LOADS:
                logits = transformers_logits(folder + "/out", probe["tokens"])
                for entry in probe["positions"]:
                    row = logits[entry["position"]]
                    worst = max(worst, (row[entry["ids"]] - torch.tensor(entry["logits"]).double()).abs().max().item())
            last = max(probe["positions"], key=lambda entry: entry["position"])
            ours = {token: value - last["logsumexp"] for token, value in zip(last["ids"], last["logits"])}
            theirs = llama_logprobs(path, probe["tokens"][: last["position"] + 1])
            shared = sorted(set(ours) & set(theirs), key=lambda token: -ours[token])
            apart = max(abs(ours[token] - theirs[token]) for token in shared) if shared else float("inf")
            bound = LLAMA_BOUNDS.get(options["type"], LLAMA_BOUND)
            print(f"{options}: {tensors} tensors; transformers {worst:.2e} (bound {FLOAT32_BOUND}), "
                  f"llama.cpp {apart:.3f} over {len(shared)} tokens (bound {bound})", flush=True)
            if not (worst <= FLOAT32_BOUND and apart <= bound and len(shared) >= TOP - 2):
                failed.append(options)
    assert not failed, failed


main(*sys.argv[1:])

"""Every method in every format it may take, loaded by the program that the format is made for.

    formats_oracle.py QUANT_ENGINE MODEL [quick|slow|CASE...]

For each case `quant-engine` quantizes MODEL; its `verify` reads the files back (the engine's own reader); then the real
reader (transformers with its loaders, the hqq package, compressed-tensors' decompressor, torch.load) loads the same
files and answers the tokens of verification_probe.json. Its logits must be those that the engine recorded while the
model was in memory, within the rounding of the type in which the reader multiplies.

Where a method is deterministic and has a reference program, codes and scales are also held against it bit for bit
(`exact`): bitsandbytes 0.50.2, hqq 0.2.8.post1.
"""
import json
import os
import subprocess
import sys
import tempfile

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # A busy machine starves several.
import torch
from engine_jobs import read_tensors, run_job

ROUNDING = {"float32": 2e-3, "float16": 2**-11, "bfloat16": 2**-8}


def bound_of(reader, probe, depth):
    """float32: the summation noise of two implementations. 16 bits: their rounding unit over the network's depth."""
    if reader == "float32":
        return ROUNDING[reader]
    scale = max(abs(value) for entry in probe["positions"] for value in entry["logits"])
    return 16 * ROUNDING[reader] * scale * depth**0.5


def worst_difference(logits, probe):
    worst = 0.0
    for entry in probe["positions"]:
        row = logits[entry["position"]].double()
        worst = max(worst, (row[entry["ids"]] - torch.tensor(entry["logits"]).double()).abs().max().item())
        worst = max(worst, abs(row.logsumexp(0).item() - entry["logsumexp"]))
    return worst


# Readers: folder -> a model. `dtype` is what it multiplies in.

def by_transformers(folder, model, dtype):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), device_map="cpu").eval()


def by_bitsandbytes(folder, model, dtype):
    """Loaded by transformers, decoded by bitsandbytes: on a CPU with AVX-512 its own forward multiplies in bfloat16."""
    import bitsandbytes.functional as functional
    from bitsandbytes.nn import Linear4bit
    quantized = by_transformers(folder, model, dtype)
    loaded = original(model, dtype)
    modules = {name: layer for name, layer in quantized.named_modules() if isinstance(layer, Linear4bit)}
    assert modules
    for name, layer in modules.items():
        dense = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        loaded.get_submodule(name).weight.data.copy_(dense)
    return loaded


def original(model, dtype):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()


def by_hqq(folder, model, dtype):
    from hqq.core.quantize import HQQLinear
    loaded = original(model, dtype)
    tensors = read_tensors(folder)
    modules = sorted(name[: -len(".W_q")] for name in tensors if name.endswith(".W_q"))
    assert modules
    for module in modules:
        state = {name[len(module) + 1:]: tensor for name, tensor in tensors.items() if name.startswith(module + ".")}
        layer = HQQLinear(None, None, compute_dtype=getattr(torch, dtype), device="cpu", initialize=False)
        layer.load_state_dict(state)
        loaded.get_submodule(module).weight.data.copy_(layer.dequantize())
    return loaded


def by_decompressor(folder, model, dtype):
    """transformers 5.23 cannot load asymmetric packed weights; the library's own decompressor can."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme
    with open(folder + "/config.json") as file:
        groups = json.load(file)["quantization_config"]["config_groups"]
    scheme = QuantizationScheme.model_validate(groups["group_0"])
    loaded = original(model, dtype)
    tensors = read_tensors(folder)
    modules = sorted(name[: -len(".weight_packed")] for name in tensors if name.endswith(".weight_packed"))
    assert modules
    for module in modules:
        state = {name[len(module) + 1:]: tensor for name, tensor in tensors.items() if name.startswith(module + ".")}
        state["weight_scale"] = state["weight_scale"].to(getattr(torch, dtype))
        dense = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
        loaded.get_submodule(module).weight.data.copy_(dense)
    return loaded


def by_compressed_tensors(folder, model, dtype):
    """transformers with compressed-tensors, which divides a token's largest value by 127.5 where vLLM's kernels and we
    divide it by 127 (7 of 4 bits); nothing in the file says which. Everything else stays the library's."""
    import compressed_tensors.quantization.lifecycle.forward as forward
    original_scales = forward.compute_dynamic_scales_and_zp
    def scales_of_127(value, args, *rest, **kwargs):
        _, zero = original_scales(value, args, *rest, **kwargs)
        return value.abs().amax(-1, keepdim=True) / (2 ** (args.num_bits - 1) - 1), zero
    forward.compute_dynamic_scales_and_zp = scales_of_127
    return by_transformers(folder, model, dtype)


def by_transforms(folder, model, dtype):
    """The inputs' transforms by compressed-tensors' own code, as vLLM reads them (transformers does not); keys and
    values rotated and rounded by the paper's formula in the place where transformers attends."""
    from compressed_tensors.transform import TransformConfig, apply_transform_config
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    with open(folder + "/config.json") as file:
        config = json.load(file)
    configuration = config["quantization_config"]
    # compressed-tensors would round keys and values here, but not rotate them.
    with open(folder + "/config.json", "w") as file:
        json.dump({**config, "quantization_config": {**configuration, "kv_cache_scheme": None}}, file)
    loaded = by_compressed_tensors(folder, model, dtype)
    groups = configuration["transform_config"]["config_groups"]
    inputs = {name: {**group, "apply": [row for row in group["apply"] if row["location"] == "input"]}
              for name, group in groups.items() if name != "R3"}
    apply_transform_config(loaded, TransformConfig.model_validate({"config_groups": inputs}))
    if configuration["kv_cache_scheme"] is None:
        assert "R3" not in groups
        return loaded
    levels = 2 ** configuration["kv_cache_scheme"]["num_bits"] - 1
    size = groups["R3"]["head_dim"]
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix) / 2**0.5

    def turned(heads):
        return (heads.unflatten(-1, (-1, size)) @ matrix.to(heads.dtype)).flatten(-2)

    def rounded(heads):
        low, high = heads.amin(-1, keepdim=True), heads.amax(-1, keepdim=True)
        scale = (high - low) / levels
        return torch.round((heads - low) / scale) * scale + low

    def attend(module, query, key, value, *rest, **kwargs):
        return sdpa_attention_forward(module, turned(query), rounded(turned(key)), rounded(value), *rest, **kwargs)

    AttentionInterface.register("quarot", attend)
    loaded.set_attn_implementation("quarot")
    return loaded


def by_torch_load(folder, model, dtype):
    state = torch.load(folder + "/pytorch_model.bin", weights_only=True)
    loaded = original(model, dtype)
    missing, unexpected = loaded.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    return loaded


# Codes and scales against the reference program.

def exact_bnb_4bit(options, weight, tensors, module):
    import bitsandbytes.functional as functional
    prefix = module + ".weight"
    packed, state = functional.quantize_4bit(weight, blocksize=options.get("block_size", 64),
                                             quant_type=options.get("quant_type", "nf4"))
    assert torch.equal(packed, tensors[prefix]), (module, "codes")
    assert torch.equal(state.code, tensors[prefix + ".quant_map"]), (module, "table")
    if not options.get("double_quant", True):
        assert torch.equal(state.absmax, tensors[prefix + ".absmax"]), (module, "absmax")
        return
    key = prefix + ".quant_state.bitsandbytes__" + options.get("quant_type", "nf4")
    stored = json.loads(bytes(tensors[key].tolist()))
    offset = torch.tensor(stored["nested_offset"], dtype=torch.float32)
    # bitsandbytes sums the mean in float32 in an order of its machine's.
    assert abs(offset - state.absmax.mean()) <= 1e-5 * abs(offset), (module, "offset")
    # Its formula for machines without kernels, which is what its GPU kernels compute; its CPU library looks the nearest
    # entry up in a table of 65536 steps and misses it for one code in 500.
    scales = torch.nn.functional.pad(state.absmax - offset, (0, -state.absmax.numel() % 256)).view(-1, 256)
    largest = scales.abs().amax(dim=1)
    assert torch.equal(largest, tensors[prefix + ".nested_absmax"]), (module, "nested absmax")
    stored_table = tensors[prefix + ".nested_quant_map"]
    scaled = scales * (1.0 / largest.clamp(min=1e-38))[:, None]
    codes = torch.bucketize(scaled, (stored_table[:-1] + stored_table[1:]) / 2).flatten()[: state.absmax.numel()]
    assert torch.equal(codes.to(torch.uint8), tensors[prefix + ".absmax"]), (module, "scale codes")
    table = functional.create_dynamic_map()
    assert (table - stored_table).abs().max() <= 2**-23, (module, "nested table")


def exact_bnb_8bit(options, weight, tensors, module):
    import bitsandbytes.functional as functional
    codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
    assert torch.equal(codes, tensors[module + ".weight"]), (module, "codes")
    assert torch.equal(scales, tensors[module + ".SCB"]), (module, "scales")


def exact_hqq(options, weight, tensors, module):
    """Without optimizing nothing is summed and all bits are the reference's. With it the mean over a group is summed in
    another order: zeros differ by float32's noise, and in one group of a hundred, where that moves a code across its
    border within the solver, by the share of a few codes."""
    from hqq.core.quantize import Quantizer
    bits, axis, group = options.get("bits", 4), options.get("axis", 1), options.get("group_size", 64)
    optimize = options.get("optimize", True)
    if group == -1:
        group = weight.shape[axis]
    packed, meta = Quantizer.quantize(weight.float(), nbits=bits, group_size=group, axis=axis, optimize=optimize,
                                      round_zero=bits == 4, device="cpu")
    dtype = getattr(torch, options.get("compute_dtype", "float16"))
    stored = {name: tensors[f"{module}.{name}"] for name in ("W_q", "scale", "zero")}
    assert torch.equal(meta["scale"].to(dtype), stored["scale"]), (module, "scale")
    unpack = Quantizer.unpack[meta["packing"]]
    theirs, ours = unpack(packed), unpack(stored["W_q"])
    if not optimize:
        assert torch.equal(theirs, ours), (module, "codes")
        assert torch.equal(meta["zero"].to(dtype), stored["zero"]), (module, "zero")
        return
    different = (theirs != ours).float().mean().item()
    assert different < 1e-3, (module, "codes", different)
    error = (meta["zero"] - stored["zero"].float()).abs()
    rounding = torch.finfo(dtype).eps * meta["zero"].abs()
    off = error > rounding + 1e-4
    assert off.sum() <= max(3, off.numel() // 100) and error.max() < 1, (module, "zero", off.sum(), error.max())


EXACT = {"bnb_4bit": exact_bnb_4bit, "bnb_8bit": exact_bnb_8bit, "hqq": exact_hqq}

# name: method, options, format, reader, the type it multiplies in, quick
CASES = {
    "bnb_nf4": ("bnb_4bit", {"double_quant": False, "compute_dtype": "float32"}, "bitsandbytes", by_bitsandbytes,
                "float32", True),
    "bnb_nf4_double": ("bnb_4bit", {"compute_dtype": "float32"}, "bitsandbytes", by_bitsandbytes, "float32", True),
    "bnb_fp4_128": ("bnb_4bit", {"quant_type": "fp4", "block_size": 128}, "bitsandbytes", by_transformers, "bfloat16",
                    False),
    "bnb_int8": ("bnb_8bit", {}, "bitsandbytes", by_transformers, "bfloat16", True),
    "hqq_4": ("hqq", {}, "hqq", by_hqq, "float16", True),
    "hqq_4_plain": ("hqq", {"optimize": False}, "hqq", by_hqq, "float16", False),
    "hqq_3_axis0": ("hqq", {"bits": 3, "axis": 0, "compute_dtype": "float32"}, "hqq", by_hqq, "float32", True),
    "hqq_2_g16": ("hqq", {"bits": 2, "group_size": 16, "compute_dtype": "float32"}, "hqq", by_hqq, "float32", False),
    "hqq_2_axis0_plain": ("hqq", {"bits": 2, "axis": 0, "group_size": 32, "optimize": False}, "hqq", by_hqq, "float16",
                          False),
    "hqq_8_channel": ("hqq", {"bits": 8, "group_size": -1, "compute_dtype": "float32"}, "hqq", by_hqq, "float32",
                      False),
    "ct_w4": ("rtn", {"bits": 4, "group_size": 64}, "compressed-tensors", by_transformers, "float32", True),
    "ct_w4_asym": ("rtn", {"bits": 4, "group_size": 64, "sym": False}, "compressed-tensors", by_decompressor,
                   "float32", True),
    "ct_w8_channel": ("rtn", {"bits": 8, "group_size": -1}, "compressed-tensors", by_transformers, "float32", False),
    "ct_w8a8": ("smoothquant", {}, "compressed-tensors", by_compressed_tensors, "float32", True),
    "ct_w8a8_static": ("smoothquant", {"activations": "static"}, "compressed-tensors", by_transformers, "float32",
                       False),
    "ct_quarot_online": ("quarot", {"weights": "rtn", "online_rotation": True}, "compressed-tensors", by_transforms,
                         "float32", False),
    "ct_quarot_w4a4kv4": ("quarot", {"online_rotation": True, "activation_bits": 4, "kv_bits": 4}, "compressed-tensors",
                          by_transforms, "float32", True),
    "ct_quarot_w8a8": ("quarot", {"bits": 8, "group_size": -1, "weights": "rtn", "activation_bits": 8},
                       "compressed-tensors", by_compressed_tensors, "float32", False),
    "ct_gptq_w4": ("gptq", {"bits": 4}, "compressed-tensors", by_transformers, "float32", False),
    "awq_asym": ("rtn", {"bits": 4, "group_size": 64, "sym": False}, "awq", by_transformers, "float16", False),
    "awq_sym": ("rtn", {"bits": 4}, "awq", by_transformers, "float16", False),
    "gptq_v2": ("rtn", {"bits": 4, "sym": False}, "gptq_v2", by_transformers, "float16", False),
    "hf_rtn3": ("rtn", {"bits": 3, "sym": False}, "hf", by_transformers, "float32", True),
    "hf_hqq2": ("hqq", {"bits": 2, "axis": 0}, "hf", by_transformers, "float32", False),
    "pytorch_rtn4": ("rtn", {"bits": 4}, "pytorch", by_torch_load, "float32", True),
    "pytorch_bnb4": ("bnb_4bit", {}, "pytorch", by_torch_load, "float32", False),
}


def run_case(engine, model, name, folder):
    method, options, form, reader, dtype, _ = CASES[name]
    spec = {"quantize": {"model": model, "method": method, "options": options, "format": form,
                         "calibration": {"sequences": 8, "sequenceLength": 128}}, "runtime": {"device": "cpu"}}
    run_job(engine, spec, folder)
    out = folder + "/out"
    subprocess.run([engine, "verify", out, "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
    with open(out + "/verification_probe.json") as file:
        probe = json.load(file)
    if method in EXACT and form in ("bitsandbytes", "hqq"):
        weights, tensors = read_tensors(model), read_tensors(out)
        for module in sorted(name[: -len(".weight")] for name in weights if "_proj" in name):
            EXACT[method](options, weights[module + ".weight"], tensors, module)
    loaded = reader(out, model, dtype)
    with torch.no_grad():
        logits = loaded(torch.tensor([probe["tokens"]])).logits[0].float()
    bound = bound_of(dtype, probe, loaded.config.num_hidden_layers)
    worst = worst_difference(logits, probe)
    print(f"{name}: {method} {options} as {form} in {dtype}: largest difference {worst:.2e}, bound {bound:.2e}",
          flush=True)
    assert worst <= bound, (name, worst, bound)


def main(engine, model, *which):
    names = [name for name in CASES if name in which]
    for word in which or ("quick", "slow"):
        if word in ("quick", "slow"):
            names += [name for name, case in CASES.items() if case[5] == (word == "quick")]
    assert names, which
    failed = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_case(engine, model, name, folder)
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}"
                print(f"{name}: FAILED {failed[name][:2000]}", flush=True)
    assert not failed, sorted(failed)


main(*sys.argv[1:])

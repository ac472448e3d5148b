"""AWQ's scales against the published algorithm, computed anew by transformers' own layers in float32.

    awq_oracle.py QUANT_ENGINE MODEL

For every block, on the inputs that the quantized blocks before it give: x_mean, w_mean, the twenty scales
x_mean^r / (w_mean^(1-r) + 1e-4) / sqrt(max min) of each place, and the error of the output with the layers that read
it rounded. Held against the engine's record and files:
  - the chosen r has the smallest error of the block's output (of equals within float32's noise, any);
  - the norm in the file is the original one divided by those scales, rounded to the checkpoint's type.
AutoAWQ takes the error of the attention's, the MLP's or the layer's own output instead of the block's, so that its r
may be another one; how often it is, is printed, with the block error that its choice would have left.
Under grouped-query attention AutoAWQ skips value -> output; here query heads that share a value head share the mean.
"""
import json
import sys
import tempfile

import torch
from engine_jobs import dequantized_model, read_tensors, run_job

SEQUENCES, LENGTH, GROUP, BITS, RATIOS = 8, 96, 64, 4, 20


def rounded(weight):
    """Asymmetric, as kernels/find_params.h says: the scale in float16 before anything else."""
    n, k = weight.shape
    w = weight.reshape(n, k // GROUP, GROUP)
    top = 2**BITS - 1
    low, high = w.amin(2, True).clamp(max=0), w.amax(2, True).clamp(min=0)
    low, high = torch.where(low == high, -torch.ones_like(low), low), torch.where(low == high, torch.ones_like(high), high)
    scale = ((high - low) / top).half().float().clamp(min=2**-24)
    zero = torch.round(-low / scale)
    positive = zero == 0
    scale = torch.where(positive, (high / (top - 1)).half().float().clamp(min=2**-24), scale)
    zero = torch.where(positive, torch.ones_like(zero), zero)
    codes = (torch.round(w / scale) + zero).clamp(0, top)
    return ((codes - zero) * scale).reshape(n, k)


class Captured(Exception):
    pass


def inputs_of(model, index, ids):
    """What block `index` is called with."""
    def catch(module, args, kwargs):
        raise Captured(args[0], kwargs)
    handle = model.model.layers[index].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        model(ids, use_cache=False)
    except Captured as caught:
        return caught.args
    finally:
        handle.remove()


def call(layer, hidden, kwargs):
    output = layer(hidden, **kwargs)
    return output[0] if isinstance(output, tuple) else output


def watch(module, run):
    """The module's input and output while `run` runs, and what `run` returns."""
    seen = {}
    def hook(_, args, kwargs, output):
        seen["in"] = args[0] if args else kwargs["hidden_states"]
        seen["out"] = output[0] if isinstance(output, tuple) else output
    handle = module.register_forward_hook(hook, with_kwargs=True)
    result = run()
    handle.remove()
    return seen["in"], seen["out"], result


def places(config):
    """previous, its readers, the module whose output AutoAWQ looks at."""
    return [("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn"),
            ("self_attn.v_proj", ["self_attn.o_proj"], "self_attn.o_proj"),
            ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"], "mlp"),
            ("mlp.up_proj", ["mlp.down_proj"], "mlp.down_proj")]


def scales_of(x_mean, w_mean, ratio, previous, config):
    scales = x_mean.pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)
    scales = scales.clamp(min=1e-4)
    if previous == "self_attn.v_proj":
        shared = scales.view(config.num_key_value_heads, -1, config.head_dim)
        scales = shared.mean(1, keepdim=True).expand_as(shared).reshape(-1)
    return scales / (scales.max() * scales.min()).sqrt()


def search(layer, hidden, kwargs, place, config):
    """The errors of the block's output and of the inspected module's, by ratio, and the scales."""
    previous, readers, inspected = place
    modules = [layer.get_submodule(name) for name in readers]
    originals = [module.weight.data.clone() for module in modules]
    inspected = layer.get_submodule(inspected)
    x, _, _ = watch(modules[0], lambda: call(layer, hidden, kwargs))
    _, wanted_part, wanted = watch(inspected, lambda: call(layer, hidden, kwargs))
    x_mean = x.abs().reshape(-1, x.shape[-1]).mean(0)
    weights = torch.cat(originals)
    groups = weights.abs().reshape(weights.shape[0], -1, GROUP)
    w_mean = (groups / (groups.amax(2, True) + 1e-6)).reshape(weights.shape).mean(0)
    block_errors, part_errors, all_scales = [], [], []
    for step in range(RATIOS):
        scales = scales_of(x_mean, w_mean, step / RATIOS, previous, config)
        for module, original in zip(modules, originals):
            module.weight.data = rounded(original * scales) / scales
        _, part, output = watch(inspected, lambda: call(layer, hidden, kwargs))
        block_errors.append((output - wanted).square().sum(dtype=torch.float64).item())
        part_errors.append((part - wanted_part).square().sum(dtype=torch.float64).item())
        all_scales.append(scales)
    for module, original in zip(modules, originals):
        module.weight.data = original
    return block_errors, part_errors, all_scales


@torch.no_grad()
def main(engine, model):
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    config = reference.config
    ids = torch.randint(config.vocab_size, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(11))
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/ids.jsonl", "w") as file:
            file.writelines(json.dumps({"text": row.tolist()}) + "\n" for row in ids)
        spec = {"quantize": {"model": model, "method": "awq", "format": "gptq",
                             "options": {"bits": BITS, "group_size": GROUP, "clip_search": False},
                             "calibration": {"source": folder + "/ids.jsonl", "sequences": SEQUENCES,
                                             "sequenceLength": LENGTH}}, "runtime": {"device": "cpu", "threads": 1}}
        run_job(engine, spec, folder)
        with open(folder + "/out/quantization_metadata.json") as file:
            notes = json.load(file)["notes"]
        tensors, originals = read_tensors(folder + "/out"), read_tensors(model)
        quantized = dequantized_model(model, folder + "/out", lambda module: BITS)
    total = same = 0
    for index, layer in enumerate(reference.model.layers):
        hidden, kwargs = inputs_of(quantized, index, ids)
        ratios = notes[f"awq.block_{index}"]["ratios"]
        assert len(ratios) == 4, ratios
        for place in places(config):
            previous = place[0]
            block_errors, part_errors, scales = search(layer, hidden, kwargs, place, config)
            step = round(ratios[previous] * RATIOS)
            best, theirs = min(block_errors), part_errors.index(min(part_errors))
            assert block_errors[step] <= best * 1.0005, (index, previous, step, block_errors)
            total, same = total + 1, same + (theirs == step)
            if theirs != step:
                print(f"block {index} {previous}: r {step / RATIOS:.2f} leaves {block_errors[step]:.4f},"
                      f" AutoAWQ's r {theirs / RATIOS:.2f} would leave {block_errors[theirs]:.4f}")
            if previous.endswith("norm"):
                name = f"model.layers.{index}.{previous}.weight"
                stored, expected = tensors[name].float(), originals[name].float() / scales[step]
                assert ((stored - expected).abs() <= expected.abs() * 2**-8).all(), (name, "is not divided by the scales")
    print(f"{total} places: the chosen scales are the best ones; AutoAWQ's criterion chooses the same in {same}")


main(*sys.argv[1:])

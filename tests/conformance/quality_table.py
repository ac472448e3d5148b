"""Our methods beside the published tools: KL divergence from bf16, and exact recall of facts.

    quality_table.py --engine PATH --models DIR --data DIR [--device cuda|cpu] [--only TEXT ...] [--jobs N] [--threads N]
                     [--results FILE] [--write docs/quality.md] [--list]

Needs Python 3 and the engine, nothing else. A case is MODEL/VARIANT: the variant is quantized and measured by the engine, under
the protocol that the other tools' figures were taken with: 128 x 512 tokens of calibration (DIR/calibration.jsonl; facts-17m:
calibration_facts.jsonl), everything computed in float32, mean KL(bf16 || variant) over the 51,100 predicted positions of the
first 100 windows of 512 tokens of raw WikiText-2; recall is the share of the first 500 items of synthetic/knowledge.jsonl whose
greedy answer is exactly right. What is in --results already is not done again, so that a run may be cut into pieces; --write
puts the tables into the page between its marks. Ends with 1 where a figure is worse than the tool's of the same method, or the
best of ours is not below the best of all at its size.
"""
import argparse
import concurrent.futures
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading

RECALL = """task: recall
summary: The answer in full, exactly.
documents: choices
prompt: "Question: {{question}}\\nAnswer:"
target: "{{choices.text[choices.label.index(answerKey)]}}"
generate: {until: ["\\n"], max_tokens: 16}
score: match
"""

G32, G64 = {"group_size": 32}, {"group_size": 64}
# Variant: method, options. Names say bits and, where it is not 128, the group.
VARIANTS = {
    "rtn-4": ("rtn", {"bits": 4}),
    "rtn-3": ("rtn", {"bits": 3}),
    "rtn-2": ("rtn", {"bits": 2}),
    "gptq-8-row": ("gptq", {"bits": 8, "group_size": -1}),
    "gptq-4": ("gptq", {"bits": 4}),
    "gptq-4-desc_act": ("gptq", {"bits": 4, "desc_act": True}),
    "gptq-3": ("gptq", {"bits": 3}),
    "gptq-3-desc_act": ("gptq", {"bits": 3, "desc_act": True}),
    "gptq-3-asym": ("gptq", {"bits": 3, "sym": False}),
    "gptq-2": ("gptq", {"bits": 2}),
    "gptq-2-asym": ("gptq", {"bits": 2, "sym": False}),
    "gptq-2-asym-g32": ("gptq", {"bits": 2, "sym": False, **G32}),
    "gptq-4-corrected": ("gptq", {"bits": 4, "input_correction": 0.5}),
    "gptq-3-corrected": ("gptq", {"bits": 3, "input_correction": 0.5}),
    "awq-4": ("awq", {"bits": 4}),
    "awq-3": ("awq", {"bits": 3}),
    "hqq-8": ("hqq", {"bits": 8, "group_size": 128}),
    "hqq-4-g64": ("hqq", {"bits": 4, **G64}),
    "hqq-3-g64": ("hqq", {"bits": 3, **G64}),
    "hqq-2-g32": ("hqq", {"bits": 2, **G32}),
    "adaround-4": ("adaround", {"bits": 4}),
    "adaround-3": ("adaround", {"bits": 3}),
    "adaround-3-asym": ("adaround", {"bits": 3, "sym": False}),
    "adaround-2-g32": ("adaround", {"bits": 2, **G32}),
    "quarot-4": ("quarot", {"bits": 4}),
    "quarot-3": ("quarot", {"bits": 3}),
    "quarot-2-asym-g32": ("quarot", {"bits": 2, "sym": False, **G32}),
    "smoothquant-8": ("smoothquant", {}),
    "bnb-int8": ("bnb_8bit", {}),
    "bnb-nf4": ("bnb_4bit", {"quant_type": "nf4", "double_quant": False}),
    "bnb-nf4-double": ("bnb_4bit", {"quant_type": "nf4", "double_quant": True}),
    "bnb-fp4": ("bnb_4bit", {"quant_type": "fp4", "double_quant": False}),
    "gguf-q8_0": ("gguf", {"type": "q8_0"}),
    "gguf-q4_1": ("gguf", {"type": "q4_1"}),
    "gguf-q4_0": ("gguf", {"type": "q4_0"}),
    "awq_q4_0": ("awq_q4_0", {}),
    "awq_q4_1": ("awq_q4_1", {}),
}
FORMATS = {"awq-3": "gptq"}  # Where the method's own format cannot hold the width.

GPTQMODEL, AUTOROUND = "GPTQModel 7.7.0", "AutoRound 0.16.1"
HQQ, BNB, GGUF = "hqq 0.2.8", "bitsandbytes 0.50.2", "gguf 0.19.0"
OWN_RTN, LLMC = "round to nearest", "llm-compressor 0.14"
OTHER_FACTS = "round to nearest, on 2,000 other facts"  # So one standard error is allowed.
# What other tools reach: the method's own tool at the same bits and group, the best of its orders. From a CPU with 128 x 512
# tokens of the same calibration text, 2026-11-21.
PEERS = {
    "ref-17m": {
        "rtn-4": (OWN_RTN, 0.0412), "rtn-3": (OWN_RTN, 0.1979), "rtn-2": (OWN_RTN, 1.4109),
        "gptq-8-row": (GPTQMODEL, 0.0002), "gptq-4": (GPTQMODEL, 0.0296), "gptq-4-desc_act": (GPTQMODEL, 0.0296),
        "gptq-3": (GPTQMODEL, 0.1463), "gptq-3-desc_act": (GPTQMODEL, 0.1463), "gptq-2": (GPTQMODEL, 1.0006),
        "gptq-2-asym": (GPTQMODEL, 0.7695), "gptq-2-asym-g32": (GPTQMODEL, 0.4609), "awq-4": (GPTQMODEL, 0.0311),
        "hqq-8": (HQQ, 0.0001), "hqq-4-g64": (HQQ, 0.0239), "hqq-3-g64": (HQQ, 0.1097), "hqq-2-g32": (HQQ, 0.4508),
        "adaround-4": (AUTOROUND, 0.0226), "adaround-3": (AUTOROUND, 0.0879), "adaround-2-g32": (AUTOROUND, 0.2821),
        "smoothquant-8": (LLMC, 0.0030), "bnb-int8": (BNB, 0.0009), "bnb-nf4": (BNB, 0.0264),
        "bnb-nf4-double": (BNB, 0.0264), "bnb-fp4": (BNB, 0.0474), "gguf-q8_0": (GGUF, 0.0001),
        "gguf-q4_0": (GGUF, 0.0224), "gguf-q4_1": (GGUF, 0.0203),
    },
    "tiny-6m": {
        "rtn-4": (OWN_RTN, 0.0998), "gptq-4": (GPTQMODEL, 0.0893), "gptq-3": (GPTQMODEL, 0.4361),
        "awq-4": (GPTQMODEL, 0.0723), "hqq-4-g64": (HQQ, 0.0603), "bnb-nf4": (BNB, 0.0613),
        "smoothquant-8": (LLMC, 0.0031), "adaround-4": (AUTOROUND, 0.0617), "adaround-3": (AUTOROUND, 0.2145),
        "gguf-q4_0": (GGUF, 0.0557),
    },
    "facts-17m": {
        "rtn-3": (OTHER_FACTS, 0.752), "gptq-3": (GPTQMODEL, 0.804), "gptq-3-desc_act": (GPTQMODEL, 0.804),
        "hqq-3-g64": (HQQ, 0.896), "adaround-3": (AUTOROUND, 0.900),
    },
}
FACTS = ["rtn-3", "gptq-3", "gptq-3-desc_act", "gptq-3-asym", "gptq-3-corrected", "awq-3", "hqq-3-g64", "quarot-3",
         "adaround-3", "adaround-3-asym"]
# The best of ours at a size must be better than the best measured of all: (model, variants of that size, that figure).
BEST = [
    ("ref-17m", ["4"], 0.0226), ("ref-17m", ["3"], 0.0879), ("ref-17m", ["2", "g32"], 0.2821),
    ("ref-17m", ["nf4", "double"], 0.0264), ("facts-17m", ["3"], 0.92),
]
WORDS = {"ref-17m": "KL divergence from bf16 on ref-17m", "tiny-6m": "KL divergence from bf16 on tiny-6m",
         "facts-17m": "Exact recall on facts-17m (500 facts)"}


def all_cases():
    return [(model, name) for model in PEERS for name in (FACTS if model == "facts-17m" else VARIANTS)]


def recalls(model):
    return model == "facts-17m"


class Bench:
    """Runs cases by the engine's own command line, one folder each, removed at the end."""

    def __init__(self, arguments):
        self.engine = os.path.abspath(arguments.engine)
        self.models, self.data = os.path.abspath(arguments.models), os.path.abspath(arguments.data)
        self.device, self.threads = arguments.device, arguments.threads

    def job(self, kind, spec, folder):
        path = f"{folder}/{kind}.json"
        runtime = {"device": self.device, "dtype": "float32", "threads": self.threads}
        with open(path, "w") as file:
            json.dump({kind: spec, "runtime": runtime}, file)
        done = subprocess.run([self.engine, kind, "--spec", path, "--json", "-o", f"{folder}/{kind}"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{kind} ended with {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout)

    def measure(self, model, name):
        method, options = VARIANTS[name]
        original = f"{self.models}/{model}"
        calibration = "calibration_facts.jsonl" if recalls(model) else "calibration.jsonl"
        with tempfile.TemporaryDirectory() as folder:
            spec = {"model": original, "method": method, "options": options, "calibration": {
                "source": f"{self.data}/{calibration}", "sequences": 128, "sequenceLength": 512}}
            if name in FORMATS:
                spec["format"] = FORMATS[name]
            made = self.job("quantize", spec, folder)
            if recalls(model):
                task = {"name": "own", "data": f"{self.data}/synthetic/knowledge.jsonl", "limit": 500,
                        "options": {"definition": RECALL, "bos": "always"}}
            else:
                task = {"name": "kld", "data": f"{self.data}/wikitext-2/wiki.test.raw", "limit": 100,
                        "options": {"protocol": "windows512", "reference": original}}
            metrics = self.job("evaluate", {"model": f"{folder}/quantize", "tasks": [task]}, folder)["metrics"]
        key = next(key for key in metrics if key.endswith("exact_match") or key == "kld")
        return {"model": model, "variant": name, "method": method, "options": options,
                "value": metrics[key]["value"], "error": metrics[key].get("stderr"),
                "top1": metrics.get("kld/top1", {}).get("value"), "bits": made["bitsPerWeight"],
                "seconds": made["quantizationSeconds"], "device": self.device,
                "date": datetime.date.today().isoformat()}


def worse_than_peer(row):
    peer = PEERS[row["model"]].get(row["variant"])
    if peer is None:
        return False
    if recalls(row["model"]):
        return row["value"] < peer[1] - (row["error"] if peer[0] == OTHER_FACTS else 0)
    return round(row["value"], 4) > peer[1]


def in_size(name, size):
    words = name.split("-")[1:]
    return words and words[0] == size[0] and set(size[1:]) <= set(words) and ("g32" in words or "g64" in words) == (
        "g32" in size)


def check_best(rows):
    """The lines of what is not the best of all; sizes of which nothing was measured are left out."""
    failed = []
    for model, size, figure in BEST:
        values = [row["value"] for row in rows if row["model"] == model and in_size(row["variant"], size)]
        if not values:
            continue
        best = max(values) if recalls(model) else min(values)
        good = best >= figure if recalls(model) else best < figure or (size[0] == "nf4" and round(best, 4) <= figure)
        if not good:
            failed.append(f"{model} at {' '.join(size)}: the best of ours is {best:.4f}, the goal {figure}")
    return failed


def tables(rows):
    lines = []
    for model in PEERS:
        ours = [row for case in all_cases() for row in rows
                if case[0] == model and case == (row["model"], row["variant"])]
        if not ours:
            continue
        lines += [f"## {WORDS[model]}", "", "| variant | method and options | bits a weight | ours | ± | top-1 | the method's tool | its "
                  "figure | seconds |", "|---|---|---|---|---|---|---|---|---|"]
        for row in ours:
            tool, figure = PEERS[model].get(row["variant"], ("", None))
            options = " ".join(f"{key}={json.dumps(value)}" for key, value in row["options"].items())
            digits = 3 if recalls(model) else 4
            worse = " (worse)" if worse_than_peer(row) else ""
            lines.append(" | ".join([
                f"| {row['variant']}", f"`{' '.join([row['method'], options]).strip()}`", f"{row['bits']:.2f}",
                f"{row['value']:.{digits}f}{worse}", f"{row['error']:.{digits}f}" if row["error"] else "",
                f"{row['top1']:.3f}" if row["top1"] else "", tool,
                "" if figure is None else f"{figure:.{digits}f}", f"{row['seconds']:.1f} |"]))
        lines.append("")
    return "\n".join(lines)


BEGIN, END = "<!-- quality_table.py: begin -->", "<!-- quality_table.py: end -->"


def write_page(path, rows):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    dates = sorted({row["date"] for row in rows})
    head = f"Measured {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, {', '.join(sorted({row['machine'] for row in rows}))}."
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n{head}\n\n{tables(rows)}\n{END}{after}")


def machine_of(engine, device):
    catalog = json.loads(subprocess.run([engine, "capabilities"], stdout=subprocess.PIPE, check=True, text=True).stdout)
    kind = "cuda" if device.startswith("cuda") else "cpu"
    names = [entry["name"] for entry in catalog["devices"] if entry["type"] == kind]
    return f"{names[0] if names else kind} ({kind}), quant-engine {catalog['engineVersion']}"


def read_results(path):
    if not path or not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file if line.strip()]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True)
    models = os.environ.get("QUANTD_REF_MODELS", "")
    parser.add_argument("--models", default=models, help="folder with ref-17m, tiny-6m, facts-17m; $QUANTD_REF_MODELS")
    parser.add_argument("--data", default=models and models + "/../data",
                        help="folder with calibration.jsonl, wikitext-2, synthetic; beside the models")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="cases whose name MODEL/VARIANT holds one of these")
    parser.add_argument("--results", help="JSON lines, one a case; read first, then appended to")
    parser.add_argument("--write", help="page that takes the tables")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    return parser.parse_args()


def run_cases(arguments, cases, rows):
    bench, lock, failed = Bench(arguments), threading.Lock(), []
    machine = machine_of(arguments.engine, arguments.device)

    def run(case):
        try:
            row = {**bench.measure(*case), "machine": machine}
        except RuntimeError as error:
            with lock:
                failed.append(f"{'/'.join(case)}: {error}")
                print(failed[-1], flush=True)
            return
        with lock:
            rows.append(row)
            tool, figure = PEERS[row["model"]].get(row["variant"], ("no tool measured", 0))
            print(f"{'/'.join(case):32} {row['value']:8.4f}  {figure:8.4f} {tool:20} {row['bits']:6.2f} bits "
                  f"{row['seconds']:7.1f} s{'  WORSE' if worse_than_peer(row) else ''}", flush=True)
            if arguments.results:
                with open(arguments.results, "a") as file:
                    file.write(json.dumps(row) + "\n")

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, cases))
    return failed


def main():
    arguments = parse_arguments()
    cases = [case for case in all_cases()
             if not arguments.only or any(text in "/".join(case) for text in arguments.only)]
    if arguments.list:
        print("\n".join("/".join(case) for case in cases))
        return
    for folder in (arguments.models, arguments.data):
        if not os.path.isdir(folder):
            print(f"there is no folder '{folder}' with the reference models or data")
            sys.exit(77)
    rows = read_results(arguments.results)
    done = {(row["model"], row["variant"]) for row in rows}
    failed = run_cases(arguments, [case for case in cases if case not in done], rows)
    if arguments.write and rows:
        write_page(arguments.write, rows)
    failed += [f"{row['model']}/{row['variant']}: {row['value']:.4f} is worse than the tool's"
               for row in rows if worse_than_peer(row)] + check_best(rows)
    print("\n".join(failed) or "no figure is worse than the tool's")
    sys.exit(1 if failed else 0)


main()

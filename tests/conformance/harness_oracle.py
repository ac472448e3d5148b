"""quant-engine's tasks against lm-evaluation-harness, sample by sample, in float32 on the CPU.

The harness runs unchanged from its package; what it would download is given from files here: the data sets, and the
two metric libraries that its tasks import (written below from their published definitions, not from the engine).

usage: harness_oracle.py QUANT_ENGINE [full [PART ...]]
Full adds the real data sets (QUANTD_DATA: a folder with arc/, squad_v2/, gsm8k/, wikitext-2/) and every model in
QUANTD_REF_MODELS, and one model quantized to 4 bits; PART, as "ref-17m real", leaves the others out.
"""
import collections
import json
import math
import os
import pathlib
import re
import string
import subprocess
import sys
import tempfile
import types

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "examples/data"
TINY = ROOT / "models/tiny-6m"
# Log-likelihoods: both sides compute in float32 with different matrix libraries.
RELATIVE = 2e-5


def normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def compute_exact(gold, given):
    return int(normalize(gold) == normalize(given))


def compute_f1(gold, given):
    wanted, words = normalize(gold).split(), normalize(given).split()
    if not wanted or not words:
        return int(wanted == words)
    same = sum((collections.Counter(wanted) & collections.Counter(words)).values())
    if same == 0:
        return 0
    precision, recall = same / len(words), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def squad_v2(predictions, references):
    """The official SQuAD 2.0 figures, with the threshold on the probability of no answer at 1."""
    exact, f1, answerable, golds_of = {}, {}, {}, {r["id"]: r["answers"]["text"] for r in references}
    for entry in predictions:
        golds = [g for g in golds_of[entry["id"]] if normalize(g)] or [""]
        answerable[entry["id"]] = bool(golds_of[entry["id"]])
        exact[entry["id"]] = max(compute_exact(g, entry["prediction_text"]) for g in golds)
        f1[entry["id"]] = max(compute_f1(g, entry["prediction_text"]) for g in golds)
    result = {}
    for prefix, ids in (("", list(exact)), ("HasAns_", [i for i in exact if answerable[i]]),
                        ("NoAns_", [i for i in exact if not answerable[i]])):
        if ids:
            result[prefix + "exact"] = 100.0 * sum(exact[i] for i in ids) / len(ids)
            result[prefix + "f1"] = 100.0 * sum(f1[i] for i in ids) / len(ids)
    for name, scores in (("best_exact", exact), ("best_f1", f1)):
        score = best = sum(not has for has in answerable.values())
        for entry in sorted(predictions, key=lambda e: e["no_answer_probability"]):
            if answerable[entry["id"]]:
                score += scores[entry["id"]]
            elif entry["prediction_text"]:
                score -= 1
            best = max(best, score)
        result[name] = 100.0 * best / len(scores)
    return result


def install_metrics():
    import evaluate
    evaluate.load = lambda name: types.SimpleNamespace(compute=lambda **kw: {"squad_v2": squad_v2}[name](**kw))
    package = types.ModuleType("transformers.data.metrics")
    module = types.ModuleType("transformers.data.metrics.squad_metrics")
    module.compute_exact, module.compute_f1 = compute_exact, compute_f1
    package.squad_metrics = module
    sys.modules["transformers.data.metrics"] = package
    sys.modules["transformers.data.metrics.squad_metrics"] = module


def json_lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]


def arc_rows(path):
    return [{"id": q["id"], "question": q["question"]["stem"], "answerKey": q["answerKey"],
             "choices": {key: [c[key] for c in q["question"]["choices"]] for key in ("text", "label")}}
            for q in json_lines(path)]


def squad_rows(path):
    return [{"id": q["id"], "title": article["title"], "context": paragraph["context"], "question": q["question"],
             "answers": {"text": [a["text"] for a in q["answers"]],
                         "answer_start": [a["answer_start"] for a in q["answers"]]}}
            for article in json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["data"]
            for paragraph in article["paragraphs"] for q in paragraph["qas"]]


def coqa_rows(path):
    def turns(items):
        return {"input_text": [t["input_text"] for t in items]}
    return [{"id": d["id"], "story": d["story"], "questions": turns(d["questions"]), "answers": turns(d["answers"]),
             "additional_answers": {k: turns(v) for k, v in d["additional_answers"].items()}}
            for d in json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["data"]]


def wikitext_rows(path):
    """The pages as the Hub's data set of documents cuts them."""
    pages, page = [], []
    for line in pathlib.Path(path).read_text(encoding="utf-8").split("\n"):
        plain = line.replace("= = =", "===").replace("= =", "==").strip()
        if plain.startswith("= ") and plain.endswith(" ="):
            if "\n".join(page).strip():
                pages.append({"page": "\n".join(page)})
            page = []
        page.append(line)
    return pages + [{"page": "\n".join(page)}]


def as_gsm8k(path, folder):
    """Synthetic word problems in GSM8K's schema: the first half are questions, the rest examples."""
    rows = [{"question": r["problem"], "answer": f"{r['generated_solution']}\n#### {r['expected_answer']}"}
            for r in json_lines(path)]
    paths = [f"{folder}/gsm8k_test.jsonl", f"{folder}/gsm8k_train.jsonl"]
    for target, part in zip(paths, (rows[: len(rows) // 2], rows[len(rows) // 2:])):
        pathlib.Path(target).write_text("".join(json.dumps(row) + "\n" for row in part))
    return paths


def plan(folder, real):
    """Task -> (harness data by split, file for the engine, file with few-shot examples, metrics)."""
    if real:
        root = pathlib.Path(os.environ["QUANTD_DATA"])
        arc, squad = root / "arc/ARC-Challenge-Test.jsonl", root / "squad_v2/dev-v2.0.json"
        gsm, train, wiki = root / "gsm8k/test.jsonl", root / "gsm8k/train.jsonl", root / "wikitext-2/wiki.test.raw"
    else:
        arc, squad, wiki = DATA / "arc.jsonl", DATA / "squad_v2.json", DATA / "wikitext-excerpt.txt"
        gsm, train = as_gsm8k(DATA / "openmath.jsonl", folder)
    tasks = {
        "arc_challenge": ({"test": arc_rows(arc)}, arc, None, {"acc,none": "acc", "acc_norm,none": "acc_norm"}),
        "squadv2": ({"validation": squad_rows(squad)}, squad, None,
                    {f"{m},none": m for m in ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1",
                                              "best_exact", "best_f1")}),
        "coqa": ({"validation": coqa_rows(DATA / "coqa.json")}, DATA / "coqa.json", None,
                 {"em,none": "em", "f1,none": "f1"}),
        "gsm8k": ({"test": json_lines(gsm), "train": json_lines(train)}, gsm, train,
                  {"exact_match,strict-match": "strict_match", "exact_match,flexible-extract": "flexible_extract"}),
        "wikitext": ({"test": wikitext_rows(wiki)}, wiki, None,
                     {f"{m},none": m for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")}),
    }
    if real:
        del tasks["coqa"]  # Its data could not be had.
    return tasks


def run_harness(model, tokenizer, tasks, limits):
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    sets = {"arc_challenge": "allenai/ai2_arc", "squadv2": "lighteval/squad_v2", "coqa": "EleutherAI/coqa",
            "gsm8k": "openai/gsm8k", "wikitext": "EleutherAI/wikitext_document_level"}
    known = {sets[task]: rows for task, (rows, *_) in tasks.items()}

    def load_dataset(path=None, name=None, **kwargs):
        splits = {split: datasets.Dataset.from_list(rows) for split, rows in known[path].items()}
        for split in ("train", "validation", "test"):
            splits.setdefault(split, next(iter(splits.values())))
        return datasets.DatasetDict(splits)

    datasets.load_dataset = load_dataset
    results = {}
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, device="cpu", dtype="float32")
    for task in tasks:
        out = lm_eval.simple_evaluate(model=lm, tasks=[task], limit=limits.get(task), bootstrap_iters=0)
        results[task] = (out["results"][task], sorted(out["samples"][task], key=lambda s: s["doc_id"]))
    return results


def run_engine(program, model, task, data, few_shot, limit, folder):
    command = [program, "--log-level", "warning", "evaluate", str(model), "--device", "cpu", "--json", "-o", folder,
               "--task", f"{task}={data}"]
    if few_shot:
        command += ["--few-shot-data", str(few_shot)]
    if limit:
        command += ["--limit", str(limit)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)["metrics"], json_lines(f"{folder}/samples_{task}.jsonl")


def close(got, want):
    return abs(got - want) <= RELATIVE * max(1.0, abs(want))


def compare_samples(task, ours, theirs):
    """Yields words for every difference."""
    by_document = collections.defaultdict(list)
    for sample in theirs:
        by_document[sample["doc_id"]].append(sample)
    if len(ours) != len(by_document):
        yield f"{len(ours)} samples, the harness has {len(by_document)}"
    for number, sample in enumerate(ours):
        for other in by_document[number]:
            responses = other["resps"]
            if task == "arc_challenge":
                want = [float(r[0][0]) for r in responses]
                if not all(close(a, b) for a, b in zip(sample["logProbs"], want)) or len(want) != len(sample["logProbs"]):
                    yield f"{number}: log-likelihoods {sample['logProbs']}, harness {want}"
                for name in ("acc", "acc_norm"):
                    if sample["scores"][f"{task}/{name}"] != other[name]:
                        yield f"{number}: {name}"
            elif task == "wikitext":
                if not close(sample["logProb"], float(responses[0][0])):
                    yield f"{number}: {sample['logProb']}, harness {responses[0][0]}"
            else:
                if sample["output"] != responses[0][0]:
                    yield f"{number}: output {sample['output']!r}, harness {responses[0][0]!r}"
                if task == "squadv2" and not close(sample["logProbs"][0], float(responses[1][0][0])):
                    yield f"{number}: log-likelihood {sample['logProbs'][0]}, harness {responses[1][0][0]}"
                if task == "gsm8k":
                    name = other["filter"].replace("-", "_")
                    if sample["scores"][f"gsm8k/{name}"] != other["exact_match"]:
                        yield f"{number}: {name}"
                if task == "coqa":
                    for name in ("em", "f1"):
                        if abs(sample["scores"][f"coqa/{name}"] - other[name]) > 1e-9:
                            yield f"{number}: {name}"


def check(program, name, folder_of_model, model, tasks, limits):
    from transformers import AutoTokenizer
    theirs = run_harness(model, AutoTokenizer.from_pretrained(folder_of_model), tasks, limits)
    wrong = 0
    for task, (_, data, few_shot, metrics) in tasks.items():
        with tempfile.TemporaryDirectory() as folder:
            got, samples = run_engine(program, folder_of_model, task, data, few_shot, limits.get(task), f"{folder}/o")
        want, other_samples = theirs[task]
        differences = list(compare_samples(task, samples, other_samples))
        for key, metric in metrics.items():
            # A subset without samples has no mean here and 0 there.
            value = got.get(f"{task}/{metric}", {"value": 0})["value"]
            relative = RELATIVE if task == "wikitext" else 1e-9
            if abs(value - want[key]) > relative * max(1, abs(want[key])):
                differences.append(f"{metric}: {value}, harness {want[key]}")
        shown = ", ".join(f"{metric} {want[key]:.6g}" for key, metric in metrics.items())
        print(f"{name} {task}: {len(samples)} samples, {shown}: {'equal' if not differences else 'DIFFERENT'}", flush=True)
        for words in differences[:5]:
            print("   ", words)
        wrong += bool(differences)
    return wrong


def main(program, full=None, *parts):
    import torch
    from transformers import AutoModelForCausalLM
    install_metrics()

    def load(path):
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        def part(name, path, real, limits, made=load):
            return 0 if parts and name not in parts else check(program, name, path, made(path), plan(folder, real), limits)

        quick = {"arc_challenge": 40, "squadv2": 16, "coqa": 16, "gsm8k": 8, "wikitext": 2}
        wrong += part("tiny-6m quick", TINY, False, quick)
        if full:
            whole = {"arc_challenge": None, "squadv2": None, "coqa": None, "gsm8k": 60, "wikitext": None}
            real = {"arc_challenge": None, "squadv2": 300, "gsm8k": 40, "wikitext": 20}
            for path in [TINY, *sorted(pathlib.Path(os.environ["QUANTD_REF_MODELS"]).glob("ref-*"))]:
                wrong += part(f"{path.name} synthetic", path, False, whole)
                wrong += part(f"{path.name} real", path, True, real)
            from engine_jobs import dequantized_model
            subprocess.run([program, "--log-level", "warning", "quantize", str(TINY), "--method", "rtn", "--option",
                            "bits=4", "--device", "cpu", "-o", f"{folder}/rtn4"], check=True, stdout=subprocess.DEVNULL)
            wrong += part("tiny-6m rtn 4 bits", f"{folder}/rtn4", False, quick, lambda path: dequantized_model(TINY, path))
    assert wrong == 0, f"{wrong} tasks differ"


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`quant-engine score` against the published scripts' definitions, on thousands of random predictions.

SQuAD 2.0's and CoQA's figures, and GSM8K's filters with Python's own regular expressions; the texts are drawn from the
answers, articles, punctuation, digits and letters of many scripts, so that every rule of the normalization is met.

usage: score_oracle.py QUANT_ENGINE [SEED]
QUANTD_OFFICIAL_SCORERS: a folder with the authors' own evaluate-v2.0.py (SQuAD) and coqa.py, which then run on the same
predictions. They are not part of this repository.
"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

from harness_oracle import DATA, compute_exact, compute_f1, coqa_rows, json_lines, squad_rows, squad_v2

WORDS = ["the", "a", "an", "The", "AN", "a-the", "naïve", "İstanbul", "ΟΔΟΣ", "ΣΑΣ.", "“an”", "it’s", "U.S.A.", "$3,500.00",
         "１２", "a_the", "x\u00a0the", "é", "e\u0301 a", "ﬀ", "ß", "日本", "\u2028", "'", "...", "a.", "(the)", "", " ", "\t"]


def noise(rng, answers):
    """A prediction: an answer, perhaps damaged, or words from the list."""
    kind = rng.random()
    if kind < 0.1:
        return ""
    if kind < 0.15:
        return " unanswerable"
    words = rng.choice(answers).split(" ") if answers and kind < 0.7 else []
    for _ in range(rng.choice([0, 0, 1, 2, 4])):
        words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
    return rng.choice(["", " "]) + rng.choice([" ", "  "]).join(words)


def score(engine, task, data, predictions, folder):
    path, samples = pathlib.Path(folder) / "predictions.jsonl", pathlib.Path(folder) / "samples.jsonl"
    path.write_text("".join(json.dumps(p, ensure_ascii=rng_flip()) + "\n" for p in predictions), encoding="utf-8")
    out = subprocess.run([engine, "--log-level", "warning", "score", "--task", f"{task}={data}", "--predictions", str(path),
                          "--samples", str(samples), "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)["metrics"], {s["id"]: s["scores"] for s in json_lines(samples)}


def rng_flip(state=[False]):
    state[0] = not state[0]
    return state[0]


def run_official(script, folder, files, *words):
    """What the authors' script prints; `words` that name one of `files` become its path."""
    place = os.environ.get("QUANTD_OFFICIAL_SCORERS")
    if not place:
        return None
    paths = {name: pathlib.Path(folder) / name for name in files}
    for name, content in files.items():
        paths[name].write_text(json.dumps(content), encoding="utf-8")
    printed = subprocess.run([sys.executable, f"{place}/{script}", *(str(paths.get(word, word)) for word in words)],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
    print(f"{script} ran")
    return json.loads(printed)


def check_squad(engine, rng, folder, path):
    rows = squad_rows(path)
    predictions = [{"id": row["id"], "prediction_text": noise(rng, row["answers"]["text"] or ["the war"]),
                    "no_answer_probability": rng.random()} for row in rows]
    want = squad_v2(predictions, rows)
    got, _ = score(engine, "squadv2", path, predictions, folder)
    official = run_official("evaluate-v2.0.py", folder, {
        "p.json": {p["id"]: p["prediction_text"] for p in predictions},
        "n.json": {p["id"]: p["no_answer_probability"] for p in predictions}}, path, "p.json", "-n", "n.json")
    if official:
        for name in want:
            assert abs(got[f"squadv2/{name}"]["value"] - official[name]) < 1e-9, (name, official[name])
    for name, value in want.items():
        # The probabilities go through a logarithm and back; the order must survive.
        assert abs(got[f"squadv2/{name}"]["value"] - value) < 1e-9, (name, got[f"squadv2/{name}"]["value"], value)
    print(f"squadv2, {len(rows)} questions: " + ", ".join(f"{k} {v:.4f}" for k, v in want.items()))


def leave_one_out(golds, given, measure):
    if len(golds) == 1:
        return measure(golds[0], given)
    return sum(max(measure(g, given) for g in golds[:i] + golds[i + 1:]) for i in range(len(golds))) / len(golds)


def check_coqa(engine, rng, folder):
    conversations = json.loads((DATA / "coqa.json").read_text(encoding="utf-8"))
    for item in conversations["data"]:  # Further answers, as the published file has them.
        item["source"] = "wikipedia"
        item["additional_answers"] = {
            str(i): [{**turn, "input_text": rng.choice([turn["input_text"], turn["input_text"].upper(), noise(rng, ["x"]) or "y"])}
                     for turn in item["answers"]] for i in range(rng.randrange(4))}
    path = pathlib.Path(folder) / "coqa.json"
    path.write_text(json.dumps(conversations), encoding="utf-8")
    predictions, want = [], {}
    for row in coqa_rows(path):
        for turn, gold in enumerate(row["answers"]["input_text"]):
            golds = [gold, *(more["input_text"][turn] for more in row["additional_answers"].values())]
            given = noise(rng, golds)
            predictions.append({"id": row["id"], "turn_id": turn + 1, "answer": given})
            stripped = given.strip().split("\n")[0]
            want[f"{row['id']}/{turn + 1}"] = (leave_one_out(golds, stripped, compute_exact),
                                               leave_one_out(golds, stripped, compute_f1))
    got, samples = score(engine, "coqa_all", path, predictions, folder)
    assert len(samples) == len(want)
    official = run_official("coqa.py", folder, {"p.json": predictions}, "--data-file", path, "--pred-file", "p.json")
    for name in ("em", "f1") if official else ():
        assert round(100 * got[f"coqa_all/{name}"]["value"], 1) == official["overall"][name], (name, official["overall"])
    for name, (em, f1) in want.items():
        assert abs(samples[name]["coqa_all/em"] - em) < 1e-12, name
        assert abs(samples[name]["coqa_all/f1"] - f1) < 1e-12, name
    print(f"coqa_all, {len(want)} turns: equal")


def strict(text):
    found = re.findall(r"#### (\-?[0-9\.\,]+)", text)
    return found[0].strip() if found else "[invalid]"


def flexible(text):
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return next(m for m in found[-1] if m).strip() if found else "[invalid]"


def comparable(text):
    for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(pattern, "", text)
    return text.lower()


def check_gsm8k(engine, rng, folder):
    rows, predictions = [], []
    for number in range(3000):
        answer = str(rng.choice([rng.randrange(20), rng.randrange(10**6), -rng.randrange(100), rng.randrange(10000) / 4]))
        rows.append({"id": f"g{number}", "question": "q", "answer": f"work = 2\n#### {answer}"})
        parts = [answer, f"#### {answer}", f"${answer}", f"{answer}.", "...", "\n", "#### ", "12,345", "-", ".", "x", "١٢", "####7"]
        predictions.append({"id": f"g{number}", "output": " ".join(rng.choice(parts) for _ in range(rng.randrange(6)))})
    path = pathlib.Path(folder) / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, samples = score(engine, "gsm8k", path, predictions, folder)
    for row, prediction in zip(rows, predictions):
        for name, take in (("strict_match", strict), ("flexible_extract", flexible)):
            want = int(comparable(take(prediction["output"])) == comparable(row["answer"]))
            assert samples[row["id"]][f"gsm8k/{name}"] == want, (name, prediction, row)
    print(f"gsm8k, {len(rows)} outputs: equal")


def main(engine, seed=None):
    seed = int(seed or time.time())
    print(f"seed {seed}")
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(5):
            check_squad(engine, rng, folder, DATA / "squad_v2.json")
            check_coqa(engine, rng, folder)
        check_gsm8k(engine, rng, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""quant-engine's perplexity and multiple-choice numbers against plain transformers code.

The reference below is written from the definitions (GPTQ's evaluation loop; lm-evaluation-harness 0.4.9.2 for
arc), not from the engine: one sequence at a time, float32, no batching.

usage: evaluation_oracle.py QUANT_ENGINE
"""
import json
import math
import pathlib
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/tiny-6m"
TEXT = ROOT / "examples/data/wikitext-excerpt.txt"
QUESTIONS = ROOT / "examples/data/arc.jsonl"
# Both sides compute in float32 with different matrix libraries; the sums differ in the last digits.
RELATIVE = 2e-5


def engine(program, *arguments):
    out = subprocess.run([program, "--log-level", "warning", "evaluate", str(MODEL), "--device", "cpu", "--json",
                          *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)["metrics"]


def log_probs(model, ids):
    """log p(ids[i] | ids[:i]) for i >= 1."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    return torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].double()


def perplexity(model, windows):
    nll = [-log_probs(model, window).sum().item() for window in windows]
    tokens = sum(len(window) - 1 for window in windows)
    return math.exp(sum(nll) / tokens)


def cut(ids, window):
    return [ids[i:i + window] for i in range(0, len(ids) - window + 1, window)]


def strided(model, ids, window, stride):
    nll, tokens = 0.0, 0
    for start in range(0, len(ids) - window + 1, stride):
        values = log_probs(model, ids[start:start + window])
        values = values if start == 0 else values[-stride:]
        nll, tokens = nll - values.sum().item(), tokens + len(values)
    return math.exp(nll / tokens)


def multiple_choice(model, tokenizer, questions):
    acc = acc_norm = 0
    for question in questions:
        context = f"Question: {question['question']['stem']}\nAnswer:"
        scores, normalized = [], []
        for choice in question["question"]["choices"]:
            whole = tokenizer(context + " " + choice["text"])["input_ids"]
            continuation = len(whole) - len(tokenizer(context)["input_ids"])
            score = log_probs(model, whole)[-continuation:].sum().item()
            scores.append(score)
            normalized.append(score / len(choice["text"]))
        gold = [choice["label"] for choice in question["question"]["choices"]].index(question["answerKey"])
        acc += max(range(len(scores)), key=scores.__getitem__) == gold
        acc_norm += max(range(len(scores)), key=normalized.__getitem__) == gold
    return acc / len(questions), acc_norm / len(questions)


def check(name, got, want, relative=RELATIVE):
    print(f"{name}: engine {got:.8g}, reference {want:.8g}")
    assert abs(got - want) <= relative * abs(want), name


def main(program):
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = TEXT.read_text(encoding="utf-8")
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    task = f"perplexity={TEXT}"

    rows = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
    joined = tokenizer("\n\n".join(rows))["input_ids"]
    assert joined[0] == tokenizer.bos_token_id
    check("papers", engine(program, "--task", task, "--option", "protocol=papers")["perplexity"]["value"],
          perplexity(model, cut(joined, 2048)))

    got = engine(program, "--task", task, "--option", "protocol=windows512", "--limit", "20")["perplexity"]
    windows = cut(plain[:120000], 512)[:20]
    check("windows512", got["value"], perplexity(model, windows))
    means = [-log_probs(model, window).mean().item() for window in windows]
    mean = sum(means) / len(means)
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / (len(means) - 1)) / math.sqrt(len(means))
    check("windows512 stderr", got["stderr"], got["value"] * error, 1e-3)
    size = len(tokenizer.decode([i for window in windows for i in window[1:]],
                                clean_up_tokenization_spaces=False).encode())
    nll = -sum(log_probs(model, window).sum().item() for window in windows)
    check("bits per byte", got["bitsPerByte"], nll / math.log(2) / size, 1e-3)

    got = engine(program, "--task", task, "--option", "window=256", "--option", "bos=every", "--limit", "8")
    every = [[tokenizer.bos_token_id] + window for window in cut(plain, 255)[:8]]
    check("bos=every", got["perplexity"]["value"], perplexity(model, every))

    got = engine(program, "--task", task, "--option", "window=256", "--option", "stride=64", "--option", "bos=none",
                 "--option", "max_tokens=1024", "--batch-size", "3")
    check("stride", got["perplexity"]["value"], strided(model, plain[:1024], 256, 64))

    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    acc, acc_norm = multiple_choice(model, tokenizer, questions)
    got = engine(program, "--task", f"arc={QUESTIONS}")
    check("arc/acc", got["arc/acc"]["value"], acc, 0)
    check("arc/acc_norm", got["arc/acc_norm"]["value"], acc_norm, 0)
    check("arc/acc stderr", got["arc/acc"]["stderr"], math.sqrt(acc * (1 - acc) / (len(questions) - 1)))


if __name__ == "__main__":
    main(sys.argv[1])

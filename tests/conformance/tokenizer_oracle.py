#!/usr/bin/env python3
"""Compares our tokenizer with the Hugging Face `tokenizers` library: ids with and without special tokens, and texts
decoded from them and from random ids, on generated strings, on every code point, and on recorded cases.

Usage: tokenizer_oracle.py TOKENIZER_DUMP [COUNT] [SEED]
"""

import gzip
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

SHOWN = 5
SCRIPTS = [(0x20, 0x7F), (0xA0, 0x17F), (0x370, 0x400), (0x400, 0x530), (0x590, 0x600), (0x600, 0x700),
           (0x900, 0x980), (0xE00, 0xE80), (0x10A0, 0x1100), (0x1100, 0x1200), (0x3040, 0x3100), (0x4E00, 0x9FFF),
           (0xAC00, 0xD7A4), (0xFB50, 0xFE00), (0xFF00, 0xFFF0), (0x1F300, 0x1FB00), (0x1D400, 0x1D800)]
BLANKS = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u200b\u180e"
MARKS = [c for c in range(0x300, 0x370)] + [0x591, 0x5BF, 0x64B, 0x93C, 0x94D, 0x3099, 0x309A, 0x20D0, 0xFE0F, 0x1D165]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "1️⃣", "🧑🏿‍🚀"]
ENGLISH = ["the", " The", "don't", "I'LL", "we've", "'s", "'S", " hello", "world", "2024", " 3.14", "foo_bar", "://", "...",
           "<0x0A>", "<0xZZ>", "▁", "▁▁a", "Ġ", "Ċ", "\ufeff", "\x00", "\u00ad", "ﬁ", "Å", "ſ", "İ", "ß", "Σς",
           "\u1110\u116c\u11a7", "\uac00\u11a8"]


def code_point(rng):
    while True:
        plane = rng.choice([0, 0, 0, 0, 1, 1, 2, 3, 14, 15, 16])
        value = plane * 0x10000 + rng.randrange(0x10000)
        if not 0xD800 <= value <= 0xDFFF:
            return chr(value)


def piece(rng, added):
    kind = rng.randrange(12)
    if kind == 0:
        return code_point(rng)
    if kind == 1:
        return "".join(rng.choice(BLANKS[:4] if rng.random() < 0.7 else BLANKS) for _ in range(rng.randint(1, 8)))
    if kind == 2:
        return chr(rng.randrange(*rng.choice(SCRIPTS))) + "".join(chr(rng.choice(MARKS)) for _ in range(rng.randint(1, 4)))
    if kind == 3:
        token = rng.choice(added) if added else "<s>"
        return token if rng.random() < 0.6 else token[:-1] if rng.random() < 0.5 else rng.choice([" ", ""]) + token + " "
    if kind == 4:
        return "".join(rng.choice("0123456789٣½²Ⅷ９") for _ in range(rng.randint(1, 6)))
    if kind == 5:
        return rng.choice(EMOJI)
    if kind in (6, 7):
        first, last = rng.choice(SCRIPTS)
        return "".join(chr(rng.randrange(first, last)) for _ in range(rng.randint(1, 10)))
    if kind == 8:
        return rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") * rng.randint(1, 6)
    if kind == 9:
        return rng.choice("abcAB é") * rng.randint(1, 60)
    return rng.choice(ENGLISH)


def generated(rng, added, count):
    for _ in range(count):
        yield "".join(piece(rng, added) for _ in range(rng.randint(0, 12)))


def every_code_point():
    """Each code point alone between letters, 16 to a text, so that a wrong class or case shows."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    for start in range(0, len(points), 16):
        yield "".join("a" + c + "1" + c + c for c in points[start:start + 16])


def normalization():
    """Every code point between marks of several classes: shows decompositions, orders and compositions."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    for start in range(0, len(points), 16):
        yield "".join("a\u0315" + c + "\u0334\u0323" + c + "\u0301" for c in points[start:start + 16])


class Oracle:
    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        self.size = max(self.tokenizer.get_vocab().values()) + 1

    def answer(self, question):
        if isinstance(question, dict):
            ids = question["decode"]
            return {"text": self.tokenizer.decode(ids, skip_special_tokens=False),
                    "plain": self.tokenizer.decode(ids, skip_special_tokens=True)}
        ids = self.tokenizer.encode(question).ids
        return {"ids": ids,
                "bare": self.tokenizer.encode(question, add_special_tokens=False).ids,
                "text": self.tokenizer.decode(ids, skip_special_tokens=False),
                "plain": self.tokenizer.decode(ids, skip_special_tokens=True)}


def ours(dump, folder, questions):
    text = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run([dump, folder], input=text, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise SystemExit(f"{dump} {folder}: exit {done.returncode}: {done.stderr[-2000:]}")
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    if len(answers) != len(questions):
        raise SystemExit(f"{folder}: {len(questions)} questions, {len(answers)} answers; {done.stderr[-2000:]}")
    return answers


def compare(dump, name, tokenizer_json, texts, rng, id_lists):
    """Returns how many of the texts and of `id_lists` random id sequences differ."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        oracle = Oracle(Path(folder) / "tokenizer.json")
        questions = list(texts(oracle.added))
        questions += [{"decode": [rng.randrange(oracle.size) for _ in range(rng.randint(0, 12))]} for _ in range(id_lists)]
        differ = 0
        for question, answer in zip(questions, ours(dump, folder, questions)):
            expected = oracle.answer(question)
            if answer != expected:
                differ += 1
                if differ <= SHOWN:
                    print(f"{name}: {json.dumps(question)}\n  reference {json.dumps(expected)}\n  ours      {json.dumps(answer)}")
    print(f"{name}: {len(questions)} questions, {differ} differ", flush=True)
    return differ


def recorded(folder):
    texts = (folder / "cases.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = [[int(i) for i in line.split()] for line in (folder / "cases.out").read_text().split("\n")]
    return list(zip(texts, ids))


def check_recorded(dump, folder, tokenizer_json):
    cases = recorded(folder)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        answers = ours(dump, work, [text for text, _ in cases])
    wrong = [text for (text, ids), answer in zip(cases, answers) if answer.get("bare") != ids]
    print(f"{folder.name}: {len(cases)} recorded cases, {len(wrong)} differ", wrong[:SHOWN])
    return len(wrong)


def added(content, number, **flags):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return token | flags


def sentencepiece():
    """A small tokenizer in the style of sentencepiece: byte fallback, fused unknowns, meta spaces."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["▁"]
    tokens += [chr(c) for c in range(0x21, 0x7F)] + list("éüßñ日本語한국")
    merges = [["▁", "t"], ["h", "e"], ["▁t", "he"], ["i", "n"], ["▁", "a"], ["a", "n"], ["an", "d"], ["▁", "and"],
              ["o", "r"], ["e", "r"], ["▁", "▁"], ["▁▁", "▁▁"], ["l", "l"], ["日", "本"], ["1", "2"]]
    for left, right in merges:
        if left + right not in tokens:
            tokens.append(left + right)
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("<s>", 1), ("</s>", 2))}}
    decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(t, i, special=True) for i, t in enumerate(tokens[:3])]
            + [added("<mask>", len(tokens), lstrip=True, special=True), added("word", len(tokens) + 1, single_word=True),
               added("  ", len(tokens) + 2), added("right", len(tokens) + 3, rstrip=True),
               added("norm al", len(tokens) + 4, normalized=True),
               added("<spe cial>", len(tokens) + 5, normalized=True, special=True)],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                               {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": None, "post_processor": template, "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}}


def variants():
    """(name, tokenizer.json) of small tokenizers that differ in one component each."""
    def variant(name, **parts):
        base = sentencepiece()
        model = parts.pop("model", {})
        base["model"].update(model)
        base.update(parts)
        return name, base

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    alphabet = [chr(c) for c in list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x144))]
    bytes_model = {"vocab": {t: i for i, t in enumerate(alphabet + ["Ġt", "he", "Ġthe", "ll"])},
                   "merges": ["Ġ t", "h e", "Ġt he", "l l"], "unk_token": None, "byte_fallback": False, "fuse_unk": False}
    plain = {"added_tokens": [], "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, "model": bytes_model}
    yield variant("sentencepiece")
    yield variant("no byte fallback, unknowns not fused", normalizer=None, model={"byte_fallback": False, "fuse_unk": False})
    yield variant("no unknown token", model={"byte_fallback": False, "unk_token": None})
    yield variant("ignore merges", model={"ignore_merges": True}, pre_tokenizer={"type": "Metaspace", "replacement": "▁"})
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
            yield variant(f"metaspace {scheme} {split}", normalizer=None, pre_tokenizer=metaspace, decoder=metaspace)
    yield variant("strip, then metaspace first", pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
                  normalizer={"type": "Strip", "strip_left": True, "strip_right": True})
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield variant(form, **plain, normalizer={"type": form}, pre_tokenizer=byte_level)
    yield variant("byte level with a prefix space", **plain, normalizer=None,
                  pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True})
    for kind in ({"type": "Digits", "individual_digits": True}, {"type": "Digits", "individual_digits": False},
                 {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Whitespace"}, {"type": "WhitespaceSplit"}):
        yield variant(json.dumps(kind), **plain, normalizer=None,
                      pre_tokenizer={"type": "Sequence", "pretokenizers": [kind, byte_level]})
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            split = {"type": "Split", "pattern": {"Regex": "\\p{L}+|[\\s]"}, "behavior": behavior, "invert": invert}
            yield variant(f"split {behavior} {invert}", **plain, normalizer=None,
                          pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]})
    for regex in (r"\w+|[^\w\s]+", r"\d{1,3}", r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
                  r"\p{P}|\P{S}", r"[\p{Han}\p{Hiragana}\p{Katakana}]+", r"x*"):
        split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        yield variant(f"regex {regex}", **plain, normalizer=None,
                      pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]})
    yield variant("prefix and suffix", normalizer=None, pre_tokenizer={"type": "WhitespaceSplit"},
                  decoder={"type": "BPEDecoder", "suffix": "</w>"}, added_tokens=[], post_processor=None,
                  model={"vocab": {t: i for i, t in enumerate(["<unk>", "a", "b", "##b", "##a", "b</w>", "##b</w>", "ab", "ab</w>"])},
                         "merges": ["a ##b", "a ##b</w>"], "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>",
                         "byte_fallback": False})


def main():
    dump, source = sys.argv[1], Path(__file__).resolve().parents[2]
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {count} strings a tokenizer")
    rng = random.Random(seed)
    differ = 0
    stride = 1 if count > 50_000 else 64
    data = source / "tests/data/tokenizers"
    files = {path.parent.name: gzip.decompress(path.read_bytes()).decode() for path in sorted(data.glob("*/tokenizer.json.gz"))}
    files |= {path.parent.name: path.read_text(encoding="utf-8") for path in sorted(source.glob("models/*/tokenizer.json"))}
    for name, text in files.items():
        differ += compare(dump, name, text, lambda tokens: generated(rng, tokens, count), rng, count // 10)
        if (data / name / "cases.inp").exists():
            differ += check_recorded(dump, data / name, text)
    for name, description in variants():
        differ += compare(dump, name, json.dumps(description), lambda tokens: generated(rng, tokens, count // 25), rng, count // 100)
        if name in ("Lowercase", "StripAccents") or name.startswith(("{", "regex")):
            differ += compare(dump, name, json.dumps(description), lambda _: list(every_code_point())[seed % stride::stride], rng, 0)
        if name.startswith("NF"):
            differ += compare(dump, name, json.dumps(description), lambda _: list(normalization())[seed % stride::stride], rng, 0)
    print(f"{differ} answers differ (seed {seed})")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())

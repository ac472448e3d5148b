"""Every way in which pyarrow writes Parquet, read back by workers/engine/parquet: codecs, page versions, encodings, dictionaries,
row groups, nulls, lists of structures in lists; what is refused; and damaged files.

Usage: parquet_oracle.py PARQUET_DUMP
The program prints a file's rows as JSON lines. Compared with pyarrow's own reading, value by value.
"""
import datetime
import decimal
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20


def text(rng, empty=True):
    alphabet = "abc xyz éß漢😀\n\"\\"
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(0 if empty else 1, 12)))


def maybe(rng, make, share=0.2):
    return None if rng.random() < share else make()


def rows(rng, count):
    """Rows of every shape that the Hub's question data sets have, and worse."""
    out = []
    for i in range(count):
        out.append({
            "id": f"q{i}",
            "number": maybe(rng, lambda: rng.randrange(-2**40, 2**40)),
            "small": rng.randrange(-100, 100),
            "share": maybe(rng, lambda: rng.uniform(-1, 1)),
            "flag": maybe(rng, lambda: rng.random() < 0.5),
            "topic": rng.choice(["history", "science", "art"]),
            "choices": {"text": [text(rng) for _ in range(rng.randrange(0, 5))],
                        "label": [rng.choice("ABCD") for _ in range(rng.randrange(0, 5))]},
            "answers": maybe(rng, lambda: {"text": maybe(rng, lambda: [maybe(rng, lambda: text(rng)) for _ in range(rng.randrange(0, 4))]),
                                           "answer_start": [rng.randrange(1000) for _ in range(rng.randrange(0, 3))]}),
            "turns": [{"who": text(rng), "words": [maybe(rng, lambda: text(rng)) for _ in range(rng.randrange(0, 3))]}
                      for _ in range(rng.randrange(0, 3))],
            "grid": maybe(rng, lambda: [maybe(rng, lambda: [rng.randrange(9) for _ in range(rng.randrange(0, 3))])
                                        for _ in range(rng.randrange(0, 3))]),
            "prefix": f"https://example.org/a/long/prefix/{i // 3}/{i}",
        })
    return out


SCHEMA = pa.schema([
    ("id", pa.string()), ("number", pa.int64()), ("small", pa.int32()), ("share", pa.float64()), ("flag", pa.bool_()),
    ("topic", pa.string()),
    ("choices", pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])),
    ("answers", pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])),
    ("turns", pa.list_(pa.struct([("who", pa.string()), ("words", pa.large_list(pa.string()))]))),
    ("grid", pa.list_(pa.list_(pa.int64()))),
    ("prefix", pa.string()),
])


def check(dump, path, table, words):
    done = subprocess.run([dump, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    got = [json.loads(line) for line in done.stdout.splitlines()]
    want = table.to_pylist()
    assert len(got) == len(want), f"{words}: {len(got)} rows, not {len(want)}"
    for i, (a, b) in enumerate(zip(got, want)):
        assert a == b, f"{words}: row {i}:\n{a}\n{b}"


def main():
    dump = sys.argv[1]
    rng = random.Random(SEED)
    print("seed", SEED)
    ways = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        for codec, version, dictionary, count in itertools.product(
                ["none", "snappy", "gzip", "zstd"], ["1.0", "2.0"], [True, False, ["topic"]], [0, 1, 700]):
            table = pa.Table.from_pylist(rows(rng, count), schema=SCHEMA)
            pq.write_table(table, path, compression=codec, data_page_version=version, use_dictionary=dictionary,
                           row_group_size=rng.choice([50, 10000]), data_page_size=rng.choice([200, 1 << 20]))
            check(dump, path, table, f"{codec}, pages {version}, dictionary {dictionary}, {count} rows")
            ways += 1
        table = pa.Table.from_pylist(rows(rng, 700), schema=SCHEMA)
        for encoding in ({"number": "DELTA_BINARY_PACKED", "small": "DELTA_BINARY_PACKED"},
                         {"id": "DELTA_LENGTH_BYTE_ARRAY", "turns.list.element.who": "DELTA_LENGTH_BYTE_ARRAY"},
                         {"prefix": "DELTA_BYTE_ARRAY", "id": "DELTA_BYTE_ARRAY"}):
            pq.write_table(table, path, use_dictionary=False, column_encoding=encoding, data_page_size=500)
            check(dump, path, table, f"{encoding}")
            ways += 1
        # Older writers' lists, and what has no JSON form.
        pq.write_table(table, path, use_compliant_nested_type=False)
        check(dump, path, table, "lists of older writers")
        odd = pa.table({"when": [datetime.datetime(2020, 1, 1), None], "price": [decimal.Decimal("1.5"), None],
                        "picture": [b"\xff\xd8", None], "name": ["a", "b"],
                        "big": pa.array([2**63 + 1, 5], pa.uint64()), "nan": [float("nan"), 0.5],
                        "pairs": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64()))})
        pq.write_table(odd, path)
        done = subprocess.run([dump, str(path)], capture_output=True, text=True)
        got = [json.loads(line) for line in done.stdout.splitlines()]
        assert got == [{"when": None, "price": None, "picture": None, "name": "a", "big": 2**63 + 1, "nan": None,
                        "pairs": {"k": 1}},
                       {"when": None, "price": None, "picture": None, "name": "b", "big": 5, "nan": 0.5,
                        "pairs": {}}], (got, done.stderr)
        # What is not read is refused by its name.
        for options, word in (({"compression": "brotli"}, "brotli"),
                              ({"use_dictionary": False, "column_encoding": {"share": "BYTE_STREAM_SPLIT"}},
                               "BYTE_STREAM_SPLIT")):
            pq.write_table(table, path, **options)
            done = subprocess.run([dump, str(path)], capture_output=True, text=True)
            assert done.returncode == 1 and word in done.stderr, (options, done)
        # Damage anywhere is an error or other values, never a crash.
        pq.write_table(table.slice(0, 60), path)
        whole = path.read_bytes()
        for i in range(400):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            if i % 4 == 0:
                del data[rng.randrange(len(data)):]
            path.write_bytes(bytes(data))
            done = subprocess.run([dump, str(path)], capture_output=True)
            assert done.returncode in (0, 1), f"damage {i}: exit {done.returncode}: {done.stderr[-300:]}"
    print(f"{ways} ways to write, 400 kinds of damage: equal to pyarrow {pa.__version__}")


if __name__ == "__main__":
    main()

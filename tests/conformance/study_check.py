"""What a sweep's report says of two models whose answer is known: orderings, intervals, verdicts, front, recommendation.

ref-17m on the synthetic sets: the divergence tells 8, 4, 3 and 2 bits apart where the tasks hardly do, and 2-bit
round-to-nearest is flagged. facts-17m on what it knows by heart: accuracy itself falls with precision.

usage: study_check.py QUANT_ENGINE [BROWSER]
Needs QUANTD_REF_MODELS (ref-17m, facts-17m) and QUANTD_DATA (synthetic/, wikitext-2/). With BROWSER (chromium) the
pages are opened in it, wide, narrow and as print.
"""
import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from engine_jobs import run_job

BITS = (8, 4, 3, 2)
RUNTIME = {"device": "cpu", "threads": 2}
RECALL = """task: recall
summary: Facts by heart.
documents: choices
prompt: "Question: {{question}}\\nAnswer:"
target: "{{choices.text[choices.label.index(answerKey)]}}"
generate: {until: ["\\n"], max_tokens: 12}
score: match
"""


def ref_tasks(data):
    synthetic = data / "synthetic"
    return [{"name": "squadv2_abstain", "data": str(synthetic / "squad_v2.json"), "limit": 200,
             "options": {"max_tokens": 16}},
            {"name": "openmath", "data": str(synthetic / "openmath.jsonl"), "limit": 200, "options": {"max_tokens": 96}},
            {"name": "arc", "data": str(synthetic / "arc.jsonl"), "limit": 200},
            {"name": "kld", "data": str(data / "wikitext-2/wiki.test.raw"), "limit": 24, "options": {"window": 512}},
            {"name": "sanity"}]


def facts_tasks(data):
    synthetic = data / "synthetic"
    return [{"name": "own", "data": str(synthetic / "knowledge.jsonl"), "limit": 400, "options": {"definition": RECALL}},
            {"name": "arc", "data": str(synthetic / "knowledge.jsonl"), "limit": 400},
            {"name": "openmath", "data": str(synthetic / "knowledge_years.jsonl"), "limit": 200,
             "options": {"max_tokens": 12}},
            {"name": "kld", "data": str(synthetic / "knowledge.jsonl"), "limit": 16, "options": {"window": 512}}]


class Sweep:
    """Jobs one after the other, as a scheduler would give them to one worker."""

    def __init__(self, engine, folder):
        self.engine, self.folder, self.inputs = engine, pathlib.Path(folder), {}

    def run(self, name, spec):
        spec = {**spec, "runtime": RUNTIME}
        place = self.folder / name
        result, _ = run_job(self.engine, spec, place, inputs=self.inputs)
        self.inputs[f"jobs/{name}"] = {"path": str(place / "out"), "result": result, "spec": spec,
                                       "state": "JOB_STATE_SUCCEEDED"}
        return result

    def report(self, model, tasks, variants):
        cells = [{"name": "baseline", "baseline": True, "jobs": ["jobs/baseline-evaluate"]}]
        self.run("baseline-evaluate", {"evaluate": {"model": str(model), "tasks": tasks}})
        for name, quantize in variants:
            self.run(f"{name}-quantize", {"quantize": {"model": str(model), **quantize}})
            self.run(f"{name}-evaluate", {"evaluate": {"model": f"jobs/{name}-quantize", "tasks": tasks}})
            cells.append({"name": name, "jobs": [f"jobs/{name}-quantize", f"jobs/{name}-evaluate"]})
        self.run("report", {"report": {"title": "study", "variants": cells}})
        return self.folder / "report/out"


def rtn(bits):
    return f"rtn-{bits}", {"method": "rtn", "options": {"bits": bits, "group_size": 128}}


def rows_of(folder):
    report = json.loads((folder / "report.json").read_text())
    return report, {row["name"]: row for row in report["rows"]}


def check_files(folder):
    """Every form says the same, and the page needs nothing beside itself."""
    report, rows = rows_of(folder)
    with open(folder / "summary.csv", newline="") as file:
        table = {line["name"]: line for line in csv.DictReader(file)}
    assert set(table) == set(rows)
    for name, row in rows.items():
        assert float(table[name]["sizeBytes"]) == row["sizeBytes"]
        for metric, value in row["metrics"].items():
            assert value is None or float(table[name][metric]) == value, (name, metric)
    markdown = (folder / "report.md").read_text()
    for heading in ("Introduction", "Methods and set-up", "Results", "Discussion", "To make it again"):
        assert f"## {heading}" in markdown, heading
    assert f"**Ship {report['recommendation']}**" in markdown
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//|<script|@import|url\(""", page), "the page asks for more"
    assert page.count("<svg") >= 3


def check_ref(folder):
    report, rows = rows_of(folder)
    base = rows["baseline"]["metrics"]
    print("baseline:", {k: round(v, 4) for k, v in base.items() if v is not None})
    assert base["squadv2_abstain/HasAns_exact"] >= 93, base
    assert base["openmath/exact_match"] >= 0.97, base
    kld = {bits: rows[f"rtn-{bits}"]["metrics"]["kld"] for bits in BITS}
    error = {bits: 1.96 * rows[f"rtn-{bits}"]["metricErrors"]["kld"]["stderr"] for bits in BITS}
    print("kld:", {bits: f"{kld[bits]:.5f} +- {error[bits]:.5f}" for bits in BITS})
    for more, less in zip(BITS, BITS[1:]):
        assert kld[more] + error[more] < kld[less] - error[less], f"{more} and {less} bits are not told apart"
    two = rows["rtn-2"]
    assert two["verdict"] in ("broken", "degraded") and two["outcome"] == "investigate", two["verdict"]
    assert two["outcomeReasons"], "flagged without a reason"
    print("rtn-2:", two["verdict"], two["outcomeReasons"])
    assert "By divergence from the original's predictions, closest first: rtn-8" in (folder / "report.md").read_text()
    assert rows["rtn-8"]["outcome"] == "successful", rows["rtn-8"]["outcomeReasons"]
    assert report["recommendation"] != "rtn-2"
    check_intervals(rows)


def check_intervals(rows):
    """An interval holds its change, and a change that it does not exclude is said to be within its error."""
    for name, row in rows.items():
        for metric, (low, high) in row.get("degradationInterval", {}).items():
            change = row["degradation"][metric]
            assert low <= change + 1e-9 and change - 1e-9 <= high, (name, metric, low, change, high)
            p = row.get("mcnemar", {}).get(metric)
            if p is not None and p < 0.001:
                assert low > 0 or high < 0, (name, metric, p, low, high)


def check_facts(folder):
    report, rows = rows_of(folder)
    recall = {name: row["metrics"]["recall/exact_match"] for name, row in rows.items()}
    choice = {name: row["metrics"]["arc/acc"] for name, row in rows.items()}
    years = {name: row["metrics"]["openmath/mean_abs_diff"] for name, row in rows.items()}
    print("recall:", recall, "\nchoice:", choice, "\nyears off:", years)
    # What the model's card says of 1000 people, here of 400: three standard errors of a share.
    for name, expected, slack in (("baseline", 1.0, 0.01), ("rtn-8", 1.0, 0.01), ("rtn-4", 0.99, 0.02),
                                  ("rtn-3", 0.75, 0.08), ("rtn-2", 0.10, 0.06)):
        assert abs(recall[name] - expected) <= slack, (name, recall[name], expected)
    assert choice["baseline"] >= 0.99 and choice["rtn-2"] < 0.55 < 0.9 < choice["rtn-3"]
    assert years["baseline"] <= years["rtn-4"] <= years["rtn-3"] <= years["rtn-2"] and years["rtn-2"] > 1
    for name in ("rtn-3", "rtn-2"):
        assert rows[name]["outcome"] == "investigate" and rows[name]["verdict"] in ("degraded", "broken"), rows[name]
    for name in ("rtn-8", "rtn-4"):
        assert rows[name]["outcome"] == "successful", rows[name]["outcomeReasons"]
    # Smaller and still good: 4 bits are what to ship, and the smallest within 15 % loss.
    assert report["recommendation"] == "rtn-4", report["reason"]
    uses = {use["use"]: use["variant"] for use in report["recommendations"][0]["uses"]}
    assert uses["smallest within 15 % loss"] == "rtn-4", uses
    # Nothing beats the original at its size, and nobody is both smaller and better than 4 bits: all are on the front
    # but where two are equally good.
    front = {row["name"] for row in rows.values()
             if not any(other["sizeBytes"] < row["sizeBytes"] and recall[other["name"]] >= recall[row["name"]]
                        for other in rows.values())}
    assert {"rtn-4", "rtn-3", "rtn-2"} <= front
    check_intervals(rows)


def look(browser, page, folder):
    """The page in a real browser: drawn without an error, and its body no wider than a phone."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=3000"]
    probe = page.read_text().replace(
        "</body>", "<script>document.title=[document.documentElement.scrollWidth,innerWidth,"
        "document.querySelectorAll('svg').length,[...document.querySelectorAll('svg')].filter("
        "s=>s.getBoundingClientRect().width<50).length].join(' ')</script></body>")
    copy = folder / "probe.html"
    copy.write_text(probe)
    for width in (1400, 390):
        done = subprocess.run([browser, *flags, f"--window-size={width},900", "--dump-dom", copy.as_uri()],
                              capture_output=True, text=True, timeout=120)
        title = re.search(r"<title>([\d ]+)</title>", done.stdout)
        assert title, f"the page was not drawn: {done.stderr[-500:]}"
        wide, view, plots, flat = map(int, title[1].split())
        assert plots >= 3 and flat == 0, title[1]
        # Headless windows are at least 500 wide in some versions: what counts is the view that there was.
        assert wide <= view + 1, f"at {view} the page is {wide} wide"
        shot = folder / f"page-{width}.png"
        subprocess.run([browser, *flags, f"--window-size={width},2000", f"--screenshot={shot}", page.as_uri()],
                       check=True, capture_output=True, timeout=120)
        assert shot.stat().st_size > 20_000, "an empty picture"
    printed = folder / "page.pdf"
    subprocess.run([browser, *flags, f"--print-to-pdf={printed}", page.as_uri()], check=True, capture_output=True,
                   timeout=120)
    assert printed.read_bytes().startswith(b"%PDF") and printed.stat().st_size > 20_000
    print(f"{page}: drawn at two widths and printed")


def main(engine, browser=None):
    models, data = os.environ.get("QUANTD_REF_MODELS"), os.environ.get("QUANTD_DATA")
    if not models or not data:
        print("QUANTD_REF_MODELS or QUANTD_DATA is not set")
        sys.exit(77)
    models, data = pathlib.Path(models), pathlib.Path(data)
    browser = browser if browser and pathlib.Path(browser).exists() else None
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, tasks, check in (("facts-17m", facts_tasks(data), check_facts),
                                   ("ref-17m", ref_tasks(data), check_ref)):
            report = Sweep(engine, folder / name).report(models / name, tasks, [rtn(bits) for bits in BITS])
            keep = os.environ.get("QUANTD_KEEP")
            if keep:
                subprocess.run(["cp", "-r", str(report), f"{keep}/{name}"], check=True)
            check_files(report)
            check(report)
            if browser:
                look(browser, report / "report.html", folder)
            print(f"{name}: as expected")
    if not browser:
        print("no browser was named: the pages were not looked at")


if __name__ == "__main__":
    main(*sys.argv[1:])

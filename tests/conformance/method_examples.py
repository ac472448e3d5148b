"""Runs the examples of every page in docs/methods and verifies what they write.

    method_examples.py QUANT_ENGINE [page ...]

An example is a ```sh block of a page; it runs as it stands, in an empty folder, with `quant-engine` being the program
given and `models/` that of the repository.
"""
import os
import re
import subprocess
import sys
import tempfile

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(engine, page, example):
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(REPOSITORY + "/models", folder + "/models")
        os.symlink(os.path.abspath(engine), folder + "/quant-engine")
        # One thread: on a busy machine threads wait for each other far longer than they compute.
        environment = {**os.environ, "PATH": folder + ":" + os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        for command in (example, "quant-engine verify out"):
            done = subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert done.returncode == 0, f"{page}: {command}\nexit {done.returncode}\n{done.stdout[-3000:]}"


def main(engine, *names):
    pages = sorted(os.listdir(REPOSITORY + "/docs/methods"))
    pages = [page for page in pages if page.endswith(".md") and (not names or page[:-3] in names)]
    assert pages, "docs/methods has no pages"
    for page in pages:
        with open(f"{REPOSITORY}/docs/methods/{page}", encoding="utf-8") as file:
            examples = re.findall(r"```sh\n(.*?)```", file.read(), re.DOTALL)
        assert examples, f"{page} has no example"
        for example in examples:
            run(engine, page, example)
        print(page, "ran and was verified", flush=True)


main(*sys.argv[1:])

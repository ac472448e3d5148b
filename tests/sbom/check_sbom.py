#!/usr/bin/env python3
"""The bill of materials of the built programs: complete, valid in form, the same twice, with a licence for every part.

Usage: check_sbom.py REPOSITORY PROGRAM...
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def make(repository, programs, licences):
    words = [sys.executable, str(Path(repository) / "deploy/sbom/sbom.py"), "--version", "1.2.3", "--header-list",
             str(Path(repository) / "deploy/setup/compiled-in.txt"), "--licences", licences, *programs]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})


def check(condition, what):
    if not condition:
        raise SystemExit(f"check_sbom: {what}")


def main():
    repository, programs = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        first, second = make(repository, programs, folder), make(repository, programs, folder)
        check(first.returncode == 0, first.stderr)
        check(first.stdout == second.stdout, "two runs differ")
        document = json.loads(first.stdout)
        check(document["spdxVersion"] == "SPDX-2.3", "not SPDX 2.3")
        check(document["creationInfo"]["created"] == "2023-11-14T22:13:20Z", "SOURCE_DATE_EPOCH is not used")
        ids = [package["SPDXID"] for package in document["packages"]]
        check(len(ids) == len(set(ids)), "an id comes twice")
        for relation in document["relationships"]:
            check(relation["relatedSpdxElement"] in ids, f"{relation} leads nowhere")
        names = {package["name"]: package for package in document["packages"]}
        for prefix in ("libgrpc++", "libprotobuf", "libssl", "libsqlite3", "nlohmann-json3-dev"):
            check(any(name.startswith(prefix) for name in names), f"{prefix} is missing from {sorted(names)}")
        for package in document["packages"]:
            for field in ("name", "versionInfo", "downloadLocation", "licenseConcluded", "copyrightText"):
                check(package.get(field), f"{package['name']} has no {field}")
            if package["name"] == "quantd":
                continue
            kind = "pypi" if "pkg:pypi" in package["externalRefs"][0]["referenceLocator"] else "deb"
            kept = Path(folder) / f"{kind}-{package['name']}"
            check(kept.is_dir() and any(kept.iterdir()), f"{package['name']} has no licence file")
    # A library that nobody packaged must not pass.
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "x.c"
        source.write_text("int x(void) { return 1; }\nint main(void);\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", f"{folder}/libours.so", str(source)], check=True)
        main_source = Path(folder) / "m.c"
        main_source.write_text("int x(void);\nint main(void) { return x(); }\n")
        subprocess.run(["cc", "-o", f"{folder}/prog", str(main_source), f"{folder}/libours.so",
                        f"-Wl,-rpath,{folder}"], check=True)
        refused = make(repository, [f"{folder}/prog"], folder + "/l")
        check(refused.returncode == 1 and "libours.so" in refused.stderr, "an unowned library passes")
    print(f"{len(names)} parts")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The software bill of materials of what ships, and the licences of all of it.

Usage: sbom.py [--licences DIR] [--header-list FILE] [--name NAME] [--version VERSION] FILE...   > sbom.spdx.json

FILE: programs and libraries that ship. Every shared library that the dynamic linker would load for them is followed to the
Debian package or the Python wheel that it came from; what is in the programs themselves (header-only and static parts) is
named by --header-list, a list of Debian -dev packages like deploy/setup/compiled-in.txt. Prints SPDX 2.3 as JSON; with
--licences every part's copyright or licence files are copied there. A library that no package owns is an error: it would
ship without a licence. SOURCE_DATE_EPOCH sets the document's time; equal inputs give equal bytes.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def run(*words, env=None):
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(env or {})})
    return done.stdout if done.returncode == 0 else ""


def libraries_of(path):
    """Real paths of what the dynamic linker loads for a program or library."""
    found = set()
    for line in run("ldd", str(path)).splitlines():
        match = re.search(r"=> (/\S+)|^\s*(/\S+)", line)
        if match:
            found.add(os.path.realpath(match.group(1) or match.group(2)))
    return found


def debian_package(path):
    """The name of the Debian package that owns a file; None: no package does."""
    path = str(path)
    for candidate in (path, path.removeprefix("/usr"), "/usr" + path):
        owner = run("dpkg-query", "-S", candidate)
        if owner:
            return owner.split(":")[0].split(",")[0].strip()
    return None


def describe_debian(name):
    fields = run("dpkg-query", "-W", "-f", "${Version}\t${source:Package}\t${Homepage}\t${Maintainer}\n", name)
    if not fields:
        raise SystemExit(f"sbom: the package {name} is not installed")
    version, source, homepage, maintainer = fields.splitlines()[0].split("\t")
    copyright_file = Path("/usr/share/doc") / name / "copyright"
    licences = []
    if copyright_file.exists():
        text = copyright_file.read_text(encoding="utf-8", errors="replace")
        licences = sorted(set(re.findall(r"^License:\s*(\S.*?)\s*$", text, re.MULTILINE)))
    return {"name": name, "version": version, "kind": "deb", "source": source, "homepage": homepage,
            "supplier": maintainer, "licences": licences,
            "files": [copyright_file] if copyright_file.exists() else []}


def wheel_of(path):
    """The installed wheel that holds a file: its dist-info folder; None: none does."""
    path = Path(path)
    for folder in path.parents:
        for info in sorted(folder.glob("*.dist-info")):
            record = info / "RECORD"
            relative = str(path.relative_to(folder))
            if record.exists() and any(line.split(",")[0] == relative
                                       for line in record.read_text(encoding="utf-8").splitlines()):
                return info
    return None


def describe_wheel(info):
    fields = {}
    licences = []
    for line in (info / "METADATA").read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            break
        key, _, value = line.partition(": ")
        if key == "Classifier" and value.startswith("License ::"):
            licences.append(value.split(" :: ")[-1])
        fields.setdefault(key, value)
    if fields.get("License-Expression"):
        licences = [fields["License-Expression"]]
    elif not licences and fields.get("License"):
        licences = [fields["License"][:80]]
    files = sorted(path for path in info.rglob("*")
                   if path.is_file() and re.match(r"(?i)(licen[cs]e|notice|copying|authors)", path.name))
    return {"name": fields["Name"], "version": fields["Version"], "kind": "pypi", "source": fields["Name"],
            "homepage": fields.get("Home-page", ""), "supplier": fields.get("Author", ""), "licences": licences,
            "files": files}


def gather(programs, header_packages):
    """Parts by (kind, name), and the libraries that nobody owns."""
    parts, unowned = {}, []
    own = {os.path.realpath(program) for program in programs}
    libraries = set().union(*(libraries_of(program) for program in programs)) - own
    for library in sorted(libraries):
        package = debian_package(library)
        info = None if package else wheel_of(library)
        if package:
            part = describe_debian(package)
        elif info:
            part = describe_wheel(info)
        else:
            unowned.append(library)
            continue
        parts.setdefault((part["kind"], part["name"]), part).setdefault("libraries", []).append(Path(library).name)
    for name in header_packages:
        part = describe_debian(name)
        parts.setdefault((part["kind"], part["name"]), part)
    return [parts[key] for key in sorted(parts)], unowned


def purl(part):
    if part["kind"] == "deb":
        return f"pkg:deb/debian/{part['name']}@{part['version']}"
    return f"pkg:pypi/{part['name'].lower().replace('_', '-')}@{part['version']}"


def spdx_id(part):
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{part['kind']}-{part['name']}")


def document(name, version, programs, parts):
    packages = [{"SPDXID": "SPDXRef-product", "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION",
                 "filesAnalyzed": False, "licenseConcluded": "Apache-2.0", "licenseDeclared": "Apache-2.0",
                 "copyrightText": "NOASSERTION",
                 "comment": "programs: " + ", ".join(
                     f"{Path(p).name} sha256:{hashlib.sha256(Path(p).read_bytes()).hexdigest()}"
                     for p in sorted(programs, key=lambda p: Path(p).name))}]
    relationships = [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                      "relatedSpdxElement": "SPDXRef-product"}]
    for part in parts:
        package = {"SPDXID": spdx_id(part), "name": part["name"], "versionInfo": part["version"],
                   "downloadLocation": "NOASSERTION", "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
                   "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
                   "licenseComments": "named in its copyright or metadata files: " +
                                      (", ".join(part["licences"]) or "see the files themselves"),
                   "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                                     "referenceLocator": purl(part)}]}
        if part["homepage"]:
            package["homepage"] = part["homepage"]
        if part.get("libraries"):
            package["comment"] = "loaded: " + ", ".join(sorted(part["libraries"]))
        else:
            package["comment"] = "compiled in"
        packages.append(package)
        relationships.append({"spdxElementId": "SPDXRef-product", "relationshipType": "DEPENDS_ON",
                              "relatedSpdxElement": spdx_id(part)})
    digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    created = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), datetime.timezone.utc)
    return {"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"{name}-{version}",
            "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{version}-{digest[:32]}",
            "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: quantd-sbom"]},
            "packages": packages, "relationships": relationships}


def copy_licences(parts, folder):
    for part in parts:
        target = Path(folder) / f"{part['kind']}-{part['name']}"
        target.mkdir(parents=True, exist_ok=True)
        for source in part["files"]:
            shutil.copyfile(source, target / source.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--licences")
    parser.add_argument("--header-list")
    parser.add_argument("--name", default="quantd")
    parser.add_argument("--version", default="0")
    parser.add_argument("programs", nargs="+", metavar="FILE")
    options = parser.parse_args()
    headers = []
    if options.header_list:
        lines = Path(options.header_list).read_text(encoding="utf-8").splitlines()
        headers = [word for line in lines if (word := line.split("#")[0].strip())]
    parts, unowned = gather(options.programs, headers)
    bare = [part["name"] for part in parts if not part["files"]]
    if options.licences:
        copy_licences(parts, options.licences)
    json.dump(document(options.name, options.version, options.programs, parts), sys.stdout, indent=1)
    print()
    for library in unowned:
        print(f"sbom: no package owns {library}", file=sys.stderr)
    for name in bare:
        print(f"sbom: {name} ships without a licence file", file=sys.stderr)
    return 1 if unowned or bare else 0


if __name__ == "__main__":
    sys.exit(main())

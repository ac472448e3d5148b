#!/usr/bin/env python3
"""Enforces the rules of STYLE.md that a machine can see. Prints one line a violation and exits with 1 if any.

Usage: check_style.py [FOLDER]   (the folder of a git checkout; default: the one that holds this file)
"""

import re
import subprocess
import sys
from pathlib import Path

COLUMNS_MAX = 100
SOURCE = (".cc", ".h", ".proto")
LINES_MAX = 500
TEST_LINES_MAX = 900

# Pattern, where it is allowed, what to do instead.
BANNED = [
    (r"\b(TODO|FIXME|XXX|HACK)\b", (), "finish it, or file an issue"),
    (r"\bstd::cout\b", ("main.cc", "_bench.cc", "/commands/", "client/"), "log, or return the text"),
    (r"(?<![\w:.>])s?rand\(", (), "a seeded std::mt19937_64"),
    (r"\bgetenv\(", ("main.cc", "/tests/", "/testing/", "_test.cc", "/hub/", "client/", "kernels/", "workers/engine/", "config"),
     "a field of the configuration"),
    (r"#include <torch/torch\.h>", (), "narrow ATen headers"),
    (r"\bsystem\(", (), "posix_spawn"),
]

# Rooms and what of ours they may include; a room may always include itself.
ARROWS = {
    "base": set(),
    "kernels": set(),
    "proto": {"base"},
    "server": {"proto", "base"},
    "client": {"proto", "base"},
    "workers/agent": {"proto", "base"},
    "workers/engine": {"kernels", "base"},
}

MACHINE_PATH = re.compile(r"(^|[^A-Za-z0-9_.$}])/(work|farm|root)/")


def room_of(path):
    for room in ARROWS:
        if path.startswith(room + "/"):
            return room
    return None


def is_test(path):
    return path.endswith(("_test.cc", "_bench.cc")) or path.startswith("tests/")


def check_source(path, text):
    """Yields (line number, message) for one source file."""
    lines = text.split("\n")
    budget = TEST_LINES_MAX if is_test(path) else LINES_MAX
    count = text.count("\n")
    if count > budget:
        yield 1, f"{count} lines; at most {budget}: is it one room or several?"
    first = lines[0] if lines else ""
    if not first.startswith(("//", "#pragma")):
        yield 1, "opens without a comment that says what the file is for"
    if path.endswith(".h") and "#pragma once" not in text:
        yield 1, "header without #pragma once"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX and "http" not in line and 'R"' not in line and not path.endswith(".proto"):
            yield number, f"{len(line)} columns; at most {COLUMNS_MAX}"
        if "\t" in line:
            yield number, "tab"
        for pattern, allowed, instead in BANNED:
            if re.search(pattern, line) and not any(part in "/" + path for part in allowed):
                yield number, f"'{re.search(pattern, line).group(0)}' is banned: {instead}"
    room = room_of(path)
    if room and not is_test(path):
        for number, line in enumerate(lines, 1):
            match = re.match(r'#include "([^"]+)"', line)
            other = room_of(match.group(1)) if match else None
            if other and other != room and other not in ARROWS[room]:
                yield number, f"{room} must not include {other}: {match.group(1)}"


def check_markdown(path, text, exists):
    """Yields (line number, message) for links to files that are not there."""
    for number, line in enumerate(text.split("\n"), 1):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
            if "://" not in target and not exists(path, target):
                yield number, f"link to {target}, which does not exist"


def check_any(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        if MACHINE_PATH.search(line) and not path.startswith("tests/style/"):
            yield number, "names a folder of one machine"


def check_tree(root):
    files = subprocess.run(["git", "-C", root, "ls-files", "-z"], check=True, capture_output=True,
                           text=True).stdout.split("\0")
    exists = lambda page, target: (root / Path(page).parent / target).exists()
    for path in filter(None, files):
        full = root / path
        if not full.is_file() or full.stat().st_size > 1_000_000 or "/data/" in "/" + path:
            continue
        try:
            text = full.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path.startswith("models/") and not path.endswith(".md"):
            continue
        found = list(check_any(path, text))
        if path.endswith(SOURCE):
            found += check_source(path, text)
        if path.endswith(".md"):
            found += check_markdown(path, text, exists)
        for number, message in found:
            yield f"{path}:{number}: {message}"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()
    violations = list(check_tree(root))
    for violation in violations:
        print(violation)
    print(f"{len(violations)} style violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

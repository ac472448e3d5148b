#!/usr/bin/env python3
"""Each rule of check_style.py must fire on a file that breaks it, and stay silent on one that does not."""

import unittest

import check_style


def source(path, text):
    return [message for _, message in check_style.check_source(path, text)]


class CheckStyle(unittest.TestCase):
    def test_good_file(self):
        self.assertEqual(source("base/x.cc", '// Says what it is.\n#include "base/x.h"\n'), [])

    def test_head_comment(self):
        self.assertIn("opens without", source("base/x.cc", "int x;\n")[0])

    def test_columns_and_tab(self):
        messages = source("base/x.cc", "// X.\n" + "x" * 101 + "\n\tint x;\n")
        self.assertEqual(messages, ["101 columns; at most 100", "tab"])

    def test_budget(self):
        self.assertIn("501 lines", source("base/x.cc", "// X.\n" + "\n" * 499 + "\n")[0])
        self.assertEqual(source("base/x_test.cc", "// X.\n" + "\n" * 600), [])

    def test_banned(self):
        self.assertIn("finish it", source("base/x.cc", "// X. TODO later\n")[0])
        self.assertIn("seeded", source("base/x.cc", "// X.\nint x = rand();\n")[0])
        self.assertEqual(source("client/main.cc", "// X.\nstd::cout << 1;\n"), [])

    def test_arrows(self):
        self.assertIn("must not include", source("server/x.cc", '// X.\n#include "client/y.h"\n')[0])
        self.assertIn("must not include",
                      source("workers/engine/x.cc", '// X.\n#include "proto/errors.h"\n')[0])
        self.assertEqual(source("workers/engine/x.cc", '// X.\n#include "kernels/table.h"\n'), [])

    def test_links(self):
        exists = lambda page, target: target == "there.md"
        found = list(check_style.check_markdown("a.md", "[x](there.md) [y](gone.md) [z](https://e.org)", exists))
        self.assertEqual([message for _, message in found], ["link to gone.md, which does not exist"])

    def test_machine_paths(self):
        self.assertEqual(len(list(check_style.check_any("a.md", "see /wo" + "rk/main"))), 1)
        self.assertEqual(list(check_style.check_any("a.md", "see $HOME/work/main and /srv/models")), [])


if __name__ == "__main__":
    unittest.main()

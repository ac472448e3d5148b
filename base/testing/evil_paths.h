// Names of files as attackers write them, for the tests of everything that takes such a name from
// somebody else: a manifest, an engine, a Hub, an index.
#pragma once

#include <string>
#include <vector>

namespace quantd {

// To be refused: they lead out of their folder, or would be read differently by somebody else.
inline std::vector<std::string> EvilPaths() {
  std::string deep;
  for (int i = 0; i < 600; ++i) deep += "a/";
  return {
      "",
      "/",
      ".",
      "..",
      "/etc/passwd",
      "//etc/passwd",
      "/a/",
      "../x",
      "../../../../../../../../etc/passwd",
      "a/..",
      "a/../b",
      "a/../../b",
      "a/b/../../../c",
      "./a",
      "a/.",
      "a/./b",
      "a/",
      "a//b",
      "....//x",
      "..\\x",
      "a\\..\\..\\b",
      "C:\\x",
      "\\\\host\\share\\x",
      "a\nb",
      "a\rb",
      "a\tb",
      "\x01",
      "\x1b[2J",
      "a\x7f",
      std::string("a\0b", 3),
      std::string("..\0/x", 5),
      std::string("\0", 1),
      "\x80",
      "a\xff",
      "\xc0\xae\xc0\xae/x",          // Overlong dots.
      "\xe0\x80\xae\xe0\x80\xae/x",  // Longer ones.
      "..\xc0\xaf..",                // An overlong slash.
      "\xed\xa0\x80",                // Half a pair.
      "\xf4\x90\x80\x80",            // Beyond Unicode.
      std::string(256, 'a'),
      std::string(4096, 'a'),
      std::string(300, 'a') + "/b",
      deep + "a",
  };
}

// Names like any other here, whatever they mean elsewhere: they may be taken, and then lie where
// they say, below their folder.
inline std::vector<std::string> OddPaths() {
  return {
      "%2e%2e/x",
      "%2e%2e%2fx",
      "..%2fx",
      "..%5cx",
      "%00",
      "\xef\xbc\x8e\xef\xbc\x8e/x",  // Dots of full width.
      "\xe2\x80\xa5/x",              // Two dots in one.
      "a\xe2\x88\x95..\xe2\x88\x95"
      "b",  // Division slashes.
      "\xe2\x80\xae"
      "txt.evil",  // Right to left.
      "...",
      "..a",
      "a..",
      "a.",
      "a ",
      " a",
      "~/x",
      "~root/x",
      "$HOME/x",
      "${PATH}",
      "`id`",
      "$(id)",
      "|id",
      ";id",
      "-rf",
      "--help",
      "*",
      "a:b",
      "CON",
      "nul.txt",
      "COM1/x",
      "a?b=c#d",
      "'\"<>&",
      std::string(240, 'a'),
  };
}

}  // namespace quantd

// tokenizer_dump FOLDER < texts > ids: one JSON value a line. A string is encoded with and without
// special tokens and decoded again; {"decode": [ids]} is decoded only. What the conformance test
// compares with the reference library; "bench" as a second argument prints MB/s of processor time.
#include <ctime>
#include <iostream>
#include <string>

#include "nlohmann/json.hpp"
#include "workers/engine/tokenizer/tokenizer.h"

namespace {

nlohmann::json Answer(const quantd::Tokenizer& tokenizer, const nlohmann::json& question) {
  if (question.is_object()) {
    const auto ids = question.at("decode").get<std::vector<int32_t>>();
    return {{"text", tokenizer.Decode(ids)},
            {"plain", tokenizer.Decode(ids, {.skip_special_tokens = true})}};
  }
  const std::string text = question.get<std::string>();
  auto ids = tokenizer.Encode(text);
  auto bare = tokenizer.Encode(text, {.add_special_tokens = false});
  if (!ids.ok()) return {{"error", std::string(ids.status().message())}};
  return {{"ids", *ids},
          {"bare", *bare},
          {"text", tokenizer.Decode(*ids)},
          {"plain", tokenizer.Decode(*ids, {.skip_special_tokens = true})}};
}

int Bench(const quantd::Tokenizer& tokenizer, const std::string& text) {
  for (int round = 0; round < 3; ++round) {
    const std::clock_t start = std::clock();
    auto ids = tokenizer.Encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    if (!ids.ok()) {
      std::cerr << ids.status() << "\n";
      return 1;
    }
    std::cerr << ids->size() << " tokens, " << text.size() / seconds / 1e6
              << " MB/s of processor time\n";
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: tokenizer_dump FOLDER [bench] < texts\n";
    return 2;
  }
  auto tokenizer = quantd::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  if (argc > 2) {
    const std::string text(std::istreambuf_iterator<char>(std::cin), {});
    return Bench(**tokenizer, text);
  }
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    const nlohmann::json answer = Answer(**tokenizer, nlohmann::json::parse(line));
    std::fputs((answer.dump() + "\n").c_str(), stdout);
  }
  return 0;
}

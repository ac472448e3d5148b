// Stands in for quant-engine in the agent's tests: keeps its side of the contract, or breaks it in
// a chosen way. The behaviour is the spec's displayName, a word with arguments behind colons
// ("checkpoint:8:50"); an unknown word is exit code 2.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::atomic<bool> g_stop{false};

struct Run {
  std::string spec, inputs, output, work, cache;
  int events_fd = -1;
  std::vector<std::string> arguments;  // Of the behaviour.

  void Emit(const json& event) const { Raw(event.dump() + "\n"); }
  void Raw(const std::string& text) const {
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t wrote = write(events_fd, text.data() + done, text.size() - done);
      if (wrote < 0) _exit(4);
      done += static_cast<size_t>(wrote);
    }
  }
  void Write(const std::string& path, const std::string& bytes) const {
    fs::create_directories(fs::path(path).parent_path());
    std::ofstream(path + ".new", std::ios::binary) << bytes;
    fs::rename(path + ".new", path);
  }
  void Artifact(const std::string& path, const std::string& role, const std::string& bytes) const {
    Write(output + "/" + path, bytes);
    Emit({{"artifact", {{"file", {{"path", path}, {"role", role}}}}}});
  }
  int Result(const json& values) const {
    Emit({{"result", {{"values", values}}}});
    return 0;
  }
  int Fail(const std::string& error_class, const std::string& message) const {
    Emit({{"failure", {{"errorClass", error_class}, {"code", 3}, {"message", message}}}});
    return error_class == "ERROR_CLASS_CANCELLED" ? 3 : 1;
  }
  int Argument(size_t index, int fallback) const {
    return index < arguments.size() ? std::atoi(arguments[index].c_str()) : fallback;
  }
};

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void SleepMs(int ms) { usleep(static_cast<useconds_t>(ms) * 1000); }

int Success(const Run& run) {
  printf("starting\n");
  run.Emit({{"progress", {{"phase", "quantize"}, {"done", 1}, {"total", 2}, {"unit", "block"}}}});
  std::string weights;
  for (int i = 0; i < 300'000; ++i) weights += static_cast<char>(i * 2'654'435'761u >> 13);
  run.Artifact("model.safetensors", "model", weights);
  run.Artifact("sub/quantization_metadata.json", "metadata", "{}");
  run.Artifact("seen_inputs.json", "data", ReadAll(run.inputs));
  run.Emit({{"metric", {{"name", "perplexity"}, {"value", 12.5}}}});
  run.Emit({{"progress", {{"phase", "quantize"}, {"done", 2}, {"total", 2}, {"unit", "block"}}}});
  printf("done\n");
  return run.Result({{"answer", 42}});
}

int Hang(const Run& run) {
  printf("hanging\n");
  fflush(stdout);
  while (!g_stop) SleepMs(5);
  return run.Fail("ERROR_CLASS_CANCELLED", "stopped as asked");
}

int Stubborn(const Run& run) {
  signal(SIGTERM, SIG_IGN);
  printf("deaf\n");
  fflush(stdout);
  while (true) SleepMs(1000);
}

int Crash(const Run& run) {
  for (int i = 0; i < 60; ++i) fprintf(stderr, "last words %d\n", i);
  raise(run.Argument(0, SIGSEGV));
  return 0;
}

int Flood(const Run& run) {
  const int lines = run.Argument(0, 50'000);
  for (int i = 0; i < lines; ++i) {
    printf("line %d of a long and talkative log, which never ends, or so it seems\n", i);
    run.Emit({{"progress", {{"phase", "load"}, {"done", i}, {"total", lines}, {"unit", "byte"}}}});
  }
  return run.Result(json::object());
}

int OddLines(const Run& run) {
  printf("%s\n", std::string(100'000, 'x').c_str());
  printf("bad \xff\xfe bytes\n");
  printf("no end");
  return run.Result(json::object());
}

int BadEvents(const Run& run) {
  run.Raw("{\"progress\": {\"phase\": \"lo\n");
  run.Raw("not json at all\n");
  run.Raw("{\"state\": {\"state\": \"JOB_STATE_SUCCEEDED\"}}\n");
  run.Raw("{\"metric\": {\"name\": \"ok\", \"value\": 1, \"fromTheFuture\": true}}\n");
  run.Raw("{\"log\": {\"text\": \"" + std::string(2'000'000, 'y') + "\"}}\n");
  return run.Result({{"fine", true}});
}

// A daemon that has left the group, the session and its parent, and holds the pipes.
int Grandchild(const Run& run) {
  if (fork() == 0) {
    setsid();
    if (fork() == 0) {
      run.Write(run.cache + "/grandchild.pid", std::to_string(getpid()));
      while (true) SleepMs(1000);
    }
    _exit(0);
  }
  while (!fs::exists(run.cache + "/grandchild.pid")) SleepMs(5);
  return run.Result(json::object());
}

int Checkpoint(const Run& run) {
  const int blocks = run.Argument(0, 8);
  const int delay_ms = run.Argument(1, 50);
  int first = 0;
  while (fs::exists(run.work + "/block" + std::to_string(first))) ++first;
  printf("resumes at %d\n", first);
  fflush(stdout);
  for (int block = first; block < blocks; ++block) {
    if (g_stop) return run.Fail("ERROR_CLASS_CANCELLED", "stopped between blocks");
    SleepMs(delay_ms);
    const std::string name = "block" + std::to_string(block);
    run.Write(run.work + "/" + name, std::string(10'000, static_cast<char>('a' + block)));
    run.Write(run.work + "/state.json", "{\"blocks\":" + std::to_string(block + 1) + "}");
    run.Emit(
        {{"checkpoint",
          {{"blocksDone", block + 1}, {"blocksTotal", blocks}, {"paths", {name, "state.json"}}}}});
  }
  std::string all;
  for (int block = 0; block < blocks; ++block) {
    all += ReadAll(run.work + "/block" + std::to_string(block));
  }
  run.Artifact("model.safetensors", "model", all);
  return run.Result({{"resumed_from", first}});
}

int Outside(const Run& run) {
  run.Emit({{"artifact", {{"file", {{"path", "../../../etc/passwd"}, {"role", "model"}}}}}});
  return run.Result(json::object());
}

int Symlink(const Run& run) {
  fs::create_symlink("/etc/passwd", run.output + "/model.safetensors");
  run.Emit({{"artifact", {{"file", {{"path", "model.safetensors"}, {"role", "model"}}}}}});
  return run.Result(json::object());
}

int Descriptors(const Run& run) {
  json open = json::array();
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    open.push_back(entry.path().filename().string() + " " +
                   fs::read_symlink(entry.path()).string());
  }
  return run.Result({{"open", open}, {"group_is_own", getpgrp() == getpid()}});
}

int RunJob(Run run) {
  const json spec = json::parse(ReadAll(run.spec));
  std::stringstream words(spec.value("displayName", ""));
  std::string behaviour, argument;
  std::getline(words, behaviour, ':');
  while (std::getline(words, argument, ':')) run.arguments.push_back(argument);
  const std::map<std::string, std::function<int(const Run&)>> behaviours = {
      {"success", Success},
      {"hang", Hang},
      {"stubborn", Stubborn},
      {"crash", Crash},
      {"flood", Flood},
      {"odd_lines", OddLines},
      {"bad_events", BadEvents},
      {"grandchild", Grandchild},
      {"checkpoint", Checkpoint},
      {"outside", Outside},
      {"symlink", Symlink},
      {"descriptors", Descriptors},
      {"silent", [](const Run&) { return 0; }},
      {"fail", [](const Run& r) { return r.Fail("ERROR_CLASS_BAD_INPUT", "no such tensor"); }},
  };
  const auto found = behaviours.find(behaviour);
  return found == behaviours.end() ? 2 : found->second(run);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "capabilities") {
    puts(R"({"engineVersion": "fake-1", "kinds": ["quantize", "evaluate"],
             "methods": [{"name": "rtn", "summary": "rounds", "formats": ["gptq"]}],
             "tasks": [{"name": "arc", "summary": "multiple choice"}],
             "devices": [{"type": "cpu", "name": "fake", "memoryBytes": "1073741824"}]})");
    return 0;
  }
  if (command == "canary") {
    // Below the data folder, where the agent runs it.
    return fs::exists("canary_is_dead") ? 1 : 0;
  }
  if (command != "run") return 2;
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop = true; };
  sigaction(SIGTERM, &action, nullptr);
  Run run;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const std::string value = argv[i + 1];
    if (flag == "--spec") run.spec = value;
    if (flag == "--inputs") run.inputs = value;
    if (flag == "--output") run.output = value;
    if (flag == "--work") run.work = value;
    if (flag == "--cache") run.cache = value;
    if (flag == "--events-fd") run.events_fd = std::atoi(value.c_str());
  }
  const int code = RunJob(run);
  fflush(stdout);
  _exit(code);
}

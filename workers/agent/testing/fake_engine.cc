// Stands in for quant-engine in the agent's tests: keeps its side of the contract, or breaks it in
// a chosen way. The behaviour is the spec's displayName, a word with arguments behind colons
// ("checkpoint:8:50"); an unknown word is exit code 2.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
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

// 0, or the errno of what was tried.
int Tried(bool succeeded) { return succeeded ? 0 : errno == 0 ? -1 : errno; }

int TryOpen(const std::string& path, int flags) {
  errno = 0;
  const int fd = open(path.c_str(), flags | O_CLOEXEC, 0600);
  const int tried = Tried(fd >= 0);
  char byte = 0;
  const int read_error =
      fd >= 0 && (flags & O_ACCMODE) == O_RDONLY && read(fd, &byte, 1) < 0 ? errno : 0;
  if (fd >= 0) close(fd);
  return tried != 0 ? tried : read_error;
}

int TryProgram(const std::string& path) {
  const pid_t child = fork();
  if (child == 0) {
    execl(path.c_str(), path.c_str(), nullptr);
    _exit(errno == EACCES ? 13 : 99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// An engine that a poisoned checkpoint has taken over: what can it reach?
int Escape(const Run& run) {
  const std::string data = run.cache + "/..";
  const std::string outside = data + "/../quantd_escaped_" + std::to_string(getppid());
  json tried = json::object();
  errno = 0;
  const int tcp = socket(AF_INET, SOCK_STREAM, 0);
  tried["internet"] = Tried(tcp >= 0);
  errno = 0;
  const int local = socket(AF_UNIX, SOCK_STREAM, 0);
  tried["local_socket"] = Tried(local >= 0);
  tried["read_worker_file"] = TryOpen(data + "/secret", O_RDONLY);
  tried["write_worker_file"] = TryOpen(data + "/secret", O_WRONLY);
  tried["write_own_spec"] = TryOpen(run.spec, O_WRONLY);
  tried["create_outside"] = TryOpen(outside, O_WRONLY | O_CREAT);
  unlink(outside.c_str());
  tried["read_workers_environment"] =
      TryOpen("/proc/" + std::to_string(getppid()) + "/environ", O_RDONLY);
  char ours = 0;
  iovec local_part = {.iov_base = &ours, .iov_len = 1};
  iovec remote_part = {.iov_base = &g_stop, .iov_len = 1};
  errno = 0;
  tried["read_workers_memory"] =
      Tried(process_vm_readv(getppid(), &local_part, 1, &remote_part, 1, 0) == 1);
  errno = 0;
  tried["signal_worker"] = Tried(kill(getppid(), 0) == 0);
  errno = 0;
  tried["new_namespace"] = Tried(syscall(SYS_unshare, CLONE_NEWUSER) == 0);
  char parameters[256] = {};
  errno = 0;
  tried["io_uring"] = Tried(syscall(SYS_io_uring_setup, 1, parameters) >= 0);
  fs::copy_file("/usr/bin/true", run.work + "/dropped");
  fs::permissions(run.work + "/dropped", fs::perms::owner_all);
  tried["run_dropped_program"] = TryProgram(run.work + "/dropped");
  // What an honest engine does.
  json honest = json::object();
  honest["read_spec"] = TryOpen(run.spec, O_RDONLY);
  honest["write_output"] = TryOpen(run.output + "/file", O_WRONLY | O_CREAT);
  honest["write_cache"] = TryOpen(run.cache + "/file", O_WRONLY | O_CREAT);
  honest["run_program"] = TryProgram("/usr/bin/true");
  honest["random"] = TryOpen("/dev/urandom", O_RDONLY);
  honest["rename"] = Tried(rename((run.output + "/file").c_str(), (run.work + "/f").c_str()) == 0);
  bool threads = false;
  std::thread([&] { threads = true; }).join();
  honest["threads"] = threads ? 0 : 1;
  const char* token = std::getenv("QUANTD_TOKEN");
  const char* secret = std::getenv("HF_TOKEN");
  printf("my secret is %s\n", secret == nullptr ? "none" : secret);
  return run.Result({{"tried", tried},
                     {"honest", honest},
                     {"token", token == nullptr ? "" : token},
                     {"secret_bytes", secret == nullptr ? 0 : strlen(secret)},
                     {"secret", secret == nullptr ? "" : secret},
                     {"uid", getuid()}});
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
      {"escape", Escape},
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

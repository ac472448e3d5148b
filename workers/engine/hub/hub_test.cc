// The Hub client against a real HTTP server on loopback that behaves like the Hub, errors included.
#include "workers/engine/hub/hub.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/http.h"
#include "base/sha256.h"
#include "base/testing/evil_paths.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kCommit[] = "0123456789abcdef0123456789abcdef01234567";
constexpr char kToken[] = "hf_secret";

struct Request {
  std::string method;
  std::string path;
  std::map<std::string, std::string> headers = {};
};

struct Answer {
  int status = 200;
  std::map<std::string, std::string> headers = {};
  std::string body = {};
  size_t cut_at = std::string::npos;  // Closes the connection after so many bytes of the body.
};

// Answers every request through one function, a thread a connection.
class HttpServer {
 public:
  using Handler = std::function<Answer(const Request&)>;
  explicit HttpServer(Handler handler) : handler_(std::move(handler)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 64), 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~HttpServer() {
    stopping_ = true;
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    for (std::thread& thread : connections_) thread.join();
    close(listener_);
  }
  std::string Url() const { return absl::StrCat("http://127.0.0.1:", port_); }
  std::vector<Request> Requests() {
    std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }
  int Count(absl::string_view method, absl::string_view path) {
    int count = 0;
    for (const Request& request : Requests()) {
      count += request.method == method && absl::StrContains(request.path, path);
    }
    return count;
  }

 private:
  void Serve() {
    for (;;) {
      const int client = accept(listener_, nullptr, nullptr);
      if (client < 0) return;
      connections_.emplace_back([this, client] {
        Handle(client);
        close(client);
      });
    }
  }

  void Handle(int client) {
    std::string text;
    char buffer[4096];
    while (text.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = recv(client, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      text.append(buffer, got);
    }
    Request request;
    const std::vector<std::string> lines = absl::StrSplit(text, "\r\n");
    const std::vector<std::string> words = absl::StrSplit(lines[0], ' ');
    request.method = words[0];
    request.path = words[1];
    for (size_t i = 1; i < lines.size(); ++i) {
      const std::pair<std::string, std::string> header =
          absl::StrSplit(lines[i], absl::MaxSplits(": ", 1));
      request.headers[absl::AsciiStrToLower(header.first)] = header.second;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(request);
    }
    Answer answer = handler_(request);
    std::string out = absl::StrCat("HTTP/1.1 ", answer.status, " X\r\nConnection: close\r\n");
    answer.headers.emplace("Content-Length", absl::StrCat(answer.body.size()));
    for (const auto& [name, value] : answer.headers) {
      absl::StrAppend(&out, name, ": ", value, "\r\n");
    }
    out += "\r\n";
    if (request.method != "HEAD") out += answer.body.substr(0, answer.cut_at);
    for (size_t sent = 0; sent < out.size();) {
      const ssize_t done = send(client, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
      if (done <= 0) return;
      sent += done;
    }
    // The client reads to the end before the connection goes.
    shutdown(client, SHUT_WR);
    while (recv(client, buffer, sizeof(buffer), 0) > 0) {
    }
  }

  const Handler handler_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  std::vector<std::thread> connections_;
  std::mutex mutex_;
  std::vector<Request> requests_;
};

std::string GitSha1(const std::string& bytes) {
  const std::string blob = absl::StrCat("blob ", bytes.size(), absl::string_view("\0", 1), bytes);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(blob.data(), blob.size(), digest, &size, EVP_sha1(), nullptr);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), size));
}

// Serves one repository, large files from a second host.
class HubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/quantd_hub_XXXXXX";
    folder_ = mkdtemp(pattern);
    weights_.resize(300'000);
    for (size_t i = 0; i < weights_.size(); ++i) weights_[i] = static_cast<char>(i * 31 + i / 256);
    files_ = {{"config.json", R"({"model_type": "llama"})"},
              {"tokenizer.json", "{}"},
              {"model.safetensors", weights_},
              {"pytorch_model.bin", "evil"},
              {"modeling.py", "evil"},
              {"README.md", "words"},
              {"original/model.safetensors", "other"}};
    storage_ = std::make_unique<HttpServer>([this](const Request& r) { return Storage(r); });
    hub_ = std::make_unique<HttpServer>([this](const Request& r) { return Hub(r); });
    options_.endpoint = hub_->Url();
    options_.cache_folder = folder_ + "/hub";
    options_.token = kToken;
    options_.sleep = [this](absl::Duration pause) {
      std::lock_guard<std::mutex> lock(mutex_);
      pauses_.push_back(pause);
    };
  }
  void TearDown() override {
    hub_.reset();
    storage_.reset();
    std::filesystem::remove_all(folder_);
  }

  // What a test wants to go wrong; an answer with status 0 lets things go right.
  std::function<Answer(const Request&)> hub_fault_ = [](const Request&) {
    return Answer{.status = 0};
  };
  std::function<Answer(const Request&)> storage_fault_ = hub_fault_;

  Answer Hub(const Request& request) {
    if (Answer fault = hub_fault_(request); fault.status != 0) return fault;
    if (request.path == "/api/models/org/name/revision/main" ||
        request.path == "/api/datasets/Salesforce/wikitext/revision/main") {
      std::vector<std::string> siblings;
      for (const auto& [name, bytes] : files_) {
        siblings.push_back(absl::StrCat(R"({"rfilename": ")", name, R"("})"));
      }
      return {.body = absl::StrCat(R"({"sha": ")", kCommit, R"(", "siblings": [)",
                                   absl::StrJoin(siblings, ","), "]}")};
    }
    const bool dataset = absl::StartsWith(request.path, "/datasets/");
    const std::string prefix = absl::StrCat(dataset ? "/datasets/Salesforce/wikitext" : "/org/name",
                                            "/resolve/", kCommit, "/");
    if (absl::StartsWith(request.path, prefix)) {
      const std::string name = request.path.substr(prefix.size());
      auto file = files_.find(name);
      if (file == files_.end())
        return {.status = 404, .headers = {{"X-Error-Code", "EntryNotFound"}}};
      if (absl::EndsWith(name, ".safetensors")) {
        return {.status = 302,
                .headers = {{"Location", storage_->Url() + "/blob/" + name + "?signature=abc"},
                            {"X-Linked-Etag", "\"" + Sha256Hex(file->second) + "\""},
                            {"X-Linked-Size", absl::StrCat(file->second.size())}}};
      }
      return {.headers = {{"ETag", "\"" + GitSha1(file->second) + "\""}}, .body = file->second};
    }
    return {.status = 404, .headers = {{"X-Error-Code", "RepoNotFound"}}};
  }

  Answer Storage(const Request& request) {
    if (Answer fault = storage_fault_(request); fault.status != 0) return fault;
    return Bytes(request, weights_);
  }

  // `bytes`, or the range of them that the request asks for.
  static Answer Bytes(const Request& request, const std::string& bytes) {
    auto range = request.headers.find("range");
    if (range == request.headers.end()) return {.body = bytes};
    int64_t begin = 0;
    EXPECT_TRUE(absl::SimpleAtoi(range->second.substr(6, range->second.size() - 7), &begin));
    return {.status = 206,
            .headers = {{"Content-Range",
                         absl::StrCat("bytes ", begin, "-", bytes.size() - 1, "/", bytes.size())}},
            .body = bytes.substr(begin)};
  }

  absl::StatusOr<HubSnapshot> Fetch(const std::string& name = "org/name") {
    auto model = ParseHubModel(name);
    if (!model.ok()) return model.status();
    return FetchModel(*model, options_);
  }
  std::string Repository() const { return folder_ + "/hub/models--org--name"; }

  std::string folder_;
  std::string weights_;
  std::map<std::string, std::string> files_;
  std::unique_ptr<HttpServer> storage_;
  std::unique_ptr<HttpServer> hub_;
  HubOptions options_;
  std::mutex mutex_;
  std::vector<absl::Duration> pauses_;
};

TEST_F(HubTest, DownloadsWhatIsNeededIntoTheStandardLayout) {
  int64_t done = 0, total = 0;
  options_.progress = [&](const HubProgress& progress) {
    done = progress.done_bytes;
    total = progress.total_bytes;
  };
  auto snapshot = Fetch();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(snapshot->commit, kCommit);
  EXPECT_EQ(snapshot->folder, Repository() + "/snapshots/" + kCommit);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(snapshot->folder)) {
    names.push_back(entry.path().filename());
  }
  EXPECT_THAT(
      names, ::testing::UnorderedElementsAre("config.json", "tokenizer.json", "model.safetensors"));
  EXPECT_EQ(*ReadFile(snapshot->folder + "/model.safetensors"), weights_);
  EXPECT_EQ(std::filesystem::read_symlink(snapshot->folder + "/model.safetensors"),
            "../../blobs/" + Sha256Hex(weights_));
  EXPECT_EQ(std::filesystem::read_symlink(snapshot->folder + "/config.json"),
            "../../blobs/" + GitSha1(files_["config.json"]));
  EXPECT_EQ(*ReadFile(Repository() + "/refs/main"), kCommit);
  EXPECT_EQ(done, total);
  EXPECT_EQ(total, static_cast<int64_t>(weights_.size() + files_["config.json"].size() + 2));
}

TEST_F(HubTest, TheTokenGoesToTheHubAndNowhereElse) {
  ASSERT_TRUE(Fetch().ok());
  for (const Request& request : hub_->Requests()) {
    EXPECT_EQ(request.headers.at("authorization"), absl::StrCat("Bearer ", kToken)) << request.path;
  }
  ASSERT_FALSE(storage_->Requests().empty());
  for (const Request& request : storage_->Requests()) {
    EXPECT_FALSE(request.headers.contains("authorization"));
    EXPECT_THAT(request.path, HasSubstr("signature=abc"));
  }
}

TEST_F(HubTest, TheSecondTimeNothingIsDownloaded) {
  ASSERT_TRUE(Fetch().ok());
  const size_t before = hub_->Requests().size();
  ASSERT_TRUE(Fetch().ok());
  EXPECT_EQ(hub_->Requests().size(), before + 1);  // The list of files.
  hub_.reset();                                    // Nobody answers now.
  auto cached = Fetch();
  ASSERT_TRUE(cached.ok()) << cached.status();
  EXPECT_EQ(cached->commit, kCommit);
}

TEST_F(HubTest, OfflineTakesTheCacheOrNothing) {
  options_.offline = true;
  EXPECT_TRUE(absl::IsNotFound(Fetch().status())) << Fetch().status();
  options_.offline = false;
  ASSERT_TRUE(Fetch().ok());
  options_.offline = true;
  const size_t before = hub_->Requests().size();
  EXPECT_TRUE(Fetch().ok());
  EXPECT_TRUE(Fetch(absl::StrCat("org/name@", kCommit)).ok());
  EXPECT_EQ(hub_->Requests().size(), before);
  std::filesystem::remove(Repository() + "/snapshots/" + kCommit + "/model.safetensors");
  EXPECT_THAT(std::string(Fetch().status().message()), HasSubstr("no safetensors weights"));
}

TEST_F(HubTest, ACutConnectionIsResumedWhereItBroke) {
  std::atomic<int> requests = 0;
  storage_fault_ = [&](const Request& request) {
    Answer answer = Bytes(request, weights_);
    if (++requests <= 3) answer.cut_at = 50'000;
    return answer;
  };
  auto snapshot = Fetch();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(*ReadFile(snapshot->folder + "/model.safetensors"), weights_);
  std::vector<std::string> ranges;
  for (const Request& request : storage_->Requests()) {
    auto range = request.headers.find("range");
    ranges.push_back(range == request.headers.end() ? "" : range->second);
  }
  EXPECT_THAT(ranges, ElementsAre("", "bytes=50000-", "bytes=100000-", "bytes=150000-"));
}

TEST_F(HubTest, AnIncompleteFileOfAnEarlierRunIsResumed) {
  std::filesystem::create_directories(Repository() + "/blobs");
  ASSERT_TRUE(WriteFileAtomic(Repository() + "/blobs/" + Sha256Hex(weights_) + ".incomplete",
                              weights_.substr(0, 123))
                  .ok());
  ASSERT_TRUE(Fetch().ok());
  EXPECT_EQ(storage_->Requests().at(0).headers["range"], "bytes=123-");
}

TEST_F(HubTest, AForeignIncompleteFileIsThrownAwayAndFetchedAgain) {
  std::filesystem::create_directories(Repository() + "/blobs");
  ASSERT_TRUE(WriteFileAtomic(Repository() + "/blobs/" + Sha256Hex(weights_) + ".incomplete",
                              "not the beginning")
                  .ok());
  auto snapshot = Fetch();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(*ReadFile(snapshot->folder + "/model.safetensors"), weights_);
}

TEST_F(HubTest, AServerWithoutRangesSendsAllAgain) {
  std::atomic<int> requests = 0;
  storage_fault_ = [&](const Request&) {
    return Answer{.body = weights_, .cut_at = ++requests == 1 ? 1000 : std::string::npos};
  };
  auto snapshot = Fetch();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(*ReadFile(snapshot->folder + "/model.safetensors"), weights_);
}

TEST_F(HubTest, WrongBytesAreRefused) {
  std::string wrong = weights_;
  wrong[77] ^= 1;
  storage_fault_ = [&](const Request& request) { return Bytes(request, wrong); };
  const absl::Status status = Fetch().status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  EXPECT_THAT(std::string(status.message()), HasSubstr(Sha256Hex(weights_)));
  EXPECT_FALSE(FileExists(Repository() + "/blobs/" + Sha256Hex(weights_)));
  EXPECT_FALSE(FileExists(Repository() + "/blobs/" + Sha256Hex(weights_) + ".incomplete"));
  EXPECT_EQ(storage_->Requests().size(), 2u);
}

TEST_F(HubTest, WrongBytesOfASmallFileAreRefused) {
  hub_fault_ = [&](const Request& request) {
    if (request.method == "GET" && absl::EndsWith(request.path, "tokenizer.json")) {
      return Answer{.body = "[]"};
    }
    return Answer{.status = 0};
  };
  EXPECT_TRUE(absl::IsDataLoss(Fetch().status())) << Fetch().status();
}

TEST_F(HubTest, TooManyAndTooFewBytesAreRefused) {
  storage_fault_ = [&](const Request& request) { return Bytes(request, weights_ + "more"); };
  EXPECT_TRUE(absl::IsDataLoss(Fetch().status())) << Fetch().status();
  storage_fault_ = [&](const Request& request) { return Answer{.body = weights_.substr(0, 9)}; };
  EXPECT_TRUE(absl::IsUnavailable(Fetch().status())) << Fetch().status();
}

TEST_F(HubTest, WaitsAsLongAsTheServerAsks) {
  std::atomic<int> requests = 0;
  hub_fault_ = [&](const Request& request) {
    if (!absl::StartsWith(request.path, "/api/") || ++requests > 2) return Answer{.status = 0};
    return Answer{.status = 429, .headers = {{"Retry-After", requests == 1 ? "17" : "100000"}}};
  };
  ASSERT_TRUE(Fetch().ok());
  EXPECT_THAT(pauses_, ElementsAre(absl::Seconds(17), absl::Minutes(10)));
}

TEST_F(HubTest, GivesUpOnAServerThatStaysBroken) {
  hub_fault_ = [&](const Request&) { return Answer{.status = 503}; };
  const absl::Status status = Fetch().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("503"));
  EXPECT_THAT(pauses_,
              ElementsAre(absl::Seconds(1), absl::Seconds(2), absl::Seconds(4), absl::Seconds(8)));
}

struct Refusal {
  int status;
  const char* code;
  absl::StatusCode expected;
  const char* words;
};

TEST_F(HubTest, RefusalsSayWhatToDo) {
  constexpr Refusal kRefusals[] = {
      {401, "GatedRepo", absl::StatusCode::kPermissionDenied, "accept its terms"},
      {403, "GatedRepo", absl::StatusCode::kPermissionDenied, "HF_TOKEN"},
      {403, "", absl::StatusCode::kPermissionDenied, "/org/name"},
      {401, "RepoNotFound", absl::StatusCode::kPermissionDenied, "or it is private"},
      {404, "RepoNotFound", absl::StatusCode::kNotFound, "no repository org/name"},
      {404, "RevisionNotFound", absl::StatusCode::kNotFound, "no revision \"main\""},
      {400, "", absl::StatusCode::kFailedPrecondition, "HTTP 400"},
  };
  for (const Refusal& refusal : kRefusals) {
    hub_fault_ = [&](const Request&) {
      return Answer{.status = refusal.status, .headers = {{"X-Error-Code", refusal.code}}};
    };
    const absl::Status status = Fetch().status();
    EXPECT_EQ(status.code(), refusal.expected) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.words));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr(kToken)));
  }
}

TEST_F(HubTest, AFileThatVanishedIsNamed) {
  hub_fault_ = [&](const Request& request) {
    return absl::EndsWith(request.path, "tokenizer.json")
               ? Answer{.status = 404, .headers = {{"X-Error-Code", "EntryNotFound"}}}
               : Answer{.status = 0};
  };
  EXPECT_THAT(std::string(Fetch().status().message()), HasSubstr("no file tokenizer.json"));
}

TEST_F(HubTest, PicklesAreRefused) {
  files_.erase("model.safetensors");
  const absl::Status status = Fetch().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pytorch_model.bin"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("safetensors"));
}

TEST_F(HubTest, HostileAnswersAreRefused) {
  for (const std::string& name : EvilPaths()) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        SelectFiles({"config.json", "model.safetensors", name}, "org/name").status()))
        << name;
  }
  for (const char* name : {"../../evil.safetensors", "/etc/model.safetensors", "a/../../b", ""}) {
    hub_fault_ = [&](const Request&) {
      return Answer{.body = absl::StrCat(R"({"sha": ")", kCommit, R"(", "siblings": [{"rfilename":
          "config.json"}, {"rfilename": ")",
                                         name, R"("}]})")};
    };
    EXPECT_TRUE(absl::IsInvalidArgument(Fetch().status())) << name << Fetch().status();
  }
  for (const char* body :
       {"", "[]", "{}", "not JSON", R"({"sha": "../../x", "siblings": []})",
        R"({"sha": 1, "siblings": []})",
        R"({"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [1]})"}) {
    hub_fault_ = [&](const Request&) { return Answer{.body = body}; };
    EXPECT_EQ(Fetch().status().code(), absl::StatusCode::kFailedPrecondition) << body;
  }
}

TEST_F(HubTest, AHostileEtagDoesNotLeaveTheFolder) {
  hub_fault_ = [&](const Request& request) {
    if (absl::EndsWith(request.path, "/config.json")) {
      return Answer{.headers = {{"ETag", "\"../../../../evil\""}}, .body = files_["config.json"]};
    }
    return Answer{.status = 0};
  };
  auto snapshot = Fetch();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_THAT(std::filesystem::read_symlink(snapshot->folder + "/config.json").string(),
              Not(HasSubstr("evil")));
}

TEST_F(HubTest, RedirectsEndSomewhere) {
  hub_fault_ = [&](const Request&) {
    return Answer{.status = 307, .headers = {{"Location", "/again"}}};
  };
  EXPECT_THAT(std::string(Fetch().status().message()), HasSubstr("redirects"));
  hub_fault_ = [&](const Request&) {
    return Answer{.status = 307, .headers = {{"Location", "file:///etc/passwd"}}};
  };
  EXPECT_FALSE(Fetch().ok());
}

TEST_F(HubTest, ARenamedRepositoryIsFollowed) {
  hub_fault_ = [&](const Request& request) {
    return absl::StrContains(request.path, "/old/")
               ? Answer{.status = 307,
                        .headers = {{"Location",
                                     absl::StrReplaceAll(request.path, {{"old/one", "org/name"}})}}}
               : Answer{.status = 0};
  };
  auto snapshot = Fetch("old/one");
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
}

TEST_F(HubTest, TooLittleDiskIsSaidBeforeDownloading) {
  hub_fault_ = [&](const Request& request) {
    if (request.method != "HEAD" || !absl::EndsWith(request.path, "model.safetensors")) {
      return Answer{.status = 0};
    }
    return Answer{.headers = {{"X-Linked-Etag", "\"" + std::string(64, 'a') + "\""},
                              {"X-Linked-Size", "1000000000000000000"}}};
  };
  const absl::Status status = Fetch().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("HF_HUB_CACHE"));
  EXPECT_EQ(storage_->Requests().size(), 0u);
  EXPECT_EQ(hub_->Count("GET", "/resolve/"), 0);
}

TEST_F(HubTest, CancelStopsADownload) {
  std::atomic<bool> cancelled = false;
  options_.cancelled = [&] { return cancelled.load(); };
  storage_fault_ = [&](const Request&) {
    cancelled = true;
    return Answer{.body = weights_, .cut_at = 10};
  };
  EXPECT_TRUE(absl::IsCancelled(Fetch().status())) << Fetch().status();
}

TEST_F(HubTest, TwoAtOnceDownloadOnce) {
  absl::StatusOr<HubSnapshot> first, second;
  std::thread other([&] { first = Fetch(); });
  second = Fetch();
  other.join();
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(storage_->Requests().size(), 1u);
}

TEST_F(HubTest, AFileOfADataSetComesByName) {
  const std::string file = "wikitext-2-raw-v1/train-00000-of-00001.parquet";
  files_ = {{file, "PAR1"},
            {"wikitext-2-raw-v1/train-00001-of-00001.txt", "no"},
            {"wikitext-103-raw-v1/train-00000-of-00002.parquet", "too much"}};
  const auto fetch = [&](absl::string_view text) -> absl::StatusOr<std::string> {
    const auto name = ParseHubData(text);
    return name.ok() ? FetchData(*name, options_) : name.status();
  };
  const std::string uri = "hf://datasets/Salesforce/wikitext/wikitext-2-raw-v1/train-*.parquet";
  for (const std::string& text : {std::string("wikitext"), uri}) {
    const auto path = fetch(text);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(*path, absl::StrCat(folder_, "/hub/datasets--Salesforce--wikitext/snapshots/",
                                  kCommit, "/", file));
    EXPECT_EQ(*ReadFile(*path), "PAR1");
  }
  EXPECT_EQ(hub_->Count("GET", "/resolve/"), 1);
  hub_fault_ = [](const Request&) { return Answer{.status = 503}; };
  EXPECT_TRUE(fetch(uri).ok());  // From the cache.
  options_.offline = true;
  EXPECT_TRUE(fetch(uri).ok());
  EXPECT_TRUE(absl::IsNotFound(fetch("c4").status()));
  options_.offline = false;
  hub_fault_ = [](const Request&) { return Answer{.status = 0}; };
  EXPECT_THAT(std::string(fetch(uri + ".zip").status().message()),
              HasSubstr("holds no wikitext-2-raw-v1/train-*.parquet.zip"));
  EXPECT_TRUE(absl::IsInvalidArgument(fetch("hf://datasets/a/--b/c").status()));
}

TEST_F(HubTest, ShardsComeFromTheIndex) {
  files_ = {{"config.json", "{}"},
            {"model.safetensors.index.json",
             R"({"weight_map": {"a": "model-00001-of-00002.safetensors",
                                "b": "model-00002-of-00002.safetensors"}})"},
            {"model-00001-of-00002.safetensors", weights_},
            {"consolidated.safetensors", weights_}};
  const absl::Status status = Fetch().status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("model-00002-of-00002.safetensors"));
  files_["model-00002-of-00002.safetensors"] = weights_;
  auto snapshot = Fetch();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_FALSE(FileExists(snapshot->folder + "/consolidated.safetensors"));
}

TEST(HubModelTest, NamesAreChecked) {
  auto model = ParseHubModel("org/name@refs/pr/1");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->repository, "org/name");
  EXPECT_EQ(model->revision, "refs/pr/1");
  EXPECT_EQ(ParseHubModel("org/name")->revision, "main");
  for (const char* bad :
       {"", "name", "/name", "org/", "org/name/more", "../name", "org/..", "a b/c", "org/name@",
        "org/name@../x", "org/name@/x", "org--x/name", "org/na\nme"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseHubModel(bad).status())) << bad;
  }
}

TEST(HubOptionsTest, TheEnvironmentIsHeeded) {
  char pattern[] = "/tmp/quantd_hub_env_XXXXXX";
  const std::string home = mkdtemp(pattern);
  ASSERT_TRUE(WriteFileAtomic(home + "/token", "hf_from_file\n").ok());
  for (const char* name : {"HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"})
    unsetenv(name);
  setenv("HF_HOME", home.c_str(), 1);
  HubOptions options = HubOptions::FromEnvironment();
  EXPECT_EQ(options.cache_folder, home + "/hub");
  EXPECT_EQ(options.token, "hf_from_file");
  EXPECT_THAT(options.endpoint, HasSubstr("https://"));
  EXPECT_FALSE(options.offline);
  setenv("HF_TOKEN", " hf_direct ", 1);
  setenv("HF_HUB_CACHE", "/elsewhere", 1);
  setenv("HF_HUB_OFFLINE", "1", 1);
  setenv("HF_ENDPOINT", "http://mirror/", 1);
  options = HubOptions::FromEnvironment();
  EXPECT_EQ(options.token, "hf_direct");
  EXPECT_EQ(options.cache_folder, "/elsewhere");
  EXPECT_EQ(options.endpoint, "http://mirror");
  EXPECT_TRUE(options.offline);
  std::filesystem::remove_all(home);
}

}  // namespace
}  // namespace quantd

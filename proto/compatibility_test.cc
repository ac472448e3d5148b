// Programs of different versions talk to each other: what a field's or a value's number means, what
// a method takes and gives, is for ever. compatibility.txt keeps every line of the API that ever
// was; a number that means something else now, or nothing although it is not reserved, fails. New
// ones are added to the file by QUANTD_WRITE_COMPATIBILITY=1 in the environment of this test.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "proto/quantd/v1/access.pb.h"
#include "proto/quantd/v1/artifact.pb.h"
#include "proto/quantd/v1/client.pb.h"
#include "proto/quantd/v1/guide.pb.h"
#include "proto/quantd/v1/job.pb.h"
#include "proto/quantd/v1/spec.pb.h"
#include "proto/quantd/v1/sweep.pb.h"
#include "proto/quantd/v1/worker.pb.h"

namespace quantd {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

// "Message 3 = repeated string name". The name counts too: specs travel as YAML and JSON.
using Lines = std::map<std::string, std::string>;

std::string TypeOf(const FieldDescriptor& field) {
  const std::string name =
      field.type() == FieldDescriptor::TYPE_MESSAGE ? field.message_type()->full_name()
      : field.type() == FieldDescriptor::TYPE_ENUM  ? field.enum_type()->full_name()
                                                    : field.type_name();
  const std::string oneof = field.real_containing_oneof() == nullptr
                                ? ""
                                : absl::StrCat(" of ", field.real_containing_oneof()->name());
  return absl::StrCat(field.is_repeated() ? "repeated " : "",
                      field.has_optional_keyword() ? "optional " : "", name, " ", field.name(),
                      oneof);
}

void AddEnum(const EnumDescriptor& type, Lines* lines) {
  for (int i = 0; i < type.value_count(); ++i) {
    (*lines)[absl::StrCat(type.full_name(), " ", type.value(i)->number())] = type.value(i)->name();
  }
}

void AddMessage(const Descriptor& type, Lines* lines) {
  for (int i = 0; i < type.field_count(); ++i) {
    (*lines)[absl::StrCat(type.full_name(), " ", type.field(i)->number())] = TypeOf(*type.field(i));
  }
  for (int i = 0; i < type.nested_type_count(); ++i) AddMessage(*type.nested_type(i), lines);
  for (int i = 0; i < type.enum_type_count(); ++i) AddEnum(*type.enum_type(i), lines);
}

Lines TheApi() {
  Lines lines;
  for (const auto* file :
       {v1::Token::descriptor()->file(), v1::Artifact::descriptor()->file(),
        v1::Job::descriptor()->file(), v1::JobSpec::descriptor()->file(),
        v1::Sweep::descriptor()->file(), v1::Worker::descriptor()->file(),
        v1::ClientConfig::descriptor()->file(), v1::GuideConfig::descriptor()->file()}) {
    for (int i = 0; i < file->message_type_count(); ++i) AddMessage(*file->message_type(i), &lines);
    for (int i = 0; i < file->enum_type_count(); ++i) AddEnum(*file->enum_type(i), &lines);
    for (int i = 0; i < file->service_count(); ++i) {
      for (int j = 0; j < file->service(i)->method_count(); ++j) {
        const auto* method = file->service(i)->method(j);
        lines[method->full_name()] = absl::StrCat(
            method->client_streaming() ? "stream " : "", method->input_type()->full_name(), " -> ",
            method->server_streaming() ? "stream " : "", method->output_type()->full_name());
      }
    }
  }
  return lines;
}

// A field that is gone leaves its number reserved.
bool IsReserved(const std::string& key) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(key, absl::MaxSplits(' ', 1));
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  const int number = parts.second.empty() ? 0 : std::stoi(parts.second);
  if (const Descriptor* type = pool->FindMessageTypeByName(parts.first); type != nullptr) {
    return type->IsReservedNumber(number);
  }
  const EnumDescriptor* type = pool->FindEnumTypeByName(parts.first);
  return type != nullptr && type->IsReservedNumber(number);
}

std::vector<std::string> Broken(const Lines& before, const Lines& now) {
  std::vector<std::string> broken;
  for (const auto& [key, value] : before) {
    const auto found = now.find(key);
    if (found == now.end() && !IsReserved(key)) {
      broken.push_back(absl::StrCat(key, " was ", value, " and is gone: reserve its number"));
    } else if (found != now.end() && found->second != value) {
      broken.push_back(absl::StrCat(key, " was ", value, " and is ", found->second));
    }
  }
  return broken;
}

TEST(Compatibility, NothingThatEverWasMeansSomethingElse) {
  const std::string path = QUANTD_SOURCE_DIR "/proto/compatibility.txt";
  Lines before;
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(ReadFile(path).value_or(""), '\n'))) {
    const std::pair<std::string, std::string> entry =
        absl::StrSplit(line, absl::MaxSplits(" = ", 1));
    if (!absl::StartsWith(line, "#") && !line.empty()) before.insert(entry);
  }
  const Lines now = TheApi();
  const std::vector<std::string> broken = Broken(before, now);
  EXPECT_TRUE(broken.empty()) << absl::StrJoin(broken, "\n");
  Lines all = before;
  all.insert(now.begin(), now.end());
  if (getenv("QUANTD_WRITE_COMPATIBILITY") != nullptr) {
    const std::string text = absl::StrJoin(all, "\n", absl::PairFormatter(" = "));
    ASSERT_TRUE(
        WriteFileAtomic(path, absl::StrCat("# See compatibility_test.cc.\n", text, "\n")).ok());
    return;
  }
  EXPECT_EQ(all.size(), before.size())
      << "the API has new lines: run this test with QUANTD_WRITE_COMPATIBILITY=1 and commit "
      << path;
}

TEST(Compatibility, AChangeIsNoticed) {
  const Lines now = TheApi();
  ASSERT_GT(now.size(), 300u);
  Lines renumbered = now;
  renumbered["quantd.v1.SubmitJobRequest 1"] = "bytes other";
  EXPECT_EQ(Broken(renumbered, now).size(), 1u);
  Lines more = now;
  more["quantd.v1.SubmitJobRequest 99"] = "bytes gone";
  EXPECT_EQ(Broken(more, now).size(), 1u);
}

}  // namespace
}  // namespace quantd

// quantctl secrets: values that jobs may use without their specs holding them. A value comes from
// standard input, a file or the environment, never from the command line, and is never shown.
#include <iostream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"

namespace quantd {
namespace {

constexpr int64_t kValueBytesMax = 16 << 10;

struct PutFlags {
  std::string secret, file, variable;
};

std::string NameOf(const Session& session, const std::string& secret) {
  return absl::StrCat(session.parent(), "/secrets/", secret);
}

absl::StatusOr<std::string> ReadValue(Session& session, const PutFlags& flags) {
  std::string value;
  if (!flags.variable.empty()) {
    const char* set = session.variable(flags.variable.c_str());
    if (set == nullptr || *set == '\0') {
      return absl::InvalidArgumentError(absl::StrCat(flags.variable, " is not set"));
    }
    value = set;
  } else if (!flags.file.empty()) {
    QD_ASSIGN_OR_RETURN(value, ReadFile(flags.file, kValueBytesMax));
  } else {
    value.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  return std::string(absl::StripAsciiWhitespace(value));
}

int Put(Session& session, const PutFlags& flags) {
  v1::PutSecretRequest request;
  request.set_name(NameOf(session, flags.secret));
  absl::StatusOr<std::string> value = ReadValue(session, flags);
  if (!value.ok()) return session.Fail(value.status());
  *request.mutable_value() = *std::move(value);
  const auto secret = session.scheduler().Call(request);
  if (!secret.ok()) return session.Fail(secret.status());
  if (session.json()) {
    session.PrintJson("secret", *secret);
  } else {
    session.out() << flags.secret << " is kept; jobs get it with --secret " << flags.secret << "\n";
  }
  return kExitOk;
}

int List(Session& session) {
  v1::ListSecretsRequest request;
  request.set_parent(session.parent());
  const auto listed = session.scheduler().Call(request);
  if (!listed.ok()) return session.Fail(listed.status());
  Table table({{"secret"}, {"changed", Align::kRight}});
  for (const v1::Secret& secret : listed->secrets()) {
    if (session.json()) {
      session.PrintJson("secret", secret);
      continue;
    }
    const absl::Time changed = absl::FromUnixSeconds(secret.update_time().seconds());
    table.AddRow({secret.name().substr(secret.name().rfind('/') + 1),
                  absl::StrCat(ShortDuration(absl::Now() - changed), " ago")});
  }
  if (!session.json()) session.PrintTable(table);
  return kExitOk;
}

int Delete(Session& session, const std::string& secret) {
  v1::DeleteSecretRequest request;
  request.set_name(NameOf(session, secret));
  const auto deleted = session.scheduler().Call(request);
  return deleted.ok() ? static_cast<int>(kExitOk) : session.Fail(deleted.status());
}

}  // namespace

Action DeclareSecretsPut(CLI::App* app) {
  const auto flags = std::make_shared<PutFlags>();
  app->add_option("NAME", flags->secret, "HF_TOKEN, AWS_ACCESS_KEY_ID, ..., QUANTD_SECRET_*")
      ->required();
  app->add_option("--from-file", flags->file, "The value, in a file; otherwise from standard input")
      ->type_name("FILE");
  app->add_option("--from-env", flags->variable, "The value, in an environment variable")
      ->type_name("VARIABLE");
  return [flags](Session& session) { return Put(session, *flags); };
}

Action DeclareSecretsList(CLI::App*) { return &List; }

Action DeclareSecretsDelete(CLI::App* app) {
  const auto secret = std::make_shared<std::string>();
  app->add_option("NAME", *secret, "Secret")->required();
  return [secret](Session& session) { return Delete(session, *secret); };
}

}  // namespace quantd

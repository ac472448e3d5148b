// quantctl tokens: access tokens, for administrators. A token is printed once, when it is made, and
// never goes onto a command line.
#include <sys/stat.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/commands/commands.h"

namespace quantd {
namespace {

struct CreateFlags {
  std::string role = "user", worker, name, output;
  bool all_tenants = false;
  int days = 90;
};

std::string RoleWord(v1::Role role) { return absl::AsciiStrToLower(v1::Role_Name(role)); }

std::string TimeText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixSeconds(time.seconds()), absl::UTCTimeZone());
}

std::string StateText(const v1::Token& token) {
  if (token.has_revoke_time()) return absl::StrCat("revoked ", TimeText(token.revoke_time()));
  if (!token.has_expire_time()) return "valid";
  const bool over = absl::FromUnixSeconds(token.expire_time().seconds()) < absl::Now();
  return absl::StrCat(over ? "expired " : "until ", TimeText(token.expire_time()));
}

// The file is its owner's alone from its first byte on.
absl::Status WritePrivately(const std::string& path, const std::string& text) {
  const mode_t before = umask(0077);
  const absl::Status written = WriteFileAtomic(path, text);
  umask(before);
  return written;
}

int Create(Session& session, const CreateFlags& flags) {
  v1::CreateTokenRequest request;
  v1::Token& token = *request.mutable_token();
  v1::Role role = v1::ROLE_UNSPECIFIED;
  v1::Role_Parse(absl::AsciiStrToUpper(flags.role), &role);
  token.set_role(role);
  token.set_display_name(flags.name);
  token.set_worker(flags.worker);
  if (!flags.all_tenants && role != v1::WORKER) token.set_tenant(session.tenant());
  request.mutable_lifetime()->set_seconds(int64_t{flags.days} * 24 * 3600);
  const auto made = session.scheduler().Call(request);
  if (!made.ok()) return session.Fail(made.status());
  if (!flags.output.empty()) {
    const absl::Status written = WritePrivately(flags.output, made->secret() + "\n");
    if (!written.ok()) return session.Fail(written);
  }
  if (session.json()) {
    session.PrintJson("", flags.output.empty()
                              ? static_cast<const google::protobuf::Message&>(*made)
                              : made->token());
    return kExitOk;
  }
  session.err() << made->token().name() << ": " << RoleWord(role) << " of "
                << (made->token().tenant().empty() ? "every tenant" : made->token().tenant())
                << ", " << StateText(made->token()) << "\n";
  if (flags.output.empty()) {
    session.err() << "It is not shown again:\n";
    session.out() << made->secret() << "\n";
  } else {
    session.err() << "written to " << flags.output << "\n";
  }
  return kExitOk;
}

int List(Session& session) {
  const auto listed = session.scheduler().Call(v1::ListTokensRequest());
  if (!listed.ok()) return session.Fail(listed.status());
  Table table({{"token"},
               {"role"},
               {"tenant", Align::kLeft, 1},
               {"worker", Align::kLeft, 3},
               {"state"},
               {"name", Align::kLeft, 2}});
  for (const v1::Token& token : listed->tokens()) {
    if (session.json()) {
      session.PrintJson("token", token);
      continue;
    }
    table.AddRow({token.name().substr(token.name().rfind('/') + 1), RoleWord(token.role()),
                  token.tenant().empty() ? "*" : token.tenant(), token.worker(), StateText(token),
                  token.display_name()});
  }
  if (!session.json()) session.PrintTable(table);
  return kExitOk;
}

int Revoke(Session& session, const std::vector<std::string>& tokens) {
  for (const std::string& token : tokens) {
    v1::RevokeTokenRequest request;
    request.set_name(absl::StartsWith(token, "tokens/") ? token : "tokens/" + token);
    const auto revoked = session.scheduler().Call(request);
    if (!revoked.ok()) return session.Fail(revoked.status());
    if (session.json()) {
      session.PrintJson("token", *revoked);
    } else {
      session.out() << revoked->name() << " " << StateText(*revoked) << "\n";
    }
  }
  return kExitOk;
}

int WhoAmI(Session& session) {
  const auto answer = session.scheduler().Call(v1::WhoAmIRequest());
  if (!answer.ok()) return session.Fail(answer.status());
  if (session.json()) {
    session.PrintJson("", *answer);
    return kExitOk;
  }
  const v1::Token& token = answer->token();
  if (!answer->tokens_required()) {
    session.out() << "the scheduler at " << session.address() << " asks nobody for a token\n";
    return kExitOk;
  }
  session.out() << token.name() << ": " << RoleWord(token.role()) << " of "
                << (token.tenant().empty() ? "every tenant" : token.tenant()) << "\n";
  return kExitOk;
}

}  // namespace

Action DeclareTokensCreate(CLI::App* app) {
  const auto flags = std::make_shared<CreateFlags>();
  app->add_option("--role", flags->role, "What it may do (default user)")
      ->check(CLI::IsMember({"reader", "user", "admin", "worker"}));
  app->add_flag("--all-tenants", flags->all_tenants, "For every tenant, not just --tenant");
  app->add_option("--worker", flags->worker, "With --role worker: only as this worker")
      ->type_name("NAME");
  app->add_option("--name", flags->name, "Display name: whose it is, what for");
  app->add_option("--days", flags->days, "Valid for so long (default 90)")
      ->check(CLI::Range(1, 3650));
  app->add_option("-o,--output", flags->output, "Write it to this file, for its owner alone")
      ->type_name("FILE");
  return [flags](Session& session) { return Create(session, *flags); };
}

Action DeclareTokensList(CLI::App*) { return &List; }

Action DeclareTokensRevoke(CLI::App* app) {
  const auto tokens = std::make_shared<std::vector<std::string>>();
  app->add_option("TOKEN", *tokens, "Ids of tokens")->required();
  return [tokens](Session& session) { return Revoke(session, *tokens); };
}

Action DeclareTokensWhoAmI(CLI::App*) { return &WhoAmI; }

}  // namespace quantd

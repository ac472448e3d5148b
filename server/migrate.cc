// Two flags, one copy, a table of what was copied.
#include "server/migrate.h"

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "server/store/copy_store.h"
#include "server/store/postgres_job_store.h"

namespace quantd {

absl::StatusOr<std::string> Migrate(const std::vector<std::string>& args) {
  std::string from;
  std::string to;
  CLI::App app("Moves the queue from a SQLite file to PostgreSQL; stop the scheduler first",
               "quantd migrate");
  app.add_option("--from", from, "sqlite:PATH")->required();
  app.add_option("--to", to, "postgres://USER:PASSWORD@HOST/DATABASE; has to be empty")->required();
  try {
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));  // CLI11 takes them backwards.
  } catch (const CLI::CallForHelp&) {
    return app.help();
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(error.what(), "; quantd migrate --help lists the options"));
  }
  absl::string_view path = from;
  if (!absl::ConsumePrefix(&path, "sqlite:") || path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--from ", from, ": has to be sqlite:PATH"));
  }
  if (!IsPostgresUrl(to)) return absl::InvalidArgumentError("--to has to be postgres://...");
  QD_ASSIGN_OR_RETURN(const auto copied, CopyStore(std::string(path), to), "migrating ", path);
  std::string text;
  for (const auto& [table, rows] : copied) absl::StrAppend(&text, rows, " ", table, "\n");
  return absl::StrCat(text, "The queue is in the new database. ", path,
                      " is as it was; start quantd with --store and the new URL.\n");
}

}  // namespace quantd

// quantctl workers: who does the work.
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "client/commands/commands.h"

namespace quantd {
namespace {

std::string DeviceText(const v1::Worker& worker) {
  std::string text;
  for (const v1::Device& device : worker.catalog().devices()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ",
                    device.name().empty() ? device.type() : device.name());
    if (device.type() != "cpu") absl::StrAppend(&text, " ", FormatBytes(device.memory_bytes()));
  }
  return text;
}

int Run(Session& session) {
  v1::ListWorkersRequest request;
  Table table({{"worker"},
               {"state"},
               {"devices", Align::kLeft, 1},
               {"memory", Align::kRight, 3},
               {"disk free", Align::kRight, 4},
               {"job", Align::kLeft, 2},
               {"seen", Align::kRight, 5}});
  do {
    const absl::StatusOr<v1::ListWorkersResponse> page = session.scheduler().Call(request);
    if (!page.ok()) return session.Fail(page.status());
    for (const v1::Worker& worker : page->workers()) {
      if (session.json()) {
        session.PrintJson("worker", worker);
        continue;
      }
      const absl::Time seen = absl::FromUnixSeconds(worker.last_seen_time().seconds());
      table.AddRow({worker.name().substr(worker.name().rfind('/') + 1),
                    absl::AsciiStrToLower(v1::Worker::State_Name(worker.state())),
                    DeviceText(worker), FormatBytes(worker.host_memory_bytes()),
                    FormatBytes(worker.disk_free_bytes()), ShortName(worker.job()),
                    absl::StrCat(ShortDuration(absl::Now() - seen), " ago")});
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  if (session.json()) return kExitOk;
  if (table.rows() == 0) {
    session.out() << "no workers; start one with: quant-worker --scheduler " << session.address()
                  << "\n";
    return kExitOk;
  }
  session.PrintTable(table);
  return kExitOk;
}

}  // namespace

Action DeclareWorkers(CLI::App*) { return &Run; }

}  // namespace quantd

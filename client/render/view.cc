// The three ways to show events.
#include "client/render/view.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/render/board.h"

namespace quantd {
namespace {

// A redraw more often is flicker, not information.
constexpr absl::Duration kRedrawPeriod = absl::Milliseconds(100);

class JsonView : public View {
 public:
  explicit JsonView(Session* session) : session_(session) {}
  void Event(const v1::JobEvent& event) override { session_->PrintJson("event", event); }
  void Notice(const std::string& text) override { session_->err() << text << std::endl; }
  void Tick(absl::Time) override {}
  void End() override {}

 private:
  Session* session_;
};

using TitleOf = std::function<std::string(const std::string& job)>;
// Lines that an event leaves for good, beside the transcript's.
using Remarks = std::function<std::vector<std::string>(const v1::JobEvent& event)>;

class PlainView : public View {
 public:
  struct Parts {
    TitleOf title_of;
    // Whether the transcript has the event.
    std::function<bool(const v1::JobEvent&)> keeps;
    Remarks remarks;
  };
  PlainView(Session* session, Parts parts) : session_(session), parts_(std::move(parts)) {}
  void Event(const v1::JobEvent& event) override {
    if (parts_.keeps(event)) {
      Print(transcript_.Lines(event, parts_.title_of(event.job()), session_->style()));
    }
    Print(parts_.remarks(event));
    session_->out().flush();
  }
  void Notice(const std::string& text) override { session_->err() << text << std::endl; }
  void Tick(absl::Time) override {}
  void End() override {}

 private:
  void Print(const std::vector<std::string>& lines) {
    for (const std::string& line : lines) session_->out() << line << "\n";
  }

  Session* session_;
  Parts parts_;
  Transcript transcript_;
};

// What is drawn in place, given the time.
using Picture = std::function<std::vector<std::string>(absl::Time)>;

class LiveView : public View {
 public:
  struct Parts {
    std::function<void(const v1::JobEvent&)> apply;
    // Whether an event also leaves a line above the picture.
    std::function<bool(const v1::JobEvent&)> keeps;
    TitleOf title_of;
    Remarks remarks;
    Picture picture;
  };
  LiveView(Session* session, Parts parts) : session_(session), parts_(std::move(parts)) {}

  void Event(const v1::JobEvent& event) override {
    parts_.apply(event);
    dirty_ = true;
    for (const std::string& line : parts_.remarks(event)) Above(line);
    if (!parts_.keeps(event)) return;
    const std::string title = parts_.title_of(event.job());
    for (const std::string& line : transcript_.Lines(event, title, session_->style())) Above(line);
  }
  void Notice(const std::string& text) override { Above(text); }
  void Tick(absl::Time now) override {
    if (now - drawn_ < (dirty_ ? kRedrawPeriod : absl::Seconds(1))) return;
    Draw(now);
  }
  void End() override {
    Draw(absl::Now());
    height_ = 0;  // What is said later goes below.
  }

 private:
  void Erase() {
    if (height_ > 0) session_->out() << "\x1b[" << height_ << "A\r\x1b[J";
    height_ = 0;
  }
  void Above(const std::string& line) {
    Erase();
    session_->out() << line << "\n";
    session_->out().flush();
    drawn_ = absl::InfinitePast();
  }
  void Draw(absl::Time now) {
    Erase();
    for (const std::string& line : parts_.picture(now)) {
      session_->out() << line << "\n";
      ++height_;
    }
    session_->out().flush();
    drawn_ = now;
    dirty_ = false;
  }

  Session* session_;
  Parts parts_;
  Transcript transcript_{/*live=*/true};
  size_t height_ = 0;
  absl::Time drawn_ = absl::InfinitePast();
  bool dirty_ = true;
};

}  // namespace

std::unique_ptr<View> MakeView(Session* session, const v1::Job& job) {
  if (session->json()) return std::make_unique<JsonView>(session);
  const auto untitled = [](const std::string&) { return std::string(); };
  const auto silent = [](const v1::JobEvent&) { return std::vector<std::string>(); };
  if (!session->terminal()) {
    return std::make_unique<PlainView>(
        session, PlainView::Parts{untitled, [](const v1::JobEvent&) { return true; }, silent});
  }
  std::string title = ShortName(job.name());
  if (!job.spec().display_name().empty()) absl::StrAppend(&title, "  ", job.spec().display_name());
  const auto board = std::make_shared<JobBoard>(title);
  board->state = job.state();
  LiveView::Parts parts;
  parts.apply = [board](const v1::JobEvent& event) { board->Apply(event); };
  parts.keeps = [](const v1::JobEvent& event) { return !event.has_state(); };
  parts.title_of = untitled;
  parts.remarks = silent;
  parts.picture = [board, session](absl::Time) {
    return board->Lines(session->width(), session->style());
  };
  return std::make_unique<LiveView>(session, std::move(parts));
}

std::unique_ptr<View> MakeView(Session* session, const v1::Sweep& sweep, CellLines tell) {
  if (session->json()) return std::make_unique<JsonView>(session);
  const auto board = std::make_shared<SweepBoard>(sweep);
  const TitleOf title_of = [board](const std::string& job) { return board->TitleOf(job); };
  const Remarks remarks = [board, tell](const v1::JobEvent& event) {
    const v1::Sweep::Cell* cell = board->CellEndedBy(event);
    return cell == nullptr ? std::vector<std::string>() : tell(*cell);
  };
  if (!session->terminal()) {
    // Comparisons end in what is said of their cell.
    const auto keeps = [board](const v1::JobEvent& event) {
      return event.has_failure() || !board->IsComparison(event.job());
    };
    return std::make_unique<PlainView>(session, PlainView::Parts{title_of, keeps, remarks});
  }
  const absl::Time start =
      sweep.has_create_time() ? absl::FromUnixSeconds(sweep.create_time().seconds()) : absl::Now();
  LiveView::Parts parts;
  parts.apply = [board](const v1::JobEvent& event) { board->Apply(event); };
  parts.keeps = [](const v1::JobEvent& event) {
    return event.has_fallback() || event.has_failure();
  };
  parts.title_of = title_of;
  parts.remarks = remarks;
  parts.picture = [board, session, start](absl::Time now) {
    return board->Lines(session->width(), session->height(), now - start, session->style());
  };
  return std::make_unique<LiveView>(session, std::move(parts));
}

}  // namespace quantd

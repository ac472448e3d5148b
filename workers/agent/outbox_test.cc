// What the scheduler gets to see of an attempt's events, and how the log is cut into lines.
#include "workers/agent/outbox.h"

#include <gtest/gtest.h>

#include <random>

#include "workers/agent/line_splitter.h"

namespace quantd {
namespace {

absl::Duration At(int ms) { return absl::Milliseconds(ms); }

v1::JobEvent LogEvent(const std::string& text) {
  v1::JobEvent event;
  event.mutable_log()->set_text(text);
  return event;
}

v1::JobEvent ProgressEvent(int64_t done) {
  v1::JobEvent event;
  event.mutable_progress()->set_done(done);
  return event;
}

TEST(Outbox, NumbersFromOneAndKeepsUntilAcknowledged) {
  Outbox box;
  box.Add(LogEvent("a"), At(0));
  box.Add(LogEvent("b"), At(0));
  EXPECT_EQ(box.Take(At(0)).first_event, 1);
  const Outbox::Batch again = box.Take(At(0));
  ASSERT_EQ(again.events.size(), 2);
  EXPECT_EQ(again.events[0].log().text(), "a");
  ASSERT_TRUE(box.Accept(1));
  const Outbox::Batch rest = box.Take(At(0));
  EXPECT_EQ(rest.first_event, 2);
  ASSERT_EQ(rest.events.size(), 1);
  EXPECT_EQ(rest.events[0].log().text(), "b");
  ASSERT_TRUE(box.Accept(2));
  EXPECT_TRUE(box.Empty());
  EXPECT_EQ(box.bytes(), 0);
}

TEST(Outbox, RefusesAnswersAboutEventsThatCannotBe) {
  Outbox box;
  box.Add(LogEvent("a"), At(0));
  EXPECT_FALSE(box.Accept(1)) << "it has not been sent";
  box.Take(At(0));
  EXPECT_FALSE(box.Accept(2));
  EXPECT_TRUE(box.Accept(1));
  EXPECT_FALSE(box.Accept(0)) << "what was durable cannot be undone";
}

TEST(Outbox, ConflatesProgressToFourASecondAndKeepsTheLast) {
  Outbox box;
  int sent = 0;
  int64_t last = 0;
  for (int ms = 0; ms < 2'000; ++ms) {
    box.Add(ProgressEvent(ms), At(ms));
    for (const v1::JobEvent& event : box.Take(At(ms)).events) {
      last = event.progress().done();
      ++sent;
      ASSERT_TRUE(box.Accept(sent));
    }
  }
  EXPECT_LE(sent, 9);
  EXPECT_GE(sent, 7);
  EXPECT_FALSE(box.Empty());
  box.FlushProgress(At(2'000));
  last = box.Take(At(2'000)).events.at(0).progress().done();
  EXPECT_EQ(last, 1'999);
}

TEST(Outbox, HoldsOneProgressEventWhileNobodyAnswers) {
  Outbox box;
  for (int i = 0; i < 1'000; ++i) {
    box.Add(ProgressEvent(i), At(i * 300));
    box.Add(LogEvent("l"), At(i * 300));
  }
  const Outbox::Batch batch = box.Take(At(400'000));
  int progress = 0;
  for (const v1::JobEvent& event : batch.events) progress += event.has_progress() ? 1 : 0;
  EXPECT_EQ(progress, 1);
  EXPECT_EQ(batch.events.size(), 1'001);
}

TEST(Outbox, NeverChangesWhatMayHaveBeenReceived) {
  Outbox box;
  box.Add(ProgressEvent(1), At(0));
  box.Take(At(0));  // The answer is lost.
  box.Add(ProgressEvent(2), At(300));
  const Outbox::Batch batch = box.Take(At(300));
  ASSERT_EQ(batch.events.size(), 2);
  EXPECT_EQ(batch.events[0].progress().done(), 1);
  EXPECT_EQ(batch.events[1].progress().done(), 2);
}

TEST(Outbox, BatchesAreBoundedAndFullIsTold) {
  Outbox box({.limit_bytes = 10'000, .batch_bytes = 4'000});
  while (!box.Full()) box.Add(LogEvent(std::string(1'000, 'x')), At(0));
  EXPECT_LE(box.bytes(), 12'000);
  EXPECT_EQ(box.Take(At(0)).events.size(), 3);
  ASSERT_TRUE(box.Accept(3));
  EXPECT_FALSE(box.Full());
  box.Add(LogEvent(std::string(100'000, 'y')), At(0));
  while (!box.Empty()) {
    const Outbox::Batch batch = box.Take(At(0));
    ASSERT_FALSE(batch.events.empty()) << "an event larger than a batch goes alone";
    ASSERT_TRUE(box.Accept(batch.first_event - 1 + static_cast<int64_t>(batch.events.size())));
  }
}

TEST(Outbox, ReplacesAnEventThatIsRefused) {
  Outbox box;
  box.Add(LogEvent("bad"), At(0));
  box.Add(LogEvent("good"), At(0));
  box.Take(At(0), 1);
  box.ReplaceFront("refused");
  const Outbox::Batch batch = box.Take(At(0));
  EXPECT_EQ(batch.events[0].log().text(), "refused");
  EXPECT_EQ(batch.events[0].log().source(), v1::LogLine::WORKER);
  EXPECT_EQ(batch.events[1].log().text(), "good");
}

// Whatever is lost or doubled on the way, a receiver that takes each number once has every log line
// in order.
TEST(Outbox, DeliversEveryLineInOrderOverABadLine) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  Outbox box({.limit_bytes = 1 << 20, .batch_bytes = 2'000});
  std::vector<std::string> received;
  int64_t accepted = 0;
  int written = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (written < 5'000 && random() % 2 == 0) {
      box.Add(random() % 3 == 0 ? ProgressEvent(step) : LogEvent(std::to_string(written++)),
              At(step * 10));
    }
    if (random() % 3 != 0) continue;
    const Outbox::Batch batch = box.Take(At(step * 10), 1 + random() % 50);
    if (random() % 4 == 0) continue;  // The request is lost.
    ASSERT_LE(batch.first_event, accepted + 1);
    for (size_t i = 0; i < batch.events.size(); ++i) {
      if (batch.first_event + static_cast<int64_t>(i) <= accepted) continue;
      ++accepted;
      if (batch.events[i].has_log()) received.push_back(batch.events[i].log().text());
    }
    if (random() % 4 == 0) continue;  // The answer is lost.
    ASSERT_TRUE(box.Accept(accepted));
  }
  ASSERT_GT(received.size(), 1'000);
  for (size_t i = 0; i < received.size(); ++i) ASSERT_EQ(received[i], std::to_string(i));
}

TEST(LineSplitter, CutsAnywhereTheBytesAreCut) {
  const std::string text = "one\ntwo\r\n\nfour" + std::string(50, 'x') + "\nlast";
  for (size_t piece = 1; piece < text.size(); ++piece) {
    std::vector<std::string> lines;
    int64_t dropped = 0;
    LineSplitter splitter(10, [&](std::string line, int64_t more) {
      lines.push_back(line);
      dropped += more;
    });
    for (size_t at = 0; at < text.size(); at += piece) splitter.Add(text.substr(at, piece));
    splitter.Finish();
    const std::vector<std::string> expected = {"one", "two", "", "fourxxxxxx", "last"};
    ASSERT_EQ(lines, expected) << "in pieces of " << piece;
    ASSERT_EQ(dropped, 44);
  }
}

}  // namespace
}  // namespace quantd

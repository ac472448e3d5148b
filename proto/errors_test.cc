// Errors there and back, and what the size cap keeps.
#include "proto/errors.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "proto/google/rpc/error_details.pb.h"

namespace quantd {
namespace {

TEST(Errors, DetailsSurviveTheRoundTrip) {
  absl::Status status = WithReason(absl::AbortedError("lease of jobs/a is over"), kReasonLeaseLost,
                                   {{"job", "tenants/default/jobs/a"}});
  status = WithRetryAfter(status, absl::Milliseconds(1500));
  status = WithPrecondition(status, {"MISSING", "blobs/1", "not uploaded"});
  status = WithPrecondition(status, {"MISSING", "blobs/2", "not uploaded"});
  status =
      WithHelp(WithResource(status, "job", "tenants/default/jobs/a"), "how", "https://example.org");
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(back.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(back.message(), "lease of jobs/a is over");
  EXPECT_EQ(ReasonOf(back), kReasonLeaseLost);
  EXPECT_EQ(ReasonMetadata(back, "job"), "tenants/default/jobs/a");
  EXPECT_EQ(ReasonMetadata(back, "other"), "");
  EXPECT_EQ(RetryAfterOf(back), absl::Milliseconds(1500));
  EXPECT_EQ(back, status);
}

TEST(Errors, OkAndBareStatuses) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
  EXPECT_TRUE(FieldErrors({}).ok());
  const grpc::Status bare = ToGrpcStatus(absl::NotFoundError("no such job"));
  EXPECT_EQ(bare.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(bare.error_details().empty());
  const absl::Status odd =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::INTERNAL, "x", "\xff\xff"));
  EXPECT_EQ(odd, absl::InternalError("x"));
}

TEST(Errors, ManyViolationsAreCutAndTheCodeStays) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 500; ++i) {
    violations.push_back({absl::StrCat("spec.quantize.options.option_", i), std::string(300, 'x')});
  }
  absl::Status status = WithReason(FieldErrors(violations), "BAD_SPEC");
  status = WithHelp(status, std::string(5000, 'h'), "https://example.org");
  const grpc::Status wire = ToGrpcStatus(status);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_LE(wire.error_details().size(), kErrorDetailsBytesMax);
  EXPECT_LE(wire.error_message().size(), kErrorMessageBytesMax);
  const absl::Status back = FromGrpcStatus(wire);
  EXPECT_EQ(ReasonOf(back), "BAD_SPEC");
  const auto kept = FieldViolationsOf(back);
  ASSERT_GE(kept.size(), 5u);
  EXPECT_EQ(kept[0].field, "spec.quantize.options.option_0");
}

TEST(Errors, AHugeReasonLosesItsMetadataFirst) {
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(
      WithReason(absl::AbortedError("x"), kReasonLeaseLost, {{"note", std::string(9000, 'n')}})));
  EXPECT_EQ(ReasonOf(back), kReasonLeaseLost);
  EXPECT_EQ(ReasonMetadata(back, "note"), "");
}

TEST(Errors, MessagesBecomeValidUtf8) {
  const grpc::Status wire =
      ToGrpcStatus(absl::NotFoundError(absl::StrCat("a\xff", std::string(2000, '\xc3'))));
  EXPECT_LE(wire.error_message().size(), kErrorMessageBytesMax);
  EXPECT_EQ(wire.error_message().substr(0, 4), "a\xef\xbf\xbd");
}

}  // namespace
}  // namespace quantd

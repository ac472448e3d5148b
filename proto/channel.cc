// Numbers are from measurements with gRPC 1.51 behind NATs that cut idle connections after a
// minute.
#include "proto/channel.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd {
namespace {

// A connection whose other side is gone without a word is noticed within both together.
constexpr int kKeepaliveMs = 4'000;
constexpr int kKeepaliveTimeoutMs = 4'000;
// Below the clients' period, so that no honest client earns a strike.
constexpr int kPingIntervalMinMs = 2'000;
// The server's own: connections of clients that have gone must not add up.
constexpr int kServerKeepaliveMs = 60'000;
constexpr int kServerKeepaliveTimeoutMs = 20'000;
// An attempt to connect into a black hole ends after five seconds, and the next one follows within
// two: gRPC's own times, 20 s and two minutes, would be felt after every outage.
constexpr int kConnectMs = 5'000;
constexpr int kReconnectMsFirst = 200;
constexpr int kReconnectMsMax = 2'000;
constexpr int kPingStrikesMax = 2;
// Streams of one connection: a watcher of a whole sweep's jobs fits, a runaway client does not.
constexpr int kStreamsPerConnectionMax = 1024;

struct RetriedService {
  const char* service;
  std::vector<const char*> methods;
};

// Unary methods that may be sent twice. Streams are resumed by their callers, which know how far
// they came.
std::string ServiceConfig() {
  static const RetriedService kRetried[] = {
      {"ArtifactService",
       {"CreateArtifact", "FindMissingBlobs", "GetArtifact", "ListArtifacts", "StartUpload"}},
      {"CatalogService", {"GetCatalog", "ListWorkers"}},
      {"JobService", {"CancelJob", "GetJob", "ListJobs", "SubmitJob"}},
      {"SweepService", {"CancelSweep", "GetSweep", "ListSweeps", "SubmitSweep"}},
      {"WorkerService",
       {"CompleteJob", "DeregisterWorker", "LeaseJob", "RegisterWorker", "ReleaseJob",
        "ReportJob"}},
  };
  std::vector<std::string> names;
  for (const RetriedService& retried : kRetried) {
    for (const char* method : retried.methods) {
      names.push_back(absl::StrCat(R"({"service":"quantd.v1.)", retried.service, R"(","method":")",
                                   method, R"("})"));
    }
  }
  return absl::StrCat(
      R"({"methodConfig":[{"name":[)", absl::StrJoin(names, ","),
      R"(],"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.2s","maxBackoff":"3s",)",
      R"("backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]})");
}

}  // namespace

grpc::ChannelArguments ClientChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsFirst);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  arguments.SetServiceConfigJSON(ServiceConfig());
  return arguments;
}

void ApplyServerArguments(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kServerKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kServerKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kPingIntervalMinMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, kPingStrikesMax);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMetadataBytesMax);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsPerConnectionMax);
  builder->SetMaxReceiveMessageSize(kMessageBytesMax);
  builder->SetMaxSendMessageSize(kMessageBytesMax);
  // gRPC 1.51 unpacks a compressed message whole before it looks how large it is: half a megabyte
  // from anybody would become half a gigabyte here.
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
}

}  // namespace quantd

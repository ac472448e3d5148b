// The settings that both ends of every connection have to agree on: message limits, metadata
// limits, keepalive and retries. gRPC's defaults cut idle cloud connections, answer eager pings
// with GOAWAY and let a second server share a port in silence; these do not.
#pragma once

#include "grpcpp/server_builder.h"
#include "grpcpp/support/channel_arguments.h"

namespace quantd {

// A message with its framing. Bulk data travels in chunks well below it.
inline constexpr int kMessageBytesMax = 4 << 20;
// Headers and trailers of one call: an error's 4 KiB of details in base64 and a 1 KiB message,
// twice over.
inline constexpr int kMetadataBytesMax = 16 << 10;
// Data in one upload or download chunk: fastest between 64 KiB and 1 MiB, and small beside the
// message limit.
inline constexpr int kChunkBytes = 256 << 10;

// Initial metadata of every unary answer: the scheduler's version.
inline constexpr char kVersionMetadata[] = "quantd-version";

// Keepalive every 4 s with 4 s patience, also between calls; a new connection within seconds after
// one was lost; retries of UNAVAILABLE for the methods that are safe to send again (our clients
// give every submit a request id).
grpc::ChannelArguments ClientChannelArguments();

// The counterparts, and an exclusive port: BuildAndStart returns null when another process listens
// there.
void ApplyServerArguments(grpc::ServerBuilder* builder);

}  // namespace quantd

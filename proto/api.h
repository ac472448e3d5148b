// What nearly every file that speaks gRPC includes, precompiled (proto/CMakeLists.txt): the
// generated services cost five seconds a file. Sources still name what they use; this file is
// included nowhere.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/quantd/v1/artifact.grpc.pb.h"
#include "proto/quantd/v1/job.grpc.pb.h"
#include "proto/quantd/v1/sweep.grpc.pb.h"
#include "proto/quantd/v1/worker.grpc.pb.h"

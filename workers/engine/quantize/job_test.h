// What the tests of whole jobs share: a context in temporary folders around the bundled model.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <memory>
#include <string>

#include "base/file.h"
#include "workers/engine/job/context.h"

namespace quantd::engine {

inline std::string TinyModel() { return std::string(QUANTD_SOURCE_DIR) + "/models/tiny-6m"; }

// Folders below one that is removed at the end.
class JobFolders {
 public:
  JobFolders() {
    char name[] = "/tmp/quantd_job_XXXXXX";
    root_ = mkdtemp(name);
    for (const char* folder : {"/out", "/work", "/cache"})
      EXPECT_TRUE(MakeFolders(root_ + folder).ok());
  }
  ~JobFolders() { RemoveTree(root_).IgnoreError(); }
  std::string out() const { return root_ + "/out"; }
  std::string work() const { return root_ + "/work"; }
  std::string root() const { return root_; }

  JobContext Context(EventSink& events, const CancelToken& cancel) const {
    JobContext context = {.spec = {},
                          .inputs = {},
                          .output_dir = out(),
                          .work_dir = work(),
                          .cache_dir = root_ + "/cache",
                          .events = events,
                          .cancel = cancel,
                          .fetch_model = {}};
    context.spec.runtime.device = "cpu";
    context.spec.runtime.threads = 1;
    return context;
  }

 private:
  std::string root_;
};

}  // namespace quantd::engine

// Splits rows over threads. Kernels whose rows are independent give the same bits for every number
// of threads.
#pragma once

#include <cstdint>
#include <functional>

namespace quantd::kernels {

// Threads that ParallelRows may use; 0: as many as the machine has. To be called before kernels
// run.
void SetThreads(int threads);

// Calls work(begin, end) for disjoint ranges that cover [0, rows), each a multiple of kLanes long
// except the last, on several threads when `operations` (a rough count over all rows) is worth it.
// Returns when all are done.
void ParallelRows(int64_t rows, int64_t operations,
                  const std::function<void(int64_t, int64_t)>& work);

}  // namespace quantd::kernels

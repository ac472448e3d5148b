// See catalog_cache.h.
#include "server/services/catalog_cache.h"

#include "base/clock.h"

namespace quantd {
namespace {
// A worker that died quietly stays in for this long; the lease would not find it either.
constexpr absl::Duration kFresh = absl::Seconds(3);
}  // namespace

absl::StatusOr<std::shared_ptr<const v1::Catalog>> CatalogCache::Get() {
  const absl::Duration now = Clock::Real().Monotonic();
  absl::MutexLock lock(&mutex_);
  if (catalog_ != nullptr && now - read_at_ < kFresh) return catalog_;
  absl::StatusOr<v1::Catalog> catalog = read_();
  if (!catalog.ok()) return catalog.status();
  catalog_ = std::make_shared<const v1::Catalog>(*std::move(catalog));
  read_at_ = now;
  return catalog_;
}

void CatalogCache::Invalidate() {
  absl::MutexLock lock(&mutex_);
  catalog_ = nullptr;
}

}  // namespace quantd

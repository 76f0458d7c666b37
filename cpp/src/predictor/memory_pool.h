// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace instseg {

/**
 * Keeps the large CPU buffers of one predictor between images. Activations are tens of megabytes each;
 * returned to the system they cost a page fault per 4 KiB the next time, which on a 1x1 convolution is more
 * than the arithmetic.
 */
class MemoryPool {
 public:
  MemoryPool();
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /** Bytes of idle buffers held now. */
  size_t idle_bytes() const;

  struct State;

 private:
  friend class PoolScope;
  std::shared_ptr<State> state_;
};

/**
 * While alive, large CPU tensors made on this thread come from `pool`. Tensors may outlive scope and pool. At
 * the end of a scope, buffers that neither this scope nor the one before used are returned to the system.
 */
class PoolScope {
 public:
  explicit PoolScope(MemoryPool& pool);
  ~PoolScope();
  PoolScope(const PoolScope&) = delete;
  PoolScope& operator=(const PoolScope&) = delete;

 private:
  std::shared_ptr<MemoryPool::State> state_, previous_;
};

}  // namespace instseg

// SPDX-License-Identifier: Apache-2.0
#include "predictor/memory_pool.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace instseg {

struct Buffer {
  void* address;
  uint64_t last_used;  // scope number
};

/** Idle buffers by size. Handed-out buffers are owned by their tensors. */
struct MemoryPool::State {
  std::mutex mutex;
  std::multimap<size_t, Buffer> idle;
  size_t idle_bytes = 0;
  uint64_t scope = 0;

  ~State() {
    for (auto& [size, buffer] : idle) c10::free_cpu(buffer.address);
  }

  void* take(size_t bytes, size_t& actual) {
    const std::lock_guard lock(mutex);
    const auto found = idle.lower_bound(bytes);
    if (found == idle.end() || found->first > bytes + bytes / 4) {
      actual = bytes;
      return nullptr;
    }
    actual = found->first;
    void* address = found->second.address;
    idle_bytes -= actual;
    idle.erase(found);
    return address;
  }

  void give_back(void* address, size_t bytes) {
    const std::lock_guard lock(mutex);
    idle.emplace(bytes, Buffer{address, scope});
    idle_bytes += bytes;
  }

  void trim() {
    const std::lock_guard lock(mutex);
    for (auto it = idle.begin(); it != idle.end();) {
      if (it->second.last_used + 1 >= scope) {
        ++it;
        continue;
      }
      c10::free_cpu(it->second.address);
      idle_bytes -= it->first;
      it = idle.erase(it);
    }
    ++scope;
  }
};

namespace {

constexpr size_t kSmallest = 256 * 1024;  // bytes; below, malloc keeps its own pages

thread_local std::shared_ptr<MemoryPool::State> current;

/** Which pool a handed-out buffer goes back to. */
class Ownership {
 public:
  using Entry = std::pair<std::weak_ptr<MemoryPool::State>, size_t>;

  void add(void* address, std::weak_ptr<MemoryPool::State> pool, size_t bytes) {
    const std::lock_guard lock(mutex_);
    entries_[address] = {std::move(pool), bytes};
  }

  Entry remove(void* address) {
    const std::lock_guard lock(mutex_);
    const auto node = entries_.extract(address);
    return node.empty() ? Entry{} : std::move(node.mapped());
  }

 private:
  std::mutex mutex_;
  std::unordered_map<void*, Entry> entries_;
};

Ownership& ownership() {
  static auto* owners = new Ownership;  // tensors may be released while static objects are destroyed
  return *owners;
}

void release(void* address) {
  const auto [pool, bytes] = ownership().remove(address);
  if (const auto state = pool.lock()) {
    state->give_back(address, bytes);
  } else {
    c10::free_cpu(address);
  }
}

/** Forwards to the allocator it replaces unless a PoolScope is active on the calling thread. */
class PooledAllocator final : public c10::Allocator {
 public:
  explicit PooledAllocator(c10::Allocator* next) : next_(next) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (!current || bytes < kSmallest) return next_->allocate(bytes);
    size_t actual = 0;
    void* address = current->take(bytes, actual);
    if (!address) address = c10::alloc_cpu(actual);
    ownership().add(address, current, actual);
    return {address, address, &release, c10::Device(c10::kCPU)};
  }

  // Buffers are ordinary allocations, so the replaced allocator's deleter may free them too.
  c10::DeleterFnPtr raw_deleter() const override { return next_->raw_deleter(); }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    next_->copy_data(to, from, bytes);
  }

 private:
  c10::Allocator* next_;
};

void install_allocator() {
  static std::once_flag once;
  std::call_once(once,
                 [] { c10::SetCPUAllocator(new PooledAllocator(c10::GetCPUAllocator()), /*priority=*/1); });
}

}  // namespace

MemoryPool::MemoryPool() : state_(std::make_shared<State>()) { install_allocator(); }
MemoryPool::~MemoryPool() = default;

size_t MemoryPool::idle_bytes() const {
  const std::lock_guard lock(state_->mutex);
  return state_->idle_bytes;
}

PoolScope::PoolScope(MemoryPool& pool)
    : state_(pool.state_), previous_(std::exchange(current, pool.state_)) {}

PoolScope::~PoolScope() {
  current = previous_;
  state_->trim();
}

}  // namespace instseg

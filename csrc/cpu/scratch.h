// Memory that a thread uses again and again: no allocation in a decode step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "types.h"

namespace deepport::DEEPPORT_LEVEL {

// Aligned to a cache line, of at least the size that was last asked for; what it holds is undefined. One a thread and `Tag`, so
// that functions which call each other do not share theirs.
template <class Tag>
class Scratch {
 public:
  template <class T>
  static T* get(int64_t count) {
    static thread_local Scratch own;
    return static_cast<T*>(own.grow(size_t(count) * sizeof(T)));
  }

 private:
  void* grow(size_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = (bytes + 63) / 64 * 64;
      memory_ = std::aligned_alloc(64, size_);
      if (!memory_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return memory_;
  }
  ~Scratch() { std::free(memory_); }

  void* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace deepport::DEEPPORT_LEVEL

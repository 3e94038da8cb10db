// Memory that ends where a page without access begins: reading or writing one element past it is a crash, at every level.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

namespace deepport::test {

template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n) : n_(n), page_(size_t(sysconf(_SC_PAGESIZE))) {
    const size_t bytes = (n * sizeof(T) + page_ - 1) / page_ * page_;
    mapped_ = bytes + page_;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    start_ = static_cast<char*>(p);
    mprotect(start_ + bytes, page_, PROT_NONE);
    data_ = reinterpret_cast<T*>(start_ + bytes) - n;
  }
  Guarded(Guarded&& other) noexcept
      : n_(other.n_), page_(other.page_), mapped_(other.mapped_), start_(other.start_), data_(other.data_) {
    other.start_ = nullptr;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    if (start_) munmap(start_, mapped_);
  }

  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return n_; }

 private:
  size_t n_, page_, mapped_;
  char* start_;
  T* data_;
};

}  // namespace deepport::test

#include "gather.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "element.h"
#include "outside.h"
#include "parallel.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Rows are asked for so many rows before they are read: memory answers many requests at a time, each of them late.
constexpr int64_t ahead = 16;

// A table of elements E with scales S, one for every `block` numbers of a row; null where there are none.
template <class E, class S>
struct Memory {
  const E* rows;
  const S* scale;
  int64_t width, block;

  int64_t length() const { return width / packing<E>; }
  int64_t blocks() const { return (width + block - 1) / block; }

  void announce(int64_t id) const {
    prefetch(rows + id * length(), length() * int64_t(sizeof(E)));
    if (scale) prefetch(scale + id * blocks(), blocks() * int64_t(sizeof(S)));
  }

  template <class T>
  void read(int64_t id, T* to) const {
    const E* from = rows + id * length();
    if constexpr (std::is_same_v<E, T>)
      std::memcpy(to, from, size_t(width) * sizeof(T));
    else if (!scale)
      each(width, [&](int64_t c, auto access) { access.put(to + c, access.get(from + c / packing<E>)); });
    else
      decode_row(from, scale + id * blocks(), block, width, to);
  }
};

template <class E, class S, class T>
void gather(const Memory<E, S>& table, const int64_t* ids, T* found, int64_t count) {
  for (int64_t i = 0; i < ahead && i < count; ++i) table.announce(ids[i]);
  for (int64_t i = 0; i < count; ++i) {
    if (i + ahead < count) table.announce(ids[i + ahead]);
    table.read(ids[i], found + i * table.width);
  }
}

bool any_outside(const int64_t* ids, int64_t count, int64_t height) {
  bool outside = false;
  for (int64_t i = 0; i < count; ++i) outside |= uint64_t(ids[i]) >= uint64_t(height);
  return outside;
}

}  // namespace

void engram_gather(const void* rows, const void* scale, Format format, const int64_t* ids, void* found, Type type, int64_t count,
                   int64_t height, int64_t width) {
  if (any_outside(ids, count, height))
    outside("engram_gather: an id lies outside the table's %lld rows", static_cast<long long>(height));
  with_types(format, [&](auto element, auto scaling) {
    using E = decltype(element);
    using S = decltype(scaling);
    const Memory<E, S> table{static_cast<const E*>(rows), static_cast<const S*>(scale), width,
                            format.columns ? format.columns : std::max<int64_t>(width, 1)};
    visit(type, [&](auto zero) {
      using T = decltype(zero);
      T* to = static_cast<T*>(found);
      parallel(count, 1 + 16384 / (width + 1), [&](int64_t begin, int64_t end) {
        gather(table, ids + begin, to + begin * width, end - begin);
      });
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL

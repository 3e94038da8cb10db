#include "linear.h"

#include "dots.h"
#include "fours.h"
#include "gemm.h"
#include "parallel.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Tokens up to which weights are best read row by row (measured): tiles are as fast at 16 as at one, but take bfloat16 only, and
// vectors of eight lanes have registers for 6 rows by a panel, whose 16 columns are seldom all there.
int64_t few_tokens(const Weights& w) {
  if (Vec::lanes == 8) return w.scaled() ? 8 : 24;
  if (!has_tiles || w.format.element == Element::float32) return 8;
  return w.format.element == Element::bfloat16 ? 1 : 4;
}

// Activations [tokens, groups, columns], and where results [tokens, groups, rows] go.
struct Call {
  const void* x;
  void* y;
  Type type, result;
  int64_t tokens, groups;
  Weights w;

  int64_t stride() const { return groups * w.columns; }
};

// Threads share the rows of all groups: f(group, first row, last row).
template <class F>
void by_rows(const Call& call, F&& f) {
  const int64_t parts = (call.w.rows + rows_together - 1) / rows_together;
  const int64_t grain = 1 + (1 << 14) / (rows_together * call.w.columns * call.tokens + 1);
  parallel(call.groups * parts, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t group = begin / parts, first = begin % parts, last = std::min(parts, first + end - begin);
      f(group, first * rows_together, std::min(last * rows_together, call.w.rows));
      begin += last - first;
    }
  });
}

// Where a group's sums go, and as what: asked when they are stored, so that products are compiled once.
struct Storing {
  char* to;
  Type type;
  int64_t stride;

  Storing(const Call& call, int64_t group) : to(static_cast<char*>(call.y)), type(call.result), stride(call.groups * call.w.rows) {
    visit(type, [&](auto zero) { to += group * call.w.rows * int64_t(sizeof zero); });
  }

  void operator()(int64_t t, int64_t n, const float* sums, int64_t count) const {
    visit(type, [&](auto zero) {
      auto* y = reinterpret_cast<decltype(zero)*>(to) + t * stride + n;
      each(count, [&](int64_t i, auto access) { access.put(y + i, access.get(sums + i)); });
    });
  }
};

// x as floats, where it is not and has to be.
template <class X, class T>
const X* as(const T* x, int64_t n) {
  if constexpr (std::is_same_v<X, T>) {
    return x;
  } else {
    X* wide = Scratch<struct Widened>::template get<X>(n);
    parallel(n, 1 << 16, [&](int64_t begin, int64_t end) {
      each(end - begin, [&](int64_t i, auto access) { access.put(wide + begin + i, access.get(x + begin + i)); });
    });
    return wide;
  }
}

template <class X>
void with_few(const Call& call, const X* x) {
  by_rows(call, [&](int64_t group, int64_t first, int64_t last) {
    by_dots(call.w.from(group), first, last, x + group * call.w.columns, call.stride(), call.tokens, Storing(call, group));
  });
}

// MXFP4 in whole blocks, whose numbers are looked up in an order of their own (`fours.h`).
bool lies_in_fours(const Call& call) {
  return call.groups == 1 && call.w.rows % row_block == 0 && in_fours<Four>(call.w);
}

template <class T>
void with_fours(const Call& call, const T* x) {
  const int64_t columns = call.w.columns;
  const auto factors = spread(x, call.tokens, columns, Scratch<struct Spread>::template get<Four>(call.tokens * columns));
  by_rows(call, [&](int64_t, int64_t first, int64_t last) {
    const Storing put(call, 0);
    for (int64_t r = first; r < last; r += row_block)
      multiply_few(fours(call.w, 0, r), factors, [&](int64_t t, int64_t i, Vec y) {
        float sums[Vec::lanes];
        store(sums, y);
        put(t, r + i, sums, Vec::lanes);
      });
  });
}

// x in panels of factors.
template <class F, class T>
const F* in_panels(const Call& call, const T* x) {
  const int64_t columns = whole(call.w.columns, 32), across = (call.tokens + panel_columns - 1) / panel_columns;
  F* panels = Scratch<struct Packed>::template get<F>(call.groups * across * panel_columns * columns);
  parallel(call.groups * across, 1 + (1 << 14) / (columns * panel_columns + 1), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t token = p % across * panel_columns;
      const T* from = x + token * call.stride() + p / across * call.w.columns;
      pack_columns([&](int64_t i) { return from + i * call.stride(); }, std::min(panel_columns, call.tokens - token),
                   call.w.columns, panels + p * panel_columns * columns);
    }
  });
  return panels;
}

template <class F>
void with_many(const Call& call, const F* panels) {
  const int64_t of_group = whole(call.tokens, panel_columns) * whole(call.w.columns, 32);
  by_rows(call, [&](int64_t group, int64_t first, int64_t last) {
    by_panels(call.w.from(group), first, last, panels + group * of_group, call.tokens, Storing(call, group));
  });
}

template <class T>
void compute(const Call& call) {
  const T* x = static_cast<const T*>(call.x);
  const bool alone = call.tokens <= few_tokens(call.w);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if constexpr (has_fours)
      if (alone && lies_in_fours(call)) return with_fours(call, x);
    if (multiplies_pairs(call.w)) return alone ? with_few(call, x) : with_many(call, in_panels<Factor<T>>(call, x));
  }
  alone ? with_few(call, as<float>(x, call.tokens * call.stride())) : with_many(call, in_panels<float>(call, x));
}

}  // namespace

void linear(const void* x, const void* w, const void* scale, void* y, Type type, Type result, Format format, int64_t tokens,
            int64_t groups, int64_t rows, int64_t columns) {
  const Call call{x, y, type, result, tokens, groups, {w, scale, format, rows, columns}};
  visit(type, [&](auto zero) { compute<decltype(zero)>(call); });
}

}  // namespace deepport::DEEPPORT_LEVEL

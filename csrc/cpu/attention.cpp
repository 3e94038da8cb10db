#include "attention.h"

#include <cmath>

#include "attend.h"
#include "parallel.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

constexpr float infinity = __builtin_inff();

struct All;
struct Shared;

// Where o and lse go.
template <class T>
struct Result {
  T* o;
  float* lse;
};

// Divides by the sum of weights, the sink's with it.
template <class T>
void finish(const Call<T>& call, const Result<T>& result, int64_t t, const Partial& from) {
  constexpr float log2e = 1.44269504f, ln2 = 0.693147181f;
  for (int64_t h = 0; h < call.heads; ++h) {
    const float peak = from.peak[h], total = from.total[h], sink = call.sink ? call.sink[h] * log2e : -infinity;
    const float top = sink > peak ? sink : peak, weight = std::exp2(peak - top);
    const float sum = total * weight + std::exp2(sink - top);
    const Vec factor = splat(sum == 0 ? 0 : weight / sum);
    const float* o = from.o + h * call.width();
    T* to = result.o + (t * call.heads + h) * call.size;
    each(call.size, [&](int64_t d, auto access) { access.put(to + d, access.get(o + d) * factor); });
    result.lse[t * call.heads + h] = peak * ln2 + std::log(total);
  }
}

template <class T>
void nothing(const Call<T>& call, const Result<T>& result, int64_t t) {
  std::fill_n(result.o + t * call.heads * call.size, call.heads * call.size, T{});
  std::fill_n(result.lse + t * call.heads, call.heads, -infinity);
}

// Threads share out the tokens.
template <class T>
void by_tokens(const Call<T>& call, const Result<T>& result, int64_t tokens, std::atomic<bool>& outside) {
  parallel(tokens, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Worker<T> worker(call, outside);
    const int64_t rows = call.rows(), width = call.width();
    const Partial all(Scratch<All>::get<float>(Partial::floats(rows, width)), rows, width);
    for (int64_t t = begin; t < end; ++t) {
      const Sight<T> sight(call, t);
      const Parts parts(sight.count());
      if (!parts.count()) nothing(call, result, t);
      for (int64_t p = 0; p < parts.count() && !outside; ++p) worker.attend(t, sight, parts.begin(p), parts.end(p), all, p > 0);
      if (parts.count()) finish(call, result, t, all);
    }
  });
}

// Threads share out the parts of tokens' entries.
template <class T>
void by_parts(const Call<T>& call, const Result<T>& result, int64_t tokens, std::atomic<bool>& outside) {
  int64_t most = 1;
  for (int64_t t = 0; t < tokens; ++t) most = std::max(most, Parts(Sight<T>(call, t).count()).count());
  const int64_t rows = call.rows(), width = call.width(), floats = Partial::floats(rows, width);
  float* memory = Scratch<Shared>::get<float>(tokens * most * floats);
  const auto partial = [&](int64_t t, int64_t p) { return Partial(memory + (t * most + p) * floats, rows, width); };
  parallel(tokens * most, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Worker<T> worker(call, outside);
    for (int64_t unit = begin; unit < end && !outside; ++unit) {  // what is refused need not be long
      const int64_t t = unit / most, p = unit % most;
      const Sight<T> sight(call, t);
      const Parts parts(sight.count());
      if (p < parts.count()) worker.attend(t, sight, parts.begin(p), parts.end(p), partial(t, p), false);
    }
  });
  for (int64_t t = 0; t < tokens; ++t) {
    const Parts parts(Sight<T>(call, t).count());
    const Partial all = partial(t, 0);
    for (int64_t p = 1; p < parts.count(); ++p) {
      const Partial part = partial(t, p);
      join(all, part, rows);
      blend(all.o, width, part.o, width, rows, width, part);
    }
    parts.count() ? finish(call, result, t, all) : nothing(call, result, t);
  }
}

}  // namespace

void sparse_attention(const void* q, const void* window_pages, const int32_t* window_table, const void* compressed_pages,
                      const int32_t* compressed_table, const int32_t* indices, const float* sink, const int64_t* positions,
                      const int32_t* cu_seqlens, void* o, float* lse, Type type, int64_t tokens, int64_t heads, int64_t size,
                      int64_t sequences, int64_t window_count, int64_t window_page, int64_t window_columns,
                      int64_t compressed_count, int64_t compressed_page, int64_t compressed_columns, int64_t selected,
                      float scale, int64_t window_size, int64_t ratio) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Call<T> call = call_of<T>(q, window_pages, window_table, compressed_pages, compressed_table, indices, sink, positions,
                                    cu_seqlens, heads, size, sequences, window_count, window_page, window_columns,
                                    compressed_count, compressed_page, compressed_columns, selected, scale, window_size, ratio);
    const Result<T> result{static_cast<T*>(o), lse};
    call.batch.check(tokens);
    const int64_t present = call.batch.rows();
    std::atomic<bool> outside{false};
    if (present < 4 * threads())
      by_parts(call, result, present, outside);
    else
      by_tokens(call, result, present, outside);
    for (int64_t t = present; t < tokens; ++t) nothing(call, result, t);
    refuse(outside);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL

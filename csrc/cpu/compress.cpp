#include "compress.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "outside.h"
#include "paged.h"
#include "parallel.h"
#include "scratch.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Where a token's kv and biased gate are: in the state, or still as they came in.
template <class T>
struct Token {
  const float *stored, *stored_gate;
  const T *kv_, *gate_;
  const float* bias;

  template <class Access>
  Vec kv(int64_t c, Access access) const {
    return stored ? access.get(stored + c) : access.get(kv_ + c);
  }
  template <class Access>
  Vec gate(int64_t c, Access access) const {
    return stored ? access.get(stored_gate + c) : access.get(gate_ + c) + access.get(bias + c);
  }
};

// One sequence's new tokens, and its part of the state. Tokens are counted from the first of the unfinished window: `held` are in
// the state, `count` have come.
struct Sequence {
  int64_t row, held, count, window;
  float* state;

  int64_t complete(int64_t ratio) const { return count ? (held + count) / ratio : 0; }
};

template <class T>
struct Compression {
  const T *kv, *gate;
  const float* bias;
  float* state;
  const int32_t* slots;
  Ragged batch;
  int64_t tokens, channels, ratio;
  bool overlap;

  int64_t width() const { return overlap ? channels / 2 : channels; }
  int64_t unfinished() const { return overlap ? ratio : 0; }  // the first of the state's rows that hold the unfinished window

  Sequence sequence(int64_t b) const {
    const int64_t low = batch.cu_seqlens[b], count = std::min<int64_t>(batch.cu_seqlens[b + 1], tokens) - low;
    if (count <= 0) return {};
    const int64_t held = (batch.positions[low] % ratio + ratio) % ratio;
    const int64_t rows = unfinished() + ratio;
    return {low, held, count, (batch.positions[low] - held) / ratio, state + slots[b] * rows * 2 * channels};
  }

  float* row(const Sequence& of, int64_t r) const { return of.state + r * 2 * channels; }

  Token<T> stored(const Sequence& of, int64_t r) const { return {row(of, r), row(of, r) + channels, nullptr, nullptr, nullptr}; }

  Token<T> token(const Sequence& of, int64_t i) const {
    if (i < of.held) return stored(of, unfinished() + i);
    const int64_t at = (of.row + i - of.held) * channels;
    return {nullptr, nullptr, kv + at, gate + at, bias + i % ratio * channels};
  }
};

// f(token, its first channel) for all that the sequence's w-th complete window is made of.
template <class T, class F>
void for_tokens(const Compression<T>& by, const Sequence& of, int64_t w, F&& f) {
  if (by.overlap)
    for (int64_t i = 0; i < by.ratio; ++i) f(w ? by.token(of, (w - 1) * by.ratio + i) : by.stored(of, i), 0);
  for (int64_t i = 0; i < by.ratio; ++i) f(by.token(of, w * by.ratio + i), by.channels - by.width());
}

template <class T>
void compress(const Compression<T>& by, const Sequence& of, int64_t w, T* entry) {
  struct Tag;
  const int64_t width = by.width();
  float *top = Scratch<Tag>::template get<float>(3 * width), *weights = top + width, *sums = weights + width;
  std::fill(top, top + width, -std::numeric_limits<float>::infinity());
  std::fill(weights, weights + 2 * width, 0.0f);
  for_tokens(by, of, w, [&](const Token<T>& token, int64_t first) {
    each(width, [&](int64_t c, auto access) { access.put(top + c, most(access.get(top + c), token.gate(first + c, access))); });
  });
  for_tokens(by, of, w, [&](const Token<T>& token, int64_t first) {
    each(width, [&](int64_t c, auto access) {
      const Vec weight = exp(token.gate(first + c, access) - access.get(top + c));
      access.put(weights + c, access.get(weights + c) + weight);
      access.put(sums + c, fma(weight, token.kv(first + c, access), access.get(sums + c)));
    });
  });
  each(width, [&](int64_t c, auto access) { access.put(entry + c, access.get(sums + c) / access.get(weights + c)); });
}

template <class T>
void keep(const Compression<T>& by, const Token<T>& token, float* row) {
  each(by.channels, [&](int64_t c, auto access) {
    access.put(row + c, token.kv(c, access));
    access.put(row + by.channels + c, token.gate(c, access));
  });
}

// The state after these tokens: the last complete window (with overlap), then the unfinished one.
template <class T>
void carry(const Compression<T>& by, const Sequence& of) {
  const int64_t complete = of.complete(by.ratio), begun = complete * by.ratio;
  if (by.overlap && complete)
    for (int64_t i = 0; i < by.ratio; ++i) keep(by, by.token(of, begun - by.ratio + i), by.row(of, i));
  for (int64_t i = complete ? begun : of.held; i < of.held + of.count; ++i)
    keep(by, by.token(of, i), by.row(of, by.unfinished() + i - begun));
}

template <class T>
void compress_all(const Compression<T>& by, T* entries, int64_t* ids, int32_t* cu_entries) {
  const int64_t sequences = by.batch.sequences, width = by.width(), most_entries = by.tokens / by.ratio + sequences;
  cu_entries[0] = 0;
  for (int64_t b = 0; b < sequences; ++b) cu_entries[b + 1] = cu_entries[b] + int32_t(by.sequence(b).complete(by.ratio));
  const Ragged found{nullptr, cu_entries, sequences};
  parallel(found.rows(), 1 + 8192 / (by.ratio * by.channels + 1), [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e) {
      const int64_t b = found.sequence_of(e), w = e - cu_entries[b];
      const Sequence of = by.sequence(b);
      compress(by, of, w, entries + e * width);
      ids[e] = of.window + w;
    }
  });
  std::fill(ids + found.rows(), ids + most_entries, -1);
  std::memset(static_cast<void*>(entries + found.rows() * width), 0, size_t((most_entries - found.rows()) * width) * sizeof(T));
  parallel(sequences, 1 + 32768 / (by.ratio * by.channels + 1), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) carry(by, by.sequence(b));
  });
}

}  // namespace

void compress_kv(const void* kv, const void* gate, const float* bias, float* state, const int32_t* slots,
                 const int64_t* positions, const int32_t* cu_seqlens, void* entries, int64_t* ids, int32_t* cu_entries, Type type,
                 int64_t tokens, int64_t sequences, int64_t places, int64_t channels, int64_t ratio, bool overlap) {
  for (int64_t b = 0; b < sequences; ++b)
    if (slots[b] < 0 || slots[b] >= places) outside("compress_kv: a slot is none of the state's %lld", static_cast<long long>(places));
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Compression<T> by{static_cast<const T*>(kv), static_cast<const T*>(gate), bias, state, slots,
                            {positions, cu_seqlens, sequences}, tokens, channels, ratio, overlap};
    by.batch.check(tokens);
    compress_all(by, static_cast<T*>(entries), ids, cu_entries);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL

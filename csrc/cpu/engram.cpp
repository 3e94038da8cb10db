#include "engram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "outside.h"
#include "paged.h"
#include "parallel.h"
#include "scratch.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

int64_t remainder(int64_t a, int64_t modulus) {
  if (modulus == -1) return 0;  // the one division that can overflow
  const int64_t r = a % modulus;
  return r && (r ^ modulus) < 0 ? r + modulus : r;
}

struct Text {
  const int64_t *ids, *history;
  const bool* dead;
  Ragged batch;
  int64_t orders, pad, boundary;

  // The token j places back from row t, which is the place-th of sequence b; negative where there is none.
  int64_t token(int64_t b, int64_t t, int64_t place, int64_t j) const {
    if (place < j) return history[b * orders + orders + place - j];
    return dead && dead[t - j] ? -1 : ids[t - j];
  }

  // seen[j], as it counts in the hash.
  void look_back(int64_t b, int64_t t, int64_t* seen) const {
    const int64_t place = t - batch.cu_seqlens[b];
    bool stop = false;
    for (int64_t j = 0; j <= orders; ++j) {
      const int64_t found = stop ? -1 : token(b, t, place, j);
      stop = stop || found < 0 || (j && found == boundary);
      seen[j] = stop ? pad : found;
    }
  }
};

// The sums that a gate is made of: of h^2, of k^2, and of h w_h k w_k.
struct Sums {
  float h, k, product;
};

template <class T>
Sums sums_of(const T* hidden, const T* key, const float* w_h, const float* w_k, int64_t width) {
  Vec of_h = zero(), of_k = zero(), products = zero();
  each(width, [&](int64_t c, auto access) {
    const Vec h = access.get(hidden + c), k = access.get(key + c);
    of_h = fma(h, h, of_h);
    of_k = fma(k, k, of_k);
    products = fma(h * access.get(w_h + c), k * access.get(w_k + c), products);
  });
  return {sum(of_h), sum(of_k), sum(products)};
}

float sign(float d, int64_t of_zero) {
  if (d != 0) return d < 0 ? -1.0f : 1.0f;
  return of_zero == 0 ? 0.0f : of_zero == 1 && std::signbit(d) ? -1.0f : 1.0f;
}

// A convolution is computed in blocks of channels, each from the first token to the last, so that a thread which has read a block's
// state may then write it.
constexpr int64_t block_channels = 256;

template <class T>
struct Convolution {
  const T* gated;
  const float *w_norm, *factors;  // factors [rows, n]: 1 / rms of each token's streams
  const void* w_conv;
  Type w_type;
  float* state;
  const int32_t* slots;
  Ragged batch;
  T* out;
  int64_t n, width, taps, dilation;

  int64_t channels() const { return n * width; }
  int64_t depth() const { return (taps - 1) * dilation; }
};

// `count` channels of a stream, the first of all being `first`, with the convolution's weights by tap: the newest token's first.
struct Block {
  int64_t stream, first, count;
  const float* weights;
};

template <class T>
struct Sequence {
  const Convolution<T>& of;
  const Block& block;
  int64_t low;
  float* state;

  // Normed numbers from channel c of the block on, of the place-th new token, or of one before them.
  template <class Access>
  Vec normed(int64_t place, int64_t c, Access access) const {
    if (place < 0) return access.get(state + (of.depth() + place) * of.channels() + block.first + c);
    const int64_t t = low + place;
    return access.get(of.gated + t * of.channels() + block.first + c) * splat(of.factors[t * of.n + block.stream]) *
           access.get(of.w_norm + block.first + c);
  }

  void convolve(int64_t place) const {
    const int64_t at = (low + place) * of.channels() + block.first;
    each(block.count, [&](int64_t c, auto access) {
      Vec total = zero();
      for (int64_t j = 0; j < of.taps; ++j)
        total = fma(access.get(block.weights + j * block_channels + c), normed(place - j * of.dilation, c, access), total);
      access.put(of.out + at + c, access.get(of.gated + at + c) + silu(total));
    });
  }

  // The state behind `count` new tokens. A row is read before it is written: its successor comes from further back.
  void carry(int64_t count) const {
    for (int64_t r = 0; r < of.depth(); ++r)
      each(block.count, [&](int64_t c, auto access) {
        access.put(state + r * of.channels() + block.first + c, normed(count - of.depth() + r, c, access));
      });
  }
};

template <class T>
void convolve(const Convolution<T>& by, int64_t stream, int64_t first, int64_t count) {
  struct Tag;
  float* weights = Scratch<Tag>::template get<float>(by.taps * block_channels);
  visit(by.w_type, [&](auto element) {
    const auto* from = static_cast<const decltype(element)*>(by.w_conv);
    for (int64_t c = 0; c < count; ++c)
      for (int64_t j = 0; j < by.taps; ++j) weights[j * block_channels + c] = widen(from[(first + c + 1) * by.taps - 1 - j]);
  });
  const Block block{stream, first, count, weights};
  for (int64_t b = 0; b < by.batch.sequences; ++b) {
    const int64_t low = by.batch.cu_seqlens[b], tokens = by.batch.cu_seqlens[b + 1] - low;
    const Sequence<T> sequence{by, block, low, by.state + by.slots[b] * by.depth() * by.channels()};
    for (int64_t place = 0; place < tokens; ++place) sequence.convolve(place);
    if (tokens > 0) sequence.carry(tokens);
  }
}

template <class T>
void convolve_all(Convolution<T> by, int64_t tokens, float eps) {
  struct Tag;
  const int64_t rows = by.batch.rows(), across = (by.width + block_channels - 1) / block_channels;
  float* factors = Scratch<Tag>::template get<float>(rows * by.n);
  parallel(rows * by.n, 1 + 16384 / (by.width + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      factors[i] = 1.0f / std::sqrt(squares(by.gated + i * by.width, by.width) / float(by.width) + eps);
  });
  by.factors = factors;
  const int64_t touched = (rows + by.batch.sequences * by.depth()) * block_channels;
  parallel(by.n * across, 1 + 16384 / (touched + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t stream = i / across, c = i % across * block_channels;
      convolve(by, stream, stream * by.width + c, std::min(block_channels, by.width - c));
    }
  });
  std::memset(static_cast<void*>(by.out + rows * by.channels()), 0, size_t((tokens - rows) * by.channels()) * sizeof(T));
}

}  // namespace

void engram_hash(const int64_t* ids, const int64_t* history, const int32_t* cu_seqlens, const bool* dead,
                 const int64_t* multipliers, const int64_t* moduli, const int64_t* offsets, int64_t* rows, int64_t tokens,
                 int64_t sequences, int64_t layers, int64_t orders, int64_t heads, int64_t pad, int64_t boundary) {
  const int64_t width = orders * heads;
  if (std::count(moduli, moduli + layers * width, 0)) throw std::runtime_error("engram_hash: a modulus is 0");
  const Text text{ids, history, dead, {nullptr, cu_seqlens, sequences}, orders, pad, boundary};
  text.batch.check(tokens);
  for (int64_t l = 0; l < layers; ++l)
    std::fill(rows + (l * tokens + text.batch.rows()) * width, rows + (l + 1) * tokens * width, 0);
  parallel(text.batch.rows(), 1 + 4096 / (layers * width + 1), [&](int64_t begin, int64_t end) {
    struct Tag;
    int64_t* seen = Scratch<Tag>::template get<int64_t>(orders + 1);
    for (int64_t t = begin; t < end; ++t) {
      text.look_back(text.batch.sequence_of(t), t, seen);
      for (int64_t l = 0; l < layers; ++l) {
        const int64_t* multiplier = multipliers + l * (orders + 1);
        uint64_t mixed = uint64_t(seen[0]) * uint64_t(multiplier[0]);
        for (int64_t i = 0; i < width; ++i) {
          if (const int64_t j = 1 + i / heads; i % heads == 0) mixed ^= uint64_t(seen[j]) * uint64_t(multiplier[j]);
          rows[(l * tokens + t) * width + i] = remainder(int64_t(mixed), moduli[l * width + i]) + offsets[l * width + i];
        }
      }
    }
  });
}

void engram_gate(const void* hidden, const void* key, const void* value, const float* w_h, const float* w_k, void* gated,
                 Type type, int64_t tokens, int64_t n, int64_t width, float eps, float clamp, int64_t zero) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const T *h = static_cast<const T*>(hidden), *k = static_cast<const T*>(key), *v = static_cast<const T*>(value);
    T* to = static_cast<T*>(gated);
    const float size = float(width);
    parallel(tokens * n, 1 + 16384 / (width + 1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Sums of = sums_of(h + i * width, k + i * width, w_h + i % n * width, w_k + i % n * width, width);
        const float d = of.product / std::sqrt(of.h / size + eps) / std::sqrt(of.k / size + eps) / std::sqrt(size);
        const float magnitude = std::sqrt(std::abs(d) < clamp ? clamp : std::abs(d));
        const Vec gate = sigmoid(splat(sign(d, zero) * magnitude));
        const T* from = v + i / n * width;
        each(width, [&](int64_t c, auto access) { access.put(to + i * width + c, gate * access.get(from + c)); });
      }
    });
  });
}

void engram_conv(const void* gated, const float* w_norm, const void* w_conv, Type w_type, float* state, const int32_t* slots,
                 const int32_t* cu_seqlens, void* out, Type type, int64_t tokens, int64_t sequences, int64_t places, int64_t n,
                 int64_t width, int64_t taps, int64_t dilation, float eps) {
  for (int64_t b = 0; b < sequences; ++b)
    if (slots[b] < 0 || slots[b] >= places) outside("engram_conv: a slot is none of the state's %lld", static_cast<long long>(places));
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Convolution<T> by{static_cast<const T*>(gated), w_norm, nullptr, w_conv, w_type, state, slots,
                            {nullptr, cu_seqlens, sequences}, static_cast<T*>(out), n, width, taps, dilation};
    by.batch.check(tokens);
    convolve_all(by, tokens, eps);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL

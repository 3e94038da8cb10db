#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "batches.h"
#include "threads.h"

namespace deepport::test {
namespace {

double at(const Guarded<float>& of, int64_t i) { return double(of[size_t(i)]); }
double at(const Guarded<bfloat16>& of, int64_t i) { return double(host::widen(of[size_t(i)])); }

Guarded<int64_t> numbers(std::mt19937_64& g, size_t n, int64_t low, int64_t high) {
  std::uniform_int_distribution<int64_t> draw(low, high);
  Guarded<int64_t> found(n);
  for (size_t i = 0; i < n; ++i) found[i] = draw(g);
  return found;
}

// A text is told token by token: the hash of each is that of the whole text.
void hash_agrees(const Table& kernels, const std::vector<int64_t>& lengths, int64_t boundary, bool some_dead) {
  const int64_t layers = 2, orders = 3, heads = 5, width = orders * heads, pad = 2;
  std::mt19937_64 g(lengths.size());
  const Batch batch(lengths, std::vector<int64_t>(lengths.size()), 1);
  const Guarded<int64_t> ids = numbers(g, size_t(batch.tokens), 0, 5), history = numbers(g, lengths.size() * size_t(orders), -1, 5);
  const Guarded<int64_t> by = numbers(g, size_t(layers * (orders + 1)), INT64_MIN, INT64_MAX);
  Guarded<int64_t> moduli = numbers(g, size_t(layers * width), 2, 1 << 20);
  const Guarded<int64_t> offsets = numbers(g, size_t(layers * width), 0, 1 << 20);
  moduli[0] = -1;
  moduli[1] = -7;
  Guarded<bool> dead(size_t(batch.tokens));
  for (size_t i = 0; i < dead.size(); ++i) dead[i] = some_dead && i % 4 == 3;
  Guarded<int64_t> rows(size_t(layers * batch.tokens * width));
  std::fill(rows.data(), rows.data() + rows.size(), -1);
  kernels.engram_hash(ids.data(), history.data(), batch.cu_seqlens.data(), some_dead ? dead.data() : nullptr, by.data(),
                      moduli.data(), offsets.data(), rows.data(), batch.tokens, batch.sequences(), layers, orders, heads, pad, boundary);
  for (int64_t l = 0; l < layers; ++l)
    for (int64_t i = 0; i < width; ++i) CHECK(rows[size_t(((l + 1) * batch.tokens - 1) * width + i)] == 0);
  for (size_t b = 0; b < lengths.size(); ++b) {
    std::vector<int64_t> text(history.data() + b * size_t(orders), history.data() + (b + 1) * size_t(orders));
    for (int64_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t) {
      text.push_back(dead[size_t(t)] ? -1 : ids[size_t(t)]);
      for (int64_t l = 0; l < layers; ++l) {
        bool stop = false;
        uint64_t mixed = 0;
        for (int64_t j = 0; j <= orders; ++j) {
          const int64_t seen = text[text.size() - 1 - size_t(j)];
          stop = stop || seen < 0 || (j > 0 && seen == boundary);
          mixed ^= uint64_t(stop ? pad : seen) * uint64_t(by[size_t(l * (orders + 1) + j)]);
          for (int64_t h = 0; j && h < heads; ++h) {
            const size_t i = size_t(l * width + (j - 1) * heads + h);
            const __int128 modulus = moduli[i], found = rows[size_t((l * batch.tokens + t) * width + (j - 1) * heads + h)] - offsets[i];
            CHECK(modulus > 0 ? found >= 0 && found < modulus : found <= 0 && found > modulus);
            CHECK((__int128(int64_t(mixed)) - found) % modulus == 0);
          }
        }
      }
    }
  }
}

template <class T>
void gate_agrees(const Table& kernels, int64_t tokens, int64_t n, int64_t width, int64_t zero) {
  std::mt19937 g(unsigned(tokens + width));
  const size_t size = size_t(tokens * n * width);
  const Guarded<T> hidden = normal<T>(g, size), value = normal<T>(g, size_t(tokens * width));
  Guarded<T> key = normal<T>(g, size), gated(size);
  for (int64_t c = 0; tokens && c < width; ++c) key[size_t(c)] = {};
  const Guarded<float> w_h = normal<float>(g, size_t(n * width)), w_k = normal<float>(g, size_t(n * width));
  kernels.engram_gate(hidden.data(), key.data(), value.data(), w_h.data(), w_k.data(), gated.data(), type_of<T>, tokens, n, width,
                      1e-6f, 1e-6f, zero);
  for (int64_t row = 0; row < tokens * n; ++row) {
    double h = 0, k = 0, product = 0, terms = 0;
    for (int64_t c = 0; c < width; ++c) {
      const double x = at(hidden, row * width + c), y = at(key, row * width + c);
      const double term = x * at(w_h, row % n * width + c) * y * at(w_k, row % n * width + c);
      h += x * x / double(width);
      k += y * y / double(width);
      product += term;
      terms += std::abs(term);
    }
    const double factor = 1 / std::sqrt((h + 1e-6) * (k + 1e-6) * double(width)), d = product * factor;
    const double sign = d > 0 ? 1 : d < 0 ? -1 : zero ? 1 : 0, size_of_d = std::max(std::abs(d), 1e-6);
    const double slack = terms * factor * 0x1p-20 / std::sqrt(size_of_d) + 0x1p-20;
    for (int64_t c = 0; c < width; ++c) {
      const double v = at(value, row / n * width + c), wanted = v / (1 + std::exp(-sign * std::sqrt(size_of_d)));
      CHECK(near(at(gated, row * width + c), wanted, rounding<T>, std::abs(v) * slack));
    }
  }
}

// A convolution whose sequences go on call by call; every sequence's normed rows are remembered.
template <class T, class W = T>
struct Convolution {
  std::mt19937 generator{3};
  int64_t n, width, taps, dilation, channels, depth;
  size_t sequences;
  Guarded<float> w_norm, state;
  Guarded<W> w_conv;
  Guarded<int32_t> slots;
  std::vector<std::vector<std::vector<double>>> normed;

  Convolution(size_t count, int64_t streams, int64_t of_stream, int64_t kernel, int64_t apart)
      : n(streams), width(of_stream), taps(kernel), dilation(apart), channels(n * width), depth((taps - 1) * dilation),
        sequences(count), w_norm(normal<float>(generator, size_t(channels))), state((count + 1) * size_t(depth * channels)),
        w_conv(normal<W>(generator, size_t(channels * taps))), slots(count),
        normed(count, std::vector<std::vector<double>>(size_t(depth), std::vector<double>(size_t(channels)))) {
    for (size_t b = 0; b < count; ++b) slots[b] = int32_t(count - b);
  }

  std::vector<char> go_on(const Table& kernels, const std::vector<int64_t>& lengths) {
    const Batch batch(lengths, std::vector<int64_t>(sequences), 1);
    const Guarded<T> gated = normal<T>(generator, size_t(batch.tokens * channels));
    Guarded<T> out(size_t(batch.tokens * channels));
    std::memset(static_cast<void*>(out.data()), 0x7f, out.size() * sizeof(T));
    kernels.engram_conv(gated.data(), w_norm.data(), w_conv.data(), type_of<W>, state.data(), slots.data(), batch.cu_seqlens.data(),
                        out.data(), type_of<T>, batch.tokens, batch.sequences(), batch.sequences() + 1, n, width, taps, dilation, 1e-6f);
    for (size_t b = 0; b < sequences; ++b) {
      for (int64_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t) check(b, gated, out, t);
      for (int64_t r = 0; r < depth; ++r)
        for (int64_t c = 0; c < channels; ++c) {
          const double wanted = normed[b][normed[b].size() - size_t(depth - r)][size_t(c)];
          CHECK(near(at(state, (slots[b] * depth + r) * channels + c), wanted, 0x1p-20));
        }
    }
    for (int64_t c = 0; c < channels; ++c) CHECK(at(out, (batch.tokens - 1) * channels + c) == 0);
    const char* bytes = reinterpret_cast<const char*>(out.data());
    return {bytes, bytes + out.size() * sizeof(T)};
  }

 private:
  void check(size_t b, const Guarded<T>& gated, const Guarded<T>& out, int64_t t) {
    auto& row = normed[b].emplace_back(size_t(channels));
    for (int64_t i = 0; i < n; ++i) {
      double squares = 0;
      for (int64_t c = i * width; c < (i + 1) * width; ++c) squares += std::pow(at(gated, t * channels + c), 2) / double(width);
      for (int64_t c = i * width; c < (i + 1) * width; ++c)
        row[size_t(c)] = at(gated, t * channels + c) / std::sqrt(squares + 1e-6) * at(w_norm, c);
    }
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0, size = 0;
      for (int64_t j = 0; j < taps; ++j) {
        const double term = at(w_conv, c * taps + taps - 1 - j) * normed[b][normed[b].size() - 1 - size_t(j * dilation)][size_t(c)];
        total += term;
        size += std::abs(term);
      }
      const double wanted = at(gated, t * channels + c) + total / (1 + std::exp(-total));
      CHECK(near(at(out, t * channels + c), wanted, rounding<T>, (size + std::abs(at(gated, t * channels + c))) * 0x1p-19));
    }
  }
};

}  // namespace

TEST(engram_hash_sees_the_same_text_in_any_chunks) {
  for (int64_t boundary : {-1, 0})
    for (bool some_dead : {false, true}) {
      hash_agrees(kernels, {1}, boundary, some_dead);
      hash_agrees(kernels, {0, 9, 2, 300}, boundary, some_dead);
      hash_agrees(kernels, {0}, boundary, some_dead);
    }
}

TEST(engram_hash_refuses_a_modulus_of_zero) {
  const int64_t none = 0, one = 1;
  const int32_t bounds[2] = {0, 1};
  int64_t row = 0;
  bool refused = false;
  try {
    kernels.engram_hash(&one, &one, bounds, nullptr, &one, &none, &one, &row, 1, 1, 1, 1, 1, 0, -1);
  } catch (const std::runtime_error&) {
    refused = true;
  }
  CHECK(refused);
}

TEST(engram_gate_of_any_size) {
  for (int64_t tokens : {0, 1, 7})
    for (int64_t n : {1, 4})
      for (int64_t width : {1, 16, 37})
        for (int64_t zero : {0, 1, 2}) {
          gate_agrees<float>(kernels, tokens, n, width, zero);
          gate_agrees<bfloat16>(kernels, tokens, n, width, zero);
        }
}

TEST(engram_convolution_of_any_size) {
  for (int64_t width : {1, 21, 300})
    for (auto [taps, dilation] : {std::pair<int64_t, int64_t>{4, 3}, {3, 1}, {1, 2}}) {
      Convolution<float> wide(3, 2, width, taps, dilation);
      Convolution<bfloat16> narrow(3, 1, width, taps, dilation);
      Convolution<bfloat16, float> mixed(3, 1, width, taps, dilation);
      for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{1, 0, 20}, {1, 1, 1}, {2, 1, 0}, {0, 0, 0}, {5, 9, 4}}) {
        wide.go_on(kernels, lengths);
        narrow.go_on(kernels, lengths);
        mixed.go_on(kernels, lengths);
      }
    }
}

TEST(engram_convolution_is_the_same_for_any_threads) {
  same_on_any_threads([&] { return Convolution<bfloat16>(2, 4, 700, 4, 3).go_on(kernels, {40, 1}); });
}

}  // namespace deepport::test

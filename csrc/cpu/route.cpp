#include "route.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "parallel.h"
#include "scratch.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Scores;
struct Ranks;

// Whole vectors that hold n numbers.
int64_t padded(int64_t n) { return (n + Vec::lanes - 1) / Vec::lanes * Vec::lanes; }

template <class F>
void replace(float* s, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += Vec::lanes) store(s + i, f(load(s + i)));
}

void softmax(float* s, int64_t n) {
  Vec above = load(s), total = zero();
  for (int64_t i = Vec::lanes; i < n; i += Vec::lanes) above = most(above, load(s + i));
  const Vec top = splat(largest(above));
  replace(s, n, [&](Vec x) {
    const Vec y = exp(x - top);
    total = total + y;
    return y;
  });
  const Vec whole = splat(sum(total));
  replace(s, n, [&](Vec x) { return x / whole; });
}

// Scores in s, which is padded to whole vectors.
template <class T>
void score(const T* logits, float* s, int64_t experts, Scoring scoring) {
  each(experts, [&](int64_t i, auto access) { store(s + i, access.get(logits + i)); });
  const int64_t n = padded(experts);
  for (int64_t i = experts; i < n; ++i) s[i] = -std::numeric_limits<float>::infinity();
  if (scoring == Scoring::softmax)
    softmax(s, n);
  else if (scoring == Scoring::sigmoid)
    replace(s, n, [](Vec x) { return sigmoid(x); });
  else
    replace(s, n, [](Vec x) { return root(softplus(x)); });
}

// An integer that orders as floats do; both zeros are one, and NaN is above all.
int32_t ordered(float x) {
  if (std::isnan(x)) return std::numeric_limits<int32_t>::max();
  x += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}

// The k best of the experts by rank, each in its place among those found so far: a later one has to be better to come before.
void choose(const int32_t* rank, int64_t experts, int32_t* ids, int64_t k) {
  int64_t found = 0;
  for (int32_t e = 0; e < experts; ++e) {
    if (found == k && rank[e] <= rank[ids[k - 1]]) continue;
    int64_t place = found < k ? found++ : k - 1;
    for (; place > 0 && rank[ids[place - 1]] < rank[e]; --place) ids[place] = ids[place - 1];
    ids[place] = e;
  }
}

// The table's row, or false where it has an expert that there is not.
bool frozen(const int64_t* row, int64_t experts, int32_t* ids, int64_t k) {
  for (int64_t j = 0; j < k; ++j) {
    if (row[j] < 0 || row[j] >= experts) return false;
    ids[j] = int32_t(row[j]);
  }
  return true;
}

void weigh(const float* s, const int32_t* ids, float* weights, int64_t k, float scale) {
  float total = 1e-20f;
  for (int64_t j = 0; j < k; ++j) total += s[ids[j]];
  for (int64_t j = 0; j < k; ++j) weights[j] = s[ids[j]] / total * scale;
}

}  // namespace

void route(const void* logits, Type type, const float* bias, const int64_t* table, const int64_t* input_ids,
           int64_t vocabulary, float* weights, int32_t* ids, int64_t tokens, int64_t experts, int64_t k, Scoring scoring,
           float scale) {
  std::atomic<bool> outside{false};
  visit(type, [&](auto element) {
    using T = decltype(element);
    parallel(tokens, 1 + 4096 / (experts + 1), [&](int64_t begin, int64_t end) {
      float* s = Scratch<Scores>::get<float>(padded(experts));
      int32_t* rank = Scratch<Ranks>::get<int32_t>(experts);
      for (int64_t t = begin; t < end; ++t) {
        if (table && (input_ids[t] < 0 || input_ids[t] >= vocabulary ||
                      !frozen(table + input_ids[t] * k, experts, ids + t * k, k))) {
          outside = true;
          return;
        }
        score(static_cast<const T*>(logits) + t * experts, s, experts, scoring);
        if (!table) {
          for (int64_t e = 0; e < experts; ++e) rank[e] = ordered(bias ? s[e] + bias[e] : s[e]);
          choose(rank, experts, ids + t * k, k);
        }
        weigh(s, ids + t * k, weights + t * k, k, scale);
      }
    });
  });
  if (outside) throw std::out_of_range("route: an input id is outside the table, or the table names an expert that there is not");
}

}  // namespace deepport::DEEPPORT_LEVEL

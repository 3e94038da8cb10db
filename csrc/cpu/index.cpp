#include <atomic>
#include <stdexcept>

#include "attention.h"
#include "pack.h"
#include "paged.h"
#include "parallel.h"
#include "scratch.h"
#include "select.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

constexpr int64_t block = 32;           // entries that are scored at once
constexpr int64_t most_tokens = 8;      // that share the reading of a block
constexpr int64_t least_entries = 512;  // worth a part of their own

struct Queries;
struct Keys;
struct Products;
struct Candidates;
struct Choices;

template <class T>
struct Call {
  const T* q;
  const float* weights;
  Paged<T> keys;
  Ragged batch;
  int64_t heads, size, ratio, k;

  int64_t rows() const { return whole(heads, panel_columns); }
  int64_t width() const { return whole(size, 32); }
  int64_t ready(int64_t t) const { return std::max<int64_t>((batch.positions[t] + 1) / ratio, 0); }
};

// Tokens of a sequence, of which the last sees the most.
struct Group {
  int64_t sequence, begin, end;
};

// The group that begins at a token.
template <class T>
Group group_at(const Call<T>& call, int64_t t, int64_t end) {
  const int64_t sequence = call.batch.sequence_of(t);
  return {sequence, t, std::min({t + most_tokens, end, int64_t(call.batch.cu_seqlens[sequence + 1])})};
}

template <class T>
class Scorer {
  using F = Factor<T>;

 public:
  Scorer(const Call<T>& call, std::atomic<bool>& outside)
      : call_(call), outside_(outside), rows_(call.rows()), width_(call.width()) {
    queries_ = Scratch<Queries>::template get<F>(most_tokens * rows_ * width_);
    keys_ = Scratch<Keys>::template get<F>(block * width_);
    products_ = Scratch<Products>::template get<float>(block * rows_);
  }

  // Candidates among the entries [begin, end), a multiple of the block, for each token of the group.
  void choose(const Group& tokens, int64_t begin, int64_t end, Best* best) {
    for (int64_t t = tokens.begin; t < tokens.end; ++t)
      pack_transposed(call_.q + t * call_.heads * call_.size, call_.heads, call_.size, queries(t - tokens.begin));
    for (int64_t s = begin; s < end && !outside_; s += block) {  // what is refused need not be long
      const F* keys = read(tokens.sequence, s, std::min(s + block, end));
      for (int64_t t = tokens.begin; t < tokens.end; ++t) {
        const int64_t seen = std::min(end, call_.ready(t)) - s;
        if (seen <= 0) continue;
        product(keys, width_, block, queries(t - tokens.begin), rows_, width_, products_, rows_);
        score(t, s, std::min(seen, block), best[t - tokens.begin]);
      }
    }
  }

 private:
  F* queries(int64_t i) { return queries_ + i * rows_ * width_; }

  // Keys as they lie, where a block of them lies together.
  const F* read(int64_t sequence, int64_t begin, int64_t end) {
    if constexpr (std::is_same_v<T, F>) {
      const T* first = call_.keys.row(sequence, begin);
      if (first && call_.keys.page % block == 0 && call_.size == width_) return first;
    }
    for (int64_t s = begin; s < begin + block; ++s) {
      const T* row = s < end ? call_.keys.row(sequence, s) : nullptr;
      if (s < end && row == nullptr) outside_ = true;
      copy_row(row, row ? call_.size : 0, keys_ + (s - begin) * width_, width_);
    }
    return keys_;
  }

  void score(int64_t t, int64_t first, int64_t n, Best& best) {
    const float* weights = call_.weights + t * call_.heads;
    for (int64_t s = 0; s < n; s += Vec::lanes) {
      Vec each_head[Vec::lanes];
      for (int64_t i = 0; i < Vec::lanes; ++i) {
        each_head[i] = zero();
        each(call_.heads, [&](int64_t h, auto access) {
          const Vec positive = most(zero(), access.get(products_ + (s + i) * rows_ + h));  // NaN stays
          each_head[i] = fma(access.get(weights + h), positive, each_head[i]);
        });
      }
      const uint32_t lanes = n - s < Vec::lanes ? (1u << (n - s)) - 1 : uint32_t((1ull << Vec::lanes) - 1);
      best.add(sums(each_head), int32_t(first + s), lanes);
    }
  }

  const Call<T>& call_;
  std::atomic<bool>& outside_;
  int64_t rows_, width_;
  F *queries_, *keys_;
  float* products_;
};

// Room for the candidates of n tokens or parts.
Best* choices(int64_t n, int64_t k) {
  Best* found = Scratch<Choices>::get<Best>(n);
  float* memory = Scratch<Candidates>::get<float>(n * Best::floats(k));
  for (int64_t i = 0; i < n; ++i) new (found + i) Best(memory + i * Best::floats(k), k);
  return found;
}

// Threads share out the tokens.
template <class T>
void by_tokens(const Call<T>& call, int64_t tokens, int32_t* ids, std::atomic<bool>& outside) {
  parallel(tokens, most_tokens, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Scorer<T> scorer(call, outside);
    for (int64_t t = begin; t < end;) {
      const Group group = group_at(call, t, end);
      Best* best = choices(most_tokens, call.k);
      scorer.choose(group, 0, call.ready(group.end - 1), best);
      for (; t < group.end; ++t) best[t - group.begin].list(ids + t * call.k);
    }
  });
}

// Threads share out the entries. What is chosen does not depend on the parts: they are put together in order.
template <class T>
void by_entries(const Call<T>& call, int64_t tokens, int32_t* ids, std::atomic<bool>& outside) {
  int64_t longest = 0;
  for (int64_t t = 0; t < tokens; ++t) longest = std::max(longest, call.ready(t));
  const int64_t parts = std::clamp<int64_t>(longest / least_entries, 1, threads());
  Best* best = choices(parts * tokens, call.k);
  parallel(parts, 1, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    Scorer<T> scorer(call, outside);
    for (int64_t t = 0; t < tokens;) {
      const Group group = group_at(call, t, tokens);
      const int64_t ready = call.ready(group.end - 1), each = whole((ready + parts - 1) / parts, block);
      for (int64_t part = begin; part < end; ++part)
        scorer.choose(group, part * each, std::min((part + 1) * each, ready), best + part * tokens + t);
      t = group.end;
    }
  });
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t part = 1; part < parts; ++part) best[t].add(best[part * tokens + t]);
    best[t].list(ids + t * call.k);
  }
}

}  // namespace

void index_topk(const void* q, const float* weights, const void* pages, const int32_t* table, const int64_t* positions,
                const int32_t* cu_seqlens, int32_t* ids, Type type, int64_t tokens, int64_t heads, int64_t size, int64_t sequences,
                int64_t count, int64_t page, int64_t columns, int64_t ratio, int64_t k) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Call<T> call{static_cast<const T*>(q), weights, {static_cast<const T*>(pages), table, count, page, columns, size},
                       {positions, cu_seqlens, sequences}, heads, size, ratio, k};
    call.batch.check(tokens);
    const int64_t present = call.batch.rows();
    std::atomic<bool> outside{false};
    if (present < most_tokens * threads())
      by_entries(call, present, ids, outside);
    else
      by_tokens(call, present, ids, outside);
    std::fill(ids + present * k, ids + tokens * k, -1);
    if (outside) throw std::out_of_range("index_topk: a token sees an entry outside of its table or of the pages");
  });
}

}  // namespace deepport::DEEPPORT_LEVEL

// The copies that each expert has, and their work shared out among threads.
#pragma once

#include "columns.h"
#include "parallel.h"

namespace deepport::DEEPPORT_LEVEL {

// The copies [begin, begin + count) of one expert; `place` counts the columns of those before.
struct Group {
  int64_t expert, begin, count, place;
};

// The experts that have copies. `room` is for one group more than there are experts: the last one's place counts all columns.
inline int64_t find_groups(const int32_t* offsets, int64_t experts, Group* room) {
  int64_t found = 0, place = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t begin = offsets[e], count = offsets[e + 1] - begin;
    if (count <= 0) continue;
    room[found++] = {e, begin, count, place};
    place += Columns<float>::across(count);
  }
  room[found] = {experts, 0, 0, place};
  return found;
}

// f(group, begin, end) on parts of the groups' blocks, of which each has as many. A thread's share is what takes as long: a block
// costs what its rows take to read, and what each column takes to multiply.
template <class F>
void share(const Group* groups, int64_t count, int64_t blocks, int64_t grain, F&& f) {
  const auto cost = [&](const Group& g) { return 16 + Columns<float>::across(g.count); };
  int64_t total = 0;
  for (int64_t g = 0; g < count; ++g) total += blocks * cost(groups[g]);
  parallel(total, grain, [&](int64_t begin, int64_t end) {
    const Tiles tiles;
    int64_t from = 0;  // the cost of the groups before
    for (int64_t g = 0; g < count && from < end; ++g) {
      const int64_t each = cost(groups[g]);
      const auto first_from = [&](int64_t at) { return std::clamp<int64_t>((at - from + each - 1) / each, 0, blocks); };
      const int64_t low = begin <= from ? 0 : first_from(begin), high = first_from(end);
      if (low < high) f(groups[g], low, high);
      from += blocks * each;
    }
  });
}

}  // namespace deepport::DEEPPORT_LEVEL

// Tokens' copies in the order of their experts.
#pragma once

#include <cstdint>

#include "types.h"

namespace deepport::DEEPPORT_LEVEL {

// Whether an id names an expert; -1 is a dropped copy.
inline bool kept(int32_t id, int64_t experts) { return uint32_t(id) < uint64_t(experts); }

// A counting sort: place[i] is where copy i comes in the stable order by ids[i], dropped copies last, and expert e's copies have
// the places offsets[e] .. offsets[e + 1].
inline void sort_copies(const int32_t* ids, int64_t copies, int64_t experts, int32_t* offsets, int32_t* place) {
  for (int64_t e = 0; e <= experts; ++e) offsets[e] = 0;
  for (int64_t i = 0; i < copies; ++i)
    if (kept(ids[i], experts)) ++offsets[ids[i] + 1];
  // offsets[e + 1] becomes where expert e begins, and moves on to where it ends as its copies are placed.
  int32_t begin = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const int32_t count = offsets[e + 1];
    offsets[e + 1] = begin;
    begin += count;
  }
  for (int64_t i = 0; i < copies; ++i) place[i] = kept(ids[i], experts) ? offsets[ids[i] + 1]++ : begin++;
}

// Copies by their experts: expert e's are order[offsets[e]] .. order[offsets[e + 1]].
struct Order {
  const int32_t *offsets, *order;

  static int64_t size(int64_t copies, int64_t experts) { return experts + 1 + 2 * copies; }

  Order(int32_t* room, const int32_t* ids, int64_t copies, int64_t experts) : offsets(room), order(room + experts + 1 + copies) {
    int32_t *place = room + experts + 1, *by_place = place + copies;
    sort_copies(ids, copies, experts, room, place);
    for (int64_t i = 0; i < copies; ++i) by_place[place[i]] = int32_t(i);
  }
};

}  // namespace deepport::DEEPPORT_LEVEL

// Poison: what memory holds that nobody has written. A NaN in every float format of two bytes or more, and no likely integer; no
// arithmetic makes it, and copies carry it along, so that it is found where it is first computed with.
//
// Formats of one byte have no value to spare: there it cannot be told from data.
#pragma once

#include <string>

#include "memory.h"

namespace deepport::sim {

void fill_with_poison(void* memory, size_t bytes);

// Whether the tensor's elements have poison among them. A block that is wholly clean is known to be from then on.
bool is_poisoned(const at::Tensor& device, const at::Tensor& view);

// Whether an operator only moves elements, and whether an in-place one ignores what was there.
bool only_moves(const std::string& op);
bool overwrites(const std::string& op);

}  // namespace deepport::sim

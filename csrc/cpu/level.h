// Levels of instruction sets: which this build has, which this processor has, which one is used.
#pragma once

#include <vector>

namespace deepport {

struct Level {
  const char* name;
  bool (*present)();  // whether this processor, and its operating system, can run it
};

// Those compiled into this build, the slowest first.
const std::vector<Level>& levels();

// The fastest that this processor has, or the one that DEEPPORT_CPU_LEVEL names. Throws std::runtime_error, in one line, for a
// name that is none or that this processor cannot run.
const Level& chosen();

}  // namespace deepport

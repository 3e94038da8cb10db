// Levels' tables by name.
#include <cstring>

#include "kernels.h"
#include "level_list.h"

namespace deepport {

#define DEEPPORT_EXTERN(level) \
  namespace level {            \
  extern const Table kernels;  \
  }
DEEPPORT_LEVELS(DEEPPORT_EXTERN)

const Table* table(const char* level) {
#define DEEPPORT_NAMED(name) \
  if (!std::strcmp(level, #name)) return &name::kernels;
  DEEPPORT_LEVELS(DEEPPORT_NAMED)
  return nullptr;
}

}  // namespace deepport

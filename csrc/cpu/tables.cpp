// Levels' tables by name.
#include <cstring>

#include "kernels.h"

#if defined(__x86_64__)
#define DEEPPORT_LEVELS(LEVEL) LEVEL(scalar) LEVEL(avx2) LEVEL(avx512) LEVEL(avx512_bf16) LEVEL(amx)
#elif defined(__aarch64__)
#define DEEPPORT_LEVELS(LEVEL) LEVEL(scalar) LEVEL(neon_bf16)
#else
#define DEEPPORT_LEVELS(LEVEL) LEVEL(scalar)
#endif

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

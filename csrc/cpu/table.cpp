// One level's kernels; compiled once a level.
#include "kernels.h"

namespace deepport::DEEPPORT_LEVEL {

#define DEEPPORT_DECLARE(name, ...) void name(__VA_ARGS__);
DEEPPORT_KERNELS(DEEPPORT_DECLARE)

extern const Table kernels;
const Table kernels = {
#define DEEPPORT_ENTRY(name, ...) &name,
    DEEPPORT_KERNELS(DEEPPORT_ENTRY)
};

}  // namespace deepport::DEEPPORT_LEVEL

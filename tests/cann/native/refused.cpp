// Everything else that torch_npu links against: a call says its name and fails.
#include "simulator.h"

#include <cstdio>

// refused.inc is generated: a line REFUSED(symbol) for each, C++ names as the linker spells them.
#define REFUSED(symbol)                                                                  \
    EXPORT long symbol() {                                                               \
        fprintf(stderr, "the CANN simulator does not have %s\n", #symbol);               \
        return fail(FEATURE_NOT_SUPPORTED, "the CANN simulator does not have " #symbol); \
    }
#include "refused.inc"

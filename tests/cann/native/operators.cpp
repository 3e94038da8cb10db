// The simulated libopapi: where every aclnn operator's two functions meet (trampoline.S), and from where Python takes over.
#include "simulator.h"

#include <cstdio>

#define HIDDEN extern "C" __attribute__((visibility("hidden")))

// operators.inc is generated: a line OPERATOR(index, name) for each.
static const char* const names[] = {
#define OPERATOR(index, name) #name,
#include "operators.inc"
};
static const int count = sizeof names / sizeof *names;
static const long NO_DISPATCHER = 561000;

using Prepare = long (*)(int index, const uint64_t* integers, const uint64_t* floats, const uint64_t* stack);
using Execute = long (*)(uint64_t executor, uint64_t stream);
static Prepare prepare;
static Execute execute;

EXPORT void deepport_cann_register_operators(Prepare prepares, Execute executes) {
    prepare = prepares;
    execute = executes;
}
EXPORT const char* deepport_cann_operator(int index) { return index >= 0 && index < count ? names[index] : nullptr; }
EXPORT int deepport_cann_operators() { return count; }

// aclnnXGetWorkspaceSize(..., uint64_t* workspaceSize, aclOpExecutor** executor)
HIDDEN long deepport_cann_prepare(int index, const uint64_t* integers, const uint64_t* floats, const uint64_t* stack) {
    if (prepare) return prepare(index, integers, floats, stack);
    fprintf(stderr, "%s: the CANN simulator has not been started (aclInit)\n", names[index]);
    return NO_DISPATCHER;
}
// aclnnX(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream)
HIDDEN long deepport_cann_execute(void*, uint64_t, void* executor, void* stream) {
    return execute ? execute(number(executor), number(stream)) : NO_DISPATCHER;
}

// Preloaded where torch_npu's task queue is on. Its threads wait for each other with eventfd_read, at times while they hold
// Python's lock. A real device needs no lock to go on; the simulated one is written in Python. So whoever waits lets go of it.
#include "simulator.h"

#include <dlfcn.h>
#include <sys/eventfd.h>

namespace {
template <typename Function> Function* find(const char* name) { return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name)); }
} // namespace

EXPORT int eventfd_read(int descriptor, eventfd_t* value) {
    static auto wait = reinterpret_cast<int (*)(int, eventfd_t*)>(dlsym(RTLD_NEXT, "eventfd_read"));
    static auto holds = find<int()>("PyGILState_Check");
    static auto let_go = find<void*()>("PyEval_SaveThread");
    static auto take = find<void(void*)>("PyEval_RestoreThread");
    if (!holds || !let_go || !take || !holds()) return wait(descriptor, value);
    void* state = let_go();
    int result = wait(descriptor, value);
    take(state);
    return result;
}

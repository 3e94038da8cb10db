// What the simulated libraries share. Written from the names and types that callers of CANN use; no header of CANN is here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

using aclError = int;

// Error codes, as CANN's documentation of aclError lists them.
enum : aclError {
    SUCCESS = 0,
    INVALID_PARAMETER = 107000,
    INVALID_DEVICE = 107001,
    CONTEXT_IS_NULL = 107002,
    FEATURE_NOT_SUPPORTED = 207000,
    OUT_OF_MEMORY = 207001,
    INTERNAL_ERROR = 500000,
};

// What the runtime asks the dispatcher (scheduler.py reads the same numbers). With none, everything happens at once.
enum class Event : int {
    allocate = 1,     // bytes; answers an error code, 0 to go on
    copy = 2,         // destination, source, bytes | kind << 60 | of a fallback to the CPU << 63, stream
    fill = 3,         // address, value, bytes, stream
    record = 4,       // event, stream
    wait = 5,         // stream, event
    finish = 6,       // stream: until all of it has run
    finish_event = 7, // event: until it has happened
    finish_all = 8,   // every stream
    pending = 9,      // stream; answers 1 while something waits in it
    happened = 10,    // event; answers 1 when it has
    launch = 11,      // function, argument, stream
};

using Hook = int64_t (*)(int event, uint64_t, uint64_t, uint64_t, uint64_t);

// The dispatcher's answer; `otherwise` where none is registered.
int64_t ask(Event event, int64_t otherwise, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0);

// Keep `text` for aclGetRecentErrMsg and return `code`.
aclError fail(aclError code, const std::string& text);

// A setting that `python -m cann.run` passes through the environment.
long setting(const char* name, long otherwise);

inline uint64_t number(const volatile void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// The simulated libascendcl: device memory. It is host memory that knows its bounds, filled with 0xCD when handed out.
#include "simulator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <map>
#include <mutex>

static const int POISON = 0xCD;
static const size_t ALIGNMENT = 512;

static std::mutex guard;
static std::map<uintptr_t, size_t> allocations;
static size_t used;

static size_t capacity() { return static_cast<size_t>(setting("CANN_SIMULATOR_MEMORY", 8L << 30)); }

// The bytes of device memory from `pointer` to its allocation's end; 0 where it is no device memory.
static size_t behind(const void* pointer) {
    auto address = reinterpret_cast<uintptr_t>(pointer);
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return 0;
    auto [begin, size] = *--after;
    return address < begin + size ? begin + size - address : 0;
}

EXPORT uint64_t deepport_cann_memory_behind(const void* pointer) {
    std::lock_guard<std::mutex> lock(guard);
    return behind(pointer);
}

EXPORT aclError aclrtMalloc(void** pointer, size_t bytes, int) {
    if (auto code = static_cast<aclError>(ask(Event::allocate, SUCCESS, bytes))) return code;
    std::lock_guard<std::mutex> lock(guard);
    if (used + bytes > capacity() || posix_memalign(pointer, ALIGNMENT, bytes ? bytes : ALIGNMENT)) return OUT_OF_MEMORY;
    memset(*pointer, POISON, bytes);
    allocations[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
    used += bytes;
    return SUCCESS;
}
EXPORT aclError aclrtMallocAlign32(void** pointer, size_t bytes, int policy) { return aclrtMalloc(pointer, bytes, policy); }

EXPORT aclError aclrtFree(void* pointer) {
    ask(Event::finish_all, SUCCESS); // freeing device memory waits for the device
    std::lock_guard<std::mutex> lock(guard);
    auto found = allocations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == allocations.end()) return INVALID_PARAMETER;
    used -= found->second;
    allocations.erase(found);
    free(pointer);
    return SUCCESS;
}

EXPORT aclError aclrtMallocHost(void** pointer, size_t bytes) {
    return posix_memalign(pointer, ALIGNMENT, bytes ? bytes : ALIGNMENT) ? OUT_OF_MEMORY : SUCCESS;
}
EXPORT aclError aclrtFreeHost(void* pointer) {
    ask(Event::finish_all, SUCCESS);
    free(pointer);
    return SUCCESS;
}

EXPORT aclError aclrtGetMemInfo(int, size_t* unused, size_t* total) {
    std::lock_guard<std::mutex> lock(guard);
    if (total) *total = capacity();
    if (unused) *unused = capacity() - used;
    return SUCCESS;
}

enum Kind { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, DEFAULT };

// Both ends are where the kind of copy says, and neither copy passes the end of an allocation.
static aclError checked(const void* destination, size_t room, const void* source, size_t bytes, int kind) {
    std::lock_guard<std::mutex> lock(guard);
    size_t to = behind(destination), from = behind(source);
    bool to_device = kind == HOST_TO_DEVICE || kind == DEVICE_TO_DEVICE;
    bool from_device = kind == DEVICE_TO_HOST || kind == DEVICE_TO_DEVICE;
    if (kind != DEFAULT && (to_device != (to > 0) || from_device != (from > 0)))
        return fail(INVALID_PARAMETER, std::string("a copy of kind ") + std::to_string(kind) + " from " +
                                           (from ? "device" : "host") + " to " + (to ? "device" : "host") + " memory");
    if (bytes > room || (to && bytes > to) || (from && bytes > from))
        return fail(INVALID_PARAMETER, "a copy of " + std::to_string(bytes) + " bytes passes the end of its memory");
    return SUCCESS;
}

// Whether an address is within torch's own fallback. Looking a name up takes a millisecond in libraries of this size.
static bool in_fallback(void* address) {
    static std::map<void*, bool> known;
    std::lock_guard<std::mutex> lock(guard);
    auto [entry, fresh] = known.try_emplace(address);
    Dl_info found;
    if (fresh) entry->second = dladdr(address, &found) && found.dli_sname && strstr(found.dli_sname, "cpu_fallback");
    return entry->second;
}

// Whether the CPU computes for the device: the arguments of an operator are copied there, and its results back.
static bool of_fallback() {
    void* callers[64];
    return std::any_of(callers, callers + backtrace(callers, 64), in_fallback);
}

// Copy now, or leave it to the dispatcher, which answers NOW, SUCCESS where it keeps the work for later, or an error code.
static const int64_t NOW = 1;
static aclError copy(void* destination, size_t room, const void* source, size_t bytes, int kind, void* stream) {
    if (!bytes) return SUCCESS;
    if (auto code = checked(destination, room, source, bytes, kind)) return code;
    auto crosses = kind == HOST_TO_DEVICE || kind == DEVICE_TO_HOST;
    auto tagged = bytes | static_cast<uint64_t>(kind) << 60 | static_cast<uint64_t>(crosses && of_fallback()) << 63;
    auto answer = ask(Event::copy, NOW, number(destination), number(source), tagged, number(stream));
    if (answer == NOW) memcpy(destination, source, bytes);
    return answer == NOW ? SUCCESS : static_cast<aclError>(answer);
}

EXPORT aclError aclrtMemcpy(void* destination, size_t room, const void* source, size_t bytes, int kind) {
    return copy(destination, room, source, bytes, kind, nullptr);
}
EXPORT aclError aclrtMemcpyAsync(void* destination, size_t room, const void* source, size_t bytes, int kind, void* stream) {
    return copy(destination, room, source, bytes, kind, stream);
}
EXPORT aclError aclrtMemcpyAsyncWithCondition(void* destination, size_t room, const void* source, size_t bytes, int kind, void* stream) {
    return copy(destination, room, source, bytes, kind, stream);
}
EXPORT aclError aclrtMemset(void* pointer, size_t room, int32_t value, size_t bytes) {
    if (bytes > room) return INVALID_PARAMETER;
    memset(pointer, value, bytes);
    return SUCCESS;
}
EXPORT aclError aclrtMemsetAsync(void* pointer, size_t room, int32_t value, size_t bytes, void* stream) {
    if (bytes > room) return INVALID_PARAMETER;
    auto answer = ask(Event::fill, NOW, number(pointer), static_cast<uint64_t>(value), bytes, number(stream));
    if (answer == NOW) memset(pointer, value, bytes);
    return answer == NOW ? SUCCESS : static_cast<aclError>(answer);
}

// The simulated libascendcl: the process, its devices and what they say of themselves.
#include "simulator.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <mutex>

EXPORT const char* deepport_cann_simulator;
const char* deepport_cann_simulator = "deepport's CANN simulator 1";

static Hook hook;
static std::mutex guard;
static std::string recent_error;
static thread_local int current = -1;

EXPORT void deepport_cann_register(Hook dispatcher) { hook = dispatcher; }

int64_t ask(Event event, int64_t otherwise, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    return hook ? hook(static_cast<int>(event), a, b, c, d) : otherwise;
}

aclError fail(aclError code, const std::string& text) {
    std::lock_guard<std::mutex> lock(guard);
    recent_error = text;
    return code;
}

EXPORT void deepport_cann_error(const char* text) { fail(0, text); }

EXPORT const char* aclGetRecentErrMsg() {
    static thread_local std::string text;
    std::lock_guard<std::mutex> lock(guard);
    text.swap(recent_error);
    recent_error.clear();
    return text.c_str();
}

long setting(const char* name, long otherwise) {
    const char* value = getenv(name);
    return value ? atol(value) : otherwise;
}

static const char* text(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value ? value : otherwise;
}

static int device_count() { return static_cast<int>(setting("CANN_SIMULATOR_DEVICES", 1)); }
static const char* cann_version() { return text("CANN_SIMULATOR_VERSION", "9.2.0"); }

// Operators are written in Python. The process that loads this library is one of Python's, so its interpreter is here.
static bool start_dispatcher() {
    auto ensure = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Ensure"));
    auto release = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "PyGILState_Release"));
    auto import = reinterpret_cast<void* (*)(const char*)>(dlsym(RTLD_DEFAULT, "PyImport_ImportModule"));
    auto print = reinterpret_cast<void (*)()>(dlsym(RTLD_DEFAULT, "PyErr_Print"));
    if (!ensure || !release || !import || !print) return false;
    int state = ensure();
    bool imported = import("cann.started") != nullptr; // the reference is kept: it serves as long as the process lives
    if (!imported) print();
    release(state);
    return imported;
}

EXPORT aclError aclInit(const char*) {
    if (!hook && !start_dispatcher())
        return fail(INTERNAL_ERROR, "the CANN simulator's operators cannot be imported: run the program by python -m cann.run");
    return SUCCESS;
}
EXPORT aclError aclFinalize() { return SUCCESS; }

EXPORT const char* aclrtGetSocName() { return text("CANN_SIMULATOR_SOC", "Ascend910B2"); }
EXPORT aclError aclrtGetDeviceCount(uint32_t* count) {
    *count = static_cast<uint32_t>(device_count());
    return SUCCESS;
}
EXPORT aclError aclrtSetDevice(int32_t device) {
    if (device < 0 || device >= device_count())
        return fail(INVALID_DEVICE, "there is no device " + std::to_string(device) + ": the simulator has " +
                                        std::to_string(device_count()));
    current = device;
    return SUCCESS;
}
EXPORT aclError aclrtResetDevice(int32_t) { return SUCCESS; }
EXPORT aclError aclrtGetDevice(int32_t* device) {
    if (current < 0) return CONTEXT_IS_NULL;
    *device = current;
    return SUCCESS;
}

// A context is its device's number, made to look like an address.
static const uintptr_t FIRST_CONTEXT = 0xC0000;
EXPORT aclError aclrtGetCurrentContext(void** context) {
    if (current < 0) return CONTEXT_IS_NULL;
    *context = reinterpret_cast<void*>(FIRST_CONTEXT + static_cast<uintptr_t>(current));
    return SUCCESS;
}
EXPORT aclError aclrtSetCurrentContext(void* context) {
    current = static_cast<int>(reinterpret_cast<uintptr_t>(context) - FIRST_CONTEXT);
    return SUCCESS;
}
EXPORT aclError aclrtGetPrimaryCtxState(int32_t, uint32_t* flags, int32_t* active) {
    if (flags) *flags = 0;
    if (active) *active = 1;
    return SUCCESS;
}

EXPORT aclError aclGetDeviceCapability(uint32_t, int information, int64_t* value) {
    enum { AICORES = 0, VECTOR_CORES = 1 };
    *value = information == AICORES ? 24 : information == VECTOR_CORES ? 48 : 0;
    return SUCCESS;
}
EXPORT aclError aclrtGetDeviceInfo(uint32_t, int attribute, int64_t* value) {
    enum { AICPUS = 1, AICORES = 101, VECTOR_CORES = 201 };
    *value = attribute == AICORES ? 24 : attribute == VECTOR_CORES ? 48 : attribute == AICPUS ? 6 : 0;
    return SUCCESS;
}
EXPORT aclError aclGetCannAttributeList(const int** list, size_t* count) {
    static const int attributes[] = {0, 1, 2};
    *list = attributes;
    *count = 3;
    return SUCCESS;
}
EXPORT aclError aclGetCannAttribute(int, int32_t* value) {
    *value = 1;
    return SUCCESS;
}
EXPORT aclError aclsysGetVersionStr(char*, char* version) {
    strcpy(version, cann_version());
    return SUCCESS;
}
EXPORT aclError aclsysGetCANNVersion(int, void* version) {
    // aclCANNPackageVersion: the version is its first field, 128 bytes long.
    memset(version, 0, 128);
    strcpy(static_cast<char*>(version), cann_version());
    return SUCCESS;
}

EXPORT aclError aclrtDeviceCanAccessPeer(int32_t* can, int32_t, int32_t) {
    *can = 1;
    return SUCCESS;
}
EXPORT aclError aclrtDeviceEnablePeerAccess(int32_t, uint32_t) { return SUCCESS; }
EXPORT aclError aclrtDeviceGetBareTgid(int32_t* process) {
    *process = 1;
    return SUCCESS;
}
EXPORT aclError aclrtSetDeviceSatMode(int) { return SUCCESS; }
EXPORT aclError aclrtSetOpExecuteTimeOut(uint32_t) { return SUCCESS; }
EXPORT aclError aclrtSetOpWaitTimeout(uint32_t) { return SUCCESS; }
EXPORT aclError aclrtPeekAtLastError(int) { return SUCCESS; }
EXPORT aclError aclrtGetLastError(int) { return SUCCESS; }

// Profiling and logging have nothing to say here.
EXPORT uint64_t MsprofGetHashId(const char*, size_t) { return 0; }
EXPORT int MsprofRegisterCallback(uint32_t, void*) { return 0; }
EXPORT int MsprofReportAdditionalInfo(uint32_t, const void*, uint32_t) { return 0; }
EXPORT int MsprofReportApi(uint32_t, const void*) { return 0; }
EXPORT int MsprofReportCompactInfo(uint32_t, const void*, uint32_t) { return 0; }
EXPORT uint64_t MsprofSysCycleTime() { return 0; }
EXPORT void aclAppLog(int, const char*, const char*, uint32_t, const char*, ...) {}
EXPORT aclError aclmdlInitDump() { return SUCCESS; }
EXPORT aclError aclmdlFinalizeDump() { return SUCCESS; }

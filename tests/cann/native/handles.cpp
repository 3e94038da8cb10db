// The simulated libopapi: what aclnn operators take. wire.py reads the same layouts.
// Live handles are kept in a table, so that what an address is can be asked without touching it.
#include "simulator.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/uio.h>
#include <unistd.h>
#include <unordered_map>

namespace {
const uint64_t MOST_DIMENSIONS = 16;

enum Kind : int { NONE, TENSOR, SCALAR, INTS, FLOATS, BOOLS, TENSORS, SCALARS };

struct Tensor {
    int32_t type, format;
    int64_t rank, sizes[MOST_DIMENSIONS], strides[MOST_DIMENSIONS], offset;
    void* data;
};
struct Scalar {
    int32_t type, unused;
    unsigned char value[16];
};
struct Array {
    uint64_t count;
    void* items;
};

std::mutex guard;
std::unordered_map<const void*, Kind> live;

template <typename Handle> Handle* made(Kind kind, Handle* handle) {
    std::lock_guard<std::mutex> lock(guard);
    live[handle] = kind;
    return handle;
}
bool forgotten(const void* handle) {
    std::lock_guard<std::mutex> lock(guard);
    return live.erase(handle) > 0;
}

Array* array(Kind kind, const void* items, uint64_t count, size_t size) {
    auto handle = new Array{count, malloc(count * size + 1)};
    if (count) memcpy(handle->items, items, count * size);
    return made(kind, handle);
}
int destroyed(const Array* handle) {
    if (handle && forgotten(handle)) {
        free(handle->items);
        delete handle;
    }
    return SUCCESS;
}

size_t bytes_of(int type) {
    switch (type) { // aclDataType
    case 0: case 3: case 8: return 4;
    case 1: case 6: case 7: case 27: return 2;
    case 9: case 10: case 11: case 16: return 8;
    case 17: return 16;
    default: return 1;
    }
}
} // namespace

// Which handle an address is, 0 where it is none.
EXPORT int deepport_cann_kind(const void* address) {
    std::lock_guard<std::mutex> lock(guard);
    auto found = live.find(address);
    return found == live.end() ? NONE : found->second;
}

// Whether so many bytes can be read there.
EXPORT int deepport_cann_readable(void* address, uint64_t bytes) {
    char copy[64];
    iovec into{copy, bytes}, from{address, bytes};
    return bytes <= sizeof copy && process_vm_readv(getpid(), &into, 1, &from, 1, 0) == static_cast<ssize_t>(bytes);
}

EXPORT Tensor* aclCreateTensor(const int64_t* sizes, uint64_t rank, int type, const int64_t* strides, int64_t offset, int format,
                               const int64_t*, uint64_t, void* data) {
    if (rank > MOST_DIMENSIONS) return nullptr;
    auto tensor = new Tensor{};
    tensor->type = type;
    tensor->format = format;
    tensor->rank = static_cast<int64_t>(rank);
    tensor->offset = offset;
    tensor->data = data;
    int64_t dense = 1;
    for (auto i = rank; i-- > 0; dense *= sizes[i]) {
        tensor->sizes[i] = sizes[i];
        tensor->strides[i] = strides ? strides[i] : dense;
    }
    return made(TENSOR, tensor);
}
EXPORT int aclDestroyTensor(const Tensor* tensor) {
    if (tensor && forgotten(tensor)) delete tensor;
    return SUCCESS;
}
// The caller deletes the array with delete[].
EXPORT int aclGetViewShape(const Tensor* tensor, int64_t** sizes, uint64_t* rank) {
    *rank = static_cast<uint64_t>(tensor->rank);
    *sizes = new int64_t[*rank + 1];
    memcpy(*sizes, tensor->sizes, *rank * sizeof(int64_t));
    return SUCCESS;
}

EXPORT Scalar* aclCreateScalar(void* value, int type) {
    auto scalar = new Scalar{};
    scalar->type = type;
    memcpy(scalar->value, value, bytes_of(type));
    return made(SCALAR, scalar);
}
EXPORT int aclDestroyScalar(const Scalar* scalar) {
    if (scalar && forgotten(scalar)) delete scalar;
    return SUCCESS;
}

EXPORT Array* aclCreateIntArray(const int64_t* items, uint64_t count) { return array(INTS, items, count, 8); }
EXPORT Array* aclCreateFloatArray(const float* items, uint64_t count) { return array(FLOATS, items, count, 4); }
EXPORT Array* aclCreateBoolArray(const bool* items, uint64_t count) { return array(BOOLS, items, count, 1); }
EXPORT Array* aclCreateTensorList(const Tensor* const* items, uint64_t count) { return array(TENSORS, items, count, 8); }
EXPORT Array* aclCreateScalarList(const Scalar* const* items, uint64_t count) { return array(SCALARS, items, count, 8); }
EXPORT int aclDestroyIntArray(const Array* handle) { return destroyed(handle); }
EXPORT int aclDestroyFloatArray(const Array* handle) { return destroyed(handle); }
EXPORT int aclDestroyBoolArray(const Array* handle) { return destroyed(handle); }
EXPORT int aclDestroyTensorList(const Array* handle) {
    for (uint64_t i = 0; handle && i < handle->count; i++) aclDestroyTensor(static_cast<Tensor**>(handle->items)[i]);
    return destroyed(handle);
}
EXPORT int aclDestroyScalarList(const Array* handle) {
    for (uint64_t i = 0; handle && i < handle->count; i++) aclDestroyScalar(static_cast<Scalar**>(handle->items)[i]);
    return destroyed(handle);
}
EXPORT int aclDestroyAclOpExecutor(void*) { return SUCCESS; }
EXPORT int aclnnInit(const char*) { return SUCCESS; }
EXPORT int aclnnFinalize() { return SUCCESS; }

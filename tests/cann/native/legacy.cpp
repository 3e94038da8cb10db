// The simulated libascendcl: the old way to call an operator, by name with descriptors. They can be made; running one is refused.
#include "simulator.h"

#include <vector>

namespace {
struct Description {
    int type, format;
    std::vector<int64_t> dimensions;
};
struct Buffer {
    void* data;
    size_t bytes;
};
const aclError OPERATOR_NOT_FOUND = 100024;
} // namespace

EXPORT void* aclCreateTensorDesc(int type, int count, const int64_t* dimensions, int format) {
    return new Description{type, format, {dimensions, dimensions + count}};
}
EXPORT void aclDestroyTensorDesc(const void* description) { delete static_cast<const Description*>(description); }
EXPORT int aclGetTensorDescType(const void* description) { return static_cast<const Description*>(description)->type; }
EXPORT int aclGetTensorDescFormat(const void* description) { return static_cast<const Description*>(description)->format; }
EXPORT size_t aclGetTensorDescNumDims(const void* description) {
    return static_cast<const Description*>(description)->dimensions.size();
}
EXPORT aclError aclGetTensorDescDimV2(const void* description, size_t index, int64_t* size) {
    *size = static_cast<const Description*>(description)->dimensions.at(index);
    return SUCCESS;
}
EXPORT void aclSetTensorDescName(void*, const char*) {}
EXPORT aclError aclSetTensorFormat(void*, int) { return SUCCESS; }
EXPORT aclError aclSetTensorPlaceMent(void*, int) { return SUCCESS; }
EXPORT aclError aclSetTensorShape(void*, int, const int64_t*) { return SUCCESS; }
EXPORT void* aclCreateDataBuffer(void* data, size_t bytes) { return new Buffer{data, bytes}; }
EXPORT aclError aclDestroyDataBuffer(const void* buffer) {
    delete static_cast<const Buffer*>(buffer);
    return SUCCESS;
}

EXPORT void* aclopCreateAttr() { return new char; }
EXPORT void aclopDestroyAttr(const void* attributes) { delete static_cast<const char*>(attributes); }
EXPORT aclError aclopSetAttrBool(void*, const char*, uint8_t) { return SUCCESS; }
EXPORT aclError aclopSetAttrDataType(void*, const char*, int) { return SUCCESS; }
EXPORT aclError aclopSetAttrFloat(void*, const char*, float) { return SUCCESS; }
EXPORT aclError aclopSetAttrInt(void*, const char*, int64_t) { return SUCCESS; }
EXPORT aclError aclopSetAttrListBool(void*, const char*, int, const uint8_t*) { return SUCCESS; }
EXPORT aclError aclopSetAttrListFloat(void*, const char*, int, const float*) { return SUCCESS; }
EXPORT aclError aclopSetAttrListInt(void*, const char*, int, const int64_t*) { return SUCCESS; }
EXPORT aclError aclopSetAttrListListInt(void*, const char*, int, const int*, const int64_t* const*) { return SUCCESS; }
EXPORT aclError aclopSetAttrString(void*, const char*, const char*) { return SUCCESS; }
EXPORT aclError aclopCompileAndExecute(const char* name, ...) {
    return fail(OPERATOR_NOT_FOUND, std::string("the CANN simulator has aclnn operators only; this is the old aclop ") + name);
}

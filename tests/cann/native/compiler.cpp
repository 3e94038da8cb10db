// The simulated libacl_op_compiler: keeps the options that it is given.
#include "simulator.h"

#include <array>
#include <cstring>

static std::array<int64_t, 64> parameters;
static std::array<std::string, 32> options;

EXPORT aclError aclrtSetSysParamOpt(int option, int64_t value) {
    parameters.at(static_cast<size_t>(option)) = value;
    return SUCCESS;
}
EXPORT aclError aclrtCtxSetSysParamOpt(int option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
EXPORT aclError aclrtGetSysParamOpt(int option, int64_t* value) {
    *value = parameters.at(static_cast<size_t>(option));
    return SUCCESS;
}
EXPORT aclError aclSetCompileopt(int option, const char* value) {
    options.at(static_cast<size_t>(option)) = value ? value : "";
    return SUCCESS;
}
EXPORT size_t aclGetCompileoptSize(int option) { return options.at(static_cast<size_t>(option)).size() + 1; }
EXPORT aclError aclGetCompileopt(int option, char* value, size_t room) {
    strncpy(value, options.at(static_cast<size_t>(option)).c_str(), room);
    return SUCCESS;
}
EXPORT aclError aclopSetCompileFlag(int) { return SUCCESS; }

// The simulated libhccl: collectives between processes. hccl.py carries them out; prototypes are as the vendor documents them.
#include "simulator.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>

enum Collective { ROOT, INIT, DESTROY, NAME, ALL_REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL_V, ALL_TO_ALL, SEND, RECEIVE };
static const int NOT_SUPPORTED = 5; // HCCL_E_NOT_SUPPORT

using Carry = int (*)(int what, const uint64_t* words);
static Carry carry;
EXPORT void deepport_cann_register_collectives(Carry carries) { carry = carries; }

static int call(Collective what, std::initializer_list<uint64_t> words) {
    uint64_t padded[7] = {}; // hccl.py reads as many, whatever the collective has
    std::copy(words.begin(), words.end(), padded);
    if (carry) return carry(what, padded);
    fprintf(stderr, "the CANN simulator has not been started (aclInit): no collective can run\n");
    return NOT_SUPPORTED;
}

EXPORT const char* HcclGetErrorString(int) { return "the simulated HCCL failed; the reason is above"; }
EXPORT int HcclGetRootInfo(void* root) { return call(ROOT, {number(root)}); }
EXPORT int HcclCommInitRootInfo(uint32_t ranks, const void* root, uint32_t rank, void** comm) {
    return call(INIT, {ranks, number(root), rank, number(comm)});
}
EXPORT int HcclCommInitRootInfoConfig(uint32_t ranks, const void* root, uint32_t rank, const void*, void** comm) {
    return HcclCommInitRootInfo(ranks, root, rank, comm);
}
EXPORT int HcclCommDestroy(void* comm) { return call(DESTROY, {number(comm)}); }
EXPORT int HcclGetCommName(void* comm, char* name) { return call(NAME, {number(comm), number(name)}); }
EXPORT int HcclGetCommAsyncError(void*, int* error) {
    *error = 0;
    return 0;
}
EXPORT int HcclSetConfig(int, uint64_t) { return 0; }

EXPORT int HcclAllReduce(void* send, void* receive, uint64_t count, int type, int reduce, void* comm, void* stream) {
    return call(ALL_REDUCE, {number(comm), number(stream), number(send), number(receive), count, uint64_t(type), uint64_t(reduce)});
}
EXPORT int HcclBroadcast(void* buffer, uint64_t count, int type, uint32_t root, void* comm, void* stream) {
    return call(BROADCAST, {number(comm), number(stream), number(buffer), count, uint64_t(type), root});
}
EXPORT int HcclAllGather(void* send, void* receive, uint64_t count, int type, void* comm, void* stream) {
    return call(ALL_GATHER, {number(comm), number(stream), number(send), number(receive), count, uint64_t(type)});
}
EXPORT int HcclReduceScatter(void* send, void* receive, uint64_t count, int type, int reduce, void* comm, void* stream) {
    return call(REDUCE_SCATTER, {number(comm), number(stream), number(send), number(receive), count, uint64_t(type), uint64_t(reduce)});
}
EXPORT int HcclAlltoAllV(const void* send, const void* sends, const void*, int type, const void* receive, const void* receives,
                         const void*, int, void* comm, void* stream) {
    return call(ALL_TO_ALL_V, {number(comm), number(stream), number(send), number(receive), number(sends), number(receives), uint64_t(type)});
}
EXPORT int HcclAlltoAll(const void* send, uint64_t count, int type, const void* receive, uint64_t, int, void* comm, void* stream) {
    return call(ALL_TO_ALL, {number(comm), number(stream), number(send), number(receive), count, uint64_t(type)});
}
EXPORT int HcclSend(void* buffer, uint64_t count, int type, uint32_t peer, void* comm, void* stream) {
    return call(SEND, {number(comm), number(stream), number(buffer), count, uint64_t(type), peer});
}
EXPORT int HcclRecv(void* buffer, uint64_t count, int type, uint32_t peer, void* comm, void* stream) {
    return call(RECEIVE, {number(comm), number(stream), number(buffer), count, uint64_t(type), peer});
}

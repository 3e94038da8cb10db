// Every kernel, by family. A kernel is a plain function over pointers and sizes; what it computes is said in its family's header.
//
// The same source is compiled once a level, into `namespace deepport::<level>`; a Table is one level's kernels.
#pragma once

#include "angles.h"
#include "attention.h"
#include "cache.h"
#include "compress.h"
#include "engram.h"
#include "experts.h"
#include "gather.h"
#include "linear.h"
#include "mhc.h"
#include "moe.h"
#include "norm.h"
#include "probe.h"
#include "quantize.h"
#include "rotary.h"
#include "route.h"

#define DEEPPORT_KERNELS(KERNEL) \
  DEEPPORT_ANGLES(KERNEL)        \
  DEEPPORT_ATTENTION(KERNEL)     \
  DEEPPORT_CACHE(KERNEL)         \
  DEEPPORT_COMPRESS(KERNEL)      \
  DEEPPORT_ENGRAM(KERNEL)        \
  DEEPPORT_EXPERTS(KERNEL)       \
  DEEPPORT_GATHER(KERNEL)        \
  DEEPPORT_LINEAR(KERNEL)        \
  DEEPPORT_MHC(KERNEL)           \
  DEEPPORT_MOE(KERNEL)           \
  DEEPPORT_NORM(KERNEL)          \
  DEEPPORT_PROBE(KERNEL)         \
  DEEPPORT_QUANTIZE(KERNEL)      \
  DEEPPORT_ROTARY(KERNEL)        \
  DEEPPORT_ROUTE(KERNEL)

namespace deepport {

struct Table {
#define DEEPPORT_FIELD(name, ...) void (*name)(__VA_ARGS__);
  DEEPPORT_KERNELS(DEEPPORT_FIELD)
#undef DEEPPORT_FIELD
};

// The kernels of a level, null where this build has none of this name; `*table(chosen().name)` are those to use.
const Table* table(const char* level);

}  // namespace deepport

// Device memory: addresses that the host cannot touch, and the host's view of the same bytes, where operators compute.
//
// Both are mappings of one file in memory, so that the host may be let in page by page (policy host-access). A block knows who
// used it and when. Dry memory has addresses only: 16 TB a device, of which nothing can be read.
#pragma once

#include <c10/core/Storage.h>

#include <string>
#include <vector>

#include "stream.h"

namespace deepport::sim {

constexpr size_t kPage = 4096;
constexpr size_t kAddresses = size_t(1) << 44;  // a device's
constexpr size_t kMemory = size_t(1) << 40;     // of them with memory behind

struct Access {
  Key stream;
  uint64_t step;
  bool write;
  size_t low, high;  // bytes of the storage
  const std::string *op, *site;
};

struct Block {
  c10::DeviceIndex device;
  size_t offset, span, size;  // of addresses, and as counted
  Key stream;
  std::vector<Access> accesses;
  std::vector<Key> recorded;  // streams named to record_stream
  bool poisoned;              // may hold bytes that nobody has written
  const std::string *op, *site;
};

struct Extent {
  size_t low, high;
};
Extent extent(const at::Tensor& t);

// A tensor of another storage, with the same sizes, strides and offset.
at::Tensor like(const at::Tensor& t, c10::Storage storage, c10::DispatchKey key);

// The same tensor without the Python object that it may have: it can be given up by whoever does not hold Python's lock.
inline at::Tensor bare(const at::Tensor& t) { return like(t, t.storage(), c10::DispatchKey::CPU); }

// Null for a tensor without bytes.
Block* block(const at::Tensor& t);

// A block that nobody uses, and giving it back; where it is. Contents and accounting are the allocator's.
Block* take(size_t bytes, c10::DeviceIndex device, Key stream);
void give(Block* b);
char* address(const Block& b);

// Zeros in all of a block: a large one gives its memory back, and has some again where it is touched.
void write_zeros(const Block& b);

// The host's view of a device address; the block that an address is in, null for none.
void* host_view(const void* address);
const Block* block_at(const void* address);

// Dry: memory handed out from now on has addresses only, and operators compute shapes only.
bool dry();
void set_dry(bool on);

// A device's bytes, beyond which it is out of memory.
void set_capacity(size_t bytes);
size_t capacity();

// Lets the host touch device memory, or not, as the policy says.
void apply_host_access();
bool let_host_in(void* address);

// A storage of its own on a device; its bytes are poison where nobody is about to write them.
c10::Storage new_storage(size_t bytes, c10::DeviceIndex device, bool poison);
c10::Allocator* allocator();

// Step `step` of a stream reads or writes the tensor: a finding where another stream's access is not ordered before.
void touch(const at::Tensor& t, Key stream, uint64_t step, bool write);

}  // namespace deepport::sim

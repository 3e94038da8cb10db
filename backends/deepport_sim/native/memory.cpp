#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <tuple>

#include "poison.h"
#include "rules.h"

namespace deepport::sim {
namespace {

constexpr size_t kGap = kPage;  // between blocks: nobody's
constexpr size_t kLarge = size_t(4) << 20;

char* mapped(void* at, size_t size, int protection, int flags, int file) {
  void* const found = mmap(at, size, protection, flags | MAP_NORESERVE, file, 0);
  TORCH_CHECK(found != MAP_FAILED, "deepport_sim: no ", size >> 40, " TB of addresses can be had: ", std::strerror(errno));
  return static_cast<char*>(found);
}

// One device's addresses: memory that the host cannot touch, then addresses that have none.
struct Space {
  char *first, *view;
  size_t next = 0, next_dry = kMemory;

  Space() {
    const int file = memfd_create("deepport_sim", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0 && ftruncate(file, kMemory) == 0, "deepport_sim: no file in memory can be had: ", std::strerror(errno));
    first = mapped(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    mapped(first, kMemory, PROT_NONE, MAP_SHARED | MAP_FIXED, file);
    view = mapped(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    close(file);
  }
};

struct Memory {
  Space spaces[kDevices];
  std::map<size_t, Block*> blocks[kDevices];                            // all there ever were, by offset
  std::map<std::tuple<Key, size_t, bool>, std::vector<Block*>> unused;  // by stream, span, and whether there is memory
  size_t capacity = size_t(16) << 30;
  bool dry = false;
};

Memory& memory() {
  static auto* const one = new Memory();
  return *one;
}

int device_of(const void* address) {
  for (int d = 0; d < kDevices; ++d) {
    const char* const first = memory().spaces[d].first;
    if (address >= first && address < first + kAddresses) return d;
  }
  return -1;
}

bool has_memory(const Block& b) { return b.offset < kMemory; }

char* view_of(const Block& b) { return memory().spaces[b.device].view + b.offset; }

// Gives whole pages back to the system: of the file, so that both mappings lose them, and read zeros. False if nothing was.
bool dropped(const Block& b) { return has_memory(b) && b.span >= kLarge && madvise(view_of(b), b.span, MADV_REMOVE) == 0; }

// Rounded up so that few sizes occur, and freed memory is found again: to eighths of a power of two.
size_t span_of(size_t bytes) {
  size_t step = 512;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

Block* take(size_t bytes, c10::DeviceIndex device, Key stream) {
  const size_t span = span_of(bytes);
  auto& unused = memory().unused[{stream, span, !memory().dry}];
  if (!unused.empty()) {
    Block* const found = unused.back();
    unused.pop_back();
    return found;
  }
  Space& space = memory().spaces[device];
  size_t& next = memory().dry ? space.next_dry : space.next;
  TORCH_CHECK(next + span + kGap < (memory().dry ? kAddresses : kMemory), "deepport_sim: device ", int(device), " has no addresses left");
  Block* const fresh = new Block{device, next, span, 0, stream, {}, {}, false, nullptr, nullptr};
  next += (span + kGap + kPage - 1) / kPage * kPage;
  return memory().blocks[device][fresh->offset] = fresh;
}

void give(Block* b) {
  dropped(*b);
  memory().unused[{b->stream, b->span, has_memory(*b)}].push_back(b);
}

void write_zeros(const Block& b) {
  if (has_memory(b) && !dropped(b)) std::memset(view_of(b), 0, b.size);
}

char* address(const Block& b) { return memory().spaces[b.device].first + b.offset; }

void* host_view(const void* address) {
  const int device = device_of(address);
  TORCH_INTERNAL_ASSERT(device >= 0, "deepport_sim: ", address, " is no device address");
  const Space& space = memory().spaces[device];
  const size_t offset = size_t(static_cast<const char*>(address) - space.first);
  TORCH_CHECK(offset < kMemory, "deepport_sim: dry memory holds no data; nothing can be read or computed from it");
  return space.view + offset;
}

const Block* block_at(const void* address) {
  const int device = device_of(address);
  if (device < 0) return nullptr;
  const auto& blocks = memory().blocks[device];
  auto after = blocks.upper_bound(size_t(static_cast<const char*>(address) - memory().spaces[device].first));
  return after == blocks.begin() ? nullptr : std::prev(after)->second;
}

bool dry() { return memory().dry; }
void set_dry(bool on) {
  const Lock lock(mutex());
  memory().dry = on;
}

size_t capacity() { return memory().capacity; }
void set_capacity(size_t bytes) {
  const Lock lock(mutex());
  memory().capacity = bytes;
}

void apply_host_access() {
  const int protection = policy(Rule::host_access) == Policy::allow ? PROT_READ | PROT_WRITE : PROT_NONE;
  for (const Space& space : memory().spaces) mprotect(space.first, kMemory, protection);
}

bool let_host_in(void* address) {
  const auto page = uintptr_t(address) & ~uintptr_t(kPage - 1);
  return mprotect(reinterpret_cast<void*>(page), kPage, PROT_READ | PROT_WRITE) == 0;
}

at::Tensor like(const at::Tensor& t, c10::Storage storage, c10::DispatchKey key) {
  auto impl = c10::make_intrusive<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), t.dtype());
  impl->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return at::Tensor(std::move(impl));
}

Block* block(const at::Tensor& t) { return static_cast<Block*>(t.storage().data_ptr().get_context()); }

Extent extent(const at::Tensor& t) {
  const size_t low = size_t(t.storage_offset()) * t.element_size();
  if (!t.numel()) return {low, low};
  size_t last = 0;
  for (int64_t d = 0; d < t.dim(); ++d) last += size_t(t.size(d) - 1) * size_t(t.stride(d));
  return {low, low + (last + 1) * t.element_size()};
}

}  // namespace deepport::sim

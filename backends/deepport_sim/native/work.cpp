#include "work.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstring>

#include "poison.h"
#include "rules.h"

namespace deepport::sim {

void Work::place(const c10::Device& device) {
  if (!device_) device_ = device.has_index() ? device : c10::Device(kType, current_device());
}

void Work::argument(const at::Tensor& t, const std::string& name, bool written) {
  if (!t.defined()) return;
  if (on_device(t)) place(t.device());
  arguments_.push_back({t, &name, written});
}

// A tensor of no dimensions may be on the host: its one number goes along with the call.
void Work::check_devices() const {
  for (const Argument& a : arguments_)
    if (on_device(a.tensor) ? a.tensor.device() != *device_ : device_ && a.tensor.dim() > 0)
      report(Rule::mixed_devices, c10::str("'", *a.name, "' is on ", a.tensor.device(), ", others are on ", device()));
}

void Work::check_poison(bool reads_written, bool only_moves) {
  if (dry() || policy(Rule::uninitialised) == Policy::allow) return;
  for (const Argument& a : arguments_) {
    if (!on_device(a.tensor) || (a.written && !reads_written) || !is_poisoned(a.tensor, view(a.tensor))) continue;
    carries_poison_ = true;
    if (!only_moves) {
      const Block& b = *block(a.tensor);
      report(Rule::uninitialised, c10::str("'", *a.name, "' has elements that nobody has written, in the ", b.size, " bytes of ",
                                           *b.op, " at ", *b.site));
    }
  }
}

void Work::start(bool reads_written, bool only_moves) {
  check_devices();
  const Lock lock(mutex());
  finish(stream());
  step_ = begin(stream());
  for (const Argument& a : arguments_)
    if (on_device(a.tensor)) touch(a.tensor, stream(), step_, a.written);
  check_poison(reads_written, only_moves);
  for (const Argument& a : arguments_)
    if (on_device(a.tensor) && a.written && carries_poison_ && block(a.tensor)) block(a.tensor)->poisoned = true;
}

at::Tensor Work::view(const at::Tensor& t) {
  auto* const storage = t.storage().unsafeGetStorageImpl();
  auto found = views_.find(storage);
  if (found == views_.end()) {
    const auto size = c10::Storage::use_byte_size_t();
    c10::Storage own = dry() ? c10::Storage(size, storage->nbytes(), {nullptr, c10::Device(at::kMeta)}, c10::GetAllocator(at::kMeta), true)
                             : c10::Storage(size, storage->nbytes(),
                                            {storage->nbytes() ? host_view(storage->data()) : nullptr, c10::Device(at::kCPU)},
                                            c10::GetCPUAllocator(), true);
    found = views_.emplace(storage, own).first;
    viewed_.emplace(own.unsafeGetStorageImpl(), t.storage());
  }
  return like(t, found->second, dry() ? c10::DispatchKey::Meta : c10::DispatchKey::CPU);
}

at::Tensor Work::adopt(const at::Tensor& result) {
  auto* const storage = result.storage().unsafeGetStorageImpl();
  auto found = viewed_.find(storage);
  if (found == viewed_.end()) {
    c10::Storage own = new_storage(storage->nbytes(), device().index(), false);
    if (storage->nbytes() && !dry()) std::memcpy(host_view(own.data()), storage->data(), storage->nbytes());
    found = viewed_.emplace(storage, own).first;
    const at::Tensor adopted = like(result, own, c10::DispatchKey::PrivateUse1);
    written(adopted);
    return adopted;
  }
  return like(result, found->second, c10::DispatchKey::PrivateUse1);
}

void Work::written(const at::Tensor& result) {
  const Lock lock(mutex());
  if (Block* const b = block(result)) b->poisoned = carries_poison_;
  touch(result, stream(), step_, true);
}

at::Tensor Work::zeros(c10::IntArrayRef size, at::ScalarType dtype) {
  const size_t bytes = at::detail::computeStorageNbytesContiguous(size, at::elementSize(dtype));
  c10::Storage own = new_storage(bytes, device().index(), false);
  const at::Tensor found = at::detail::make_tensor<c10::TensorImpl>(std::move(own), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                                    at::scalarTypeToTypeMeta(dtype));
  found.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  if (const Block* const b = block(found)) write_zeros(*b);
  written(found);
  return found;
}

void Work::resettle(const at::Tensor& t, const at::Tensor& view) {
  auto* const own = t.storage().unsafeGetStorageImpl();
  auto* const now = view.storage().unsafeGetStorageImpl();
  const bool moved = now->nbytes() > own->nbytes() || (!dry() && now->nbytes() && now->data() != host_view(own->data()));
  if (moved) {
    c10::Storage grown = new_storage(now->nbytes(), t.device().index(), false);
    if (!dry()) std::memcpy(host_view(grown.data()), now->data(), now->nbytes());
    own->set_data_ptr_noswap(std::move(grown.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()));
    own->set_nbytes(now->nbytes());
  }
  if (moved || t.sizes() != view.sizes() || t.strides() != view.strides())
    t.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides(), view.storage_offset());
}

}  // namespace deepport::sim

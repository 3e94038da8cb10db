// Copies between host and device, and reading a single number.
#include <ATen/ATen.h>
#include <ATen/core/CachingHostAllocator.h>
#include <torch/library.h>

#include "rules.h"
#include "staging.h"
#include "work.h"

namespace deepport::sim {
namespace {

// The host is about to wait for the device without having asked to.
void check_wait(Key stream, Rule rule, const std::string& why) {
  bool waits;
  {
    const Lock lock(mutex());
    waits = busy(stream);
  }
  if (waits) report(Call::in_reference() ? Rule::reference_sync : rule, why);
}

void wait(Key stream) {
  {
    const Lock lock(mutex());
    wait_on_host(stream);
  }
  raise_deferred();
}

void move(const at::Tensor& from, const at::Tensor& to) {
  TORCH_CHECK(!dry() || !to.is_cpu(), "deepport_sim: dry memory holds no data, and none can be copied from it, as at ",
              Call::current_site());
  if (!dry()) at::Tensor(to).copy_(from);
}

// From another device: each one's current stream waits for the other's.
void fetch(Work& work, const at::Tensor& self) {
  const Lock lock(mutex());
  const Key other = key(current_stream(self.device().index()));
  join(work.stream(), other);
  touch(self, work.stream(), work.step(), false);
  join(other, work.stream());
}

// As late as a device may do it; what the host would read too early is not there yet.
void later(Work& work, const at::Tensor& from, const at::Tensor& to, bool to_host) {
  const Lock lock(mutex());
  if (to_host && at::isFloatingType(to.scalar_type())) at::Tensor(to).fill_(std::numeric_limits<double>::quiet_NaN());
  if (!to_host) watch_staging(from, work.stream(), work.step());
  if (to_host) bar(to, work.stream(), work.step());
  enqueue(work.stream(), [from = bare(from), to = bare(to), to_host] {
    const auto copy = [&] { at::Tensor(to).copy_(from); };
    to_host ? deliver(to, copy) : copy();
  });
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  static const std::string& op = kept("aten::_copy_from");
  Work work(op);
  work.place(on_device(to) ? to.device() : self.device());
  const bool to_host = !on_device(to), crosses = to_host || !on_device(self);
  if (crosses) {
    const at::Tensor& host = to_host ? to : self;
    const bool pinned = is_pinned(host.storage().data());
    if (non_blocking && !pinned && host.nbytes())
      report(Rule::implicit_sync, "a copy that should not block does, for its memory on the host is not pinned");
    else if (to_host && !non_blocking)
      check_wait(work.stream(), Rule::host_copy, "the host waits for the device, to have a copy of what it computes");
    non_blocking = non_blocking && pinned && !dry();
  }
  if (self.device() == work.device()) work.argument(self, kept("self"), false);
  if (!to_host) work.argument(to, kept("to"), true);
  work.start(false, /*only_moves=*/self.dtype() == to.dtype());
  if (!crosses && self.device() != to.device()) fetch(work, self);
  const at::Tensor from = on_device(self) ? work.view(self) : self, into = on_device(to) ? work.view(to) : to;
  if (crosses && non_blocking)
    later(work, from, into, to_host);
  else
    move(from, into);
  if (to_host && !non_blocking) wait(work.stream());
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  at::Tensor(to).resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar number_of(const at::Tensor& self) {
  static const std::string& op = kept("aten::_local_scalar_dense");
  Work work(op);
  work.argument(self, kept("self"), false);
  TORCH_CHECK(!dry(), "deepport_sim: dry memory holds no data, and no number can be read from it, as at ", Call::current_site());
  check_wait(work.stream(), Rule::implicit_sync, "the host waits for the device, to read one number");
  work.start(false, /*only_moves=*/false);
  wait(work.stream());
  return work.view(self).item();
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", number_of);
}

}  // namespace deepport::sim

// One piece of work on the device: an operator's reads and writes, checked against every rule, and the host's views on which it
// is computed.
#pragma once

#include <c10/core/Storage.h>

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "call.h"
#include "memory.h"

namespace deepport::sim {

// In order: `place` or `argument` for what is known before, `start`, then `view` and `adopt` as often as needed. `start`, `adopt`
// and `resettle` take the lock; nothing holds it between them, while somebody computes.
class Work {
 public:
  // `op` is kept by reference, as long as the work lives.
  explicit Work(const std::string& op) : op_(op), call_(std::in_place, op) {}

  void place(const c10::Device& device);
  void argument(const at::Tensor& t, const std::string& name, bool written);

  // Takes up a step of the current stream. `reads_written`: what is written is read, too. `only_moves`: elements are not looked at.
  void start(bool reads_written, bool only_moves);

  // The same tensor on the CPU, or on meta in dry mode; two views of one storage share theirs.
  at::Tensor view(const at::Tensor& t);

  // A result on the device: of a view's storage the tensor that it views, else a copy in memory of its own.
  at::Tensor adopt(const at::Tensor& result);

  // A result of zeros.
  at::Tensor zeros(c10::IntArrayRef size, at::ScalarType dtype);

  // An out= argument may have been resized while it was computed, in its view: it becomes what that is now.
  void resettle(const at::Tensor& t, const at::Tensor& view);

  // The thread goes on to other work, though this may live: in Python an error keeps what it saw.
  void done() { call_.reset(); }

  c10::Device device() const { return device_.value_or(c10::Device(kType, current_device())); }
  uint64_t step() const { return step_; }
  Key stream() const { return key(current_stream(device().index())); }

 private:
  void check_devices() const;
  void check_poison(bool reads_written, bool only_moves);
  void written(const at::Tensor& result);

  struct Argument {
    at::Tensor tensor;
    const std::string* name;
    bool written;
  };

  const std::string& op_;
  std::optional<Call> call_;
  std::optional<c10::Device> device_;
  std::vector<Argument> arguments_;
  uint64_t step_ = 0;
  bool carries_poison_ = false;
  std::unordered_map<c10::StorageImpl*, c10::Storage> views_, viewed_;
};

}  // namespace deepport::sim

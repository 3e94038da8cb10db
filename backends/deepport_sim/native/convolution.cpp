// Convolution, which torch gives to a device that it does not know in a form of its own.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "work.h"

namespace deepport::sim {
namespace {

using Ints = at::IntArrayRef;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias, Ints stride, Ints padding,
                       Ints dilation, bool transposed, Ints output_padding, int64_t groups) {
  Work work(kept("aten::convolution"));
  const bool biased = bias && bias->defined();
  work.argument(x, kept("input"), false);
  work.argument(w, kept("weight"), false);
  if (biased) work.argument(*bias, kept("bias"), false);
  work.start(/*reads_written=*/false, /*only_moves=*/false);
  const auto added = biased ? std::optional(work.view(*bias)) : std::nullopt;
  return work.adopt(at::convolution(work.view(x), work.view(w), added, stride, padding, dilation, transposed, output_padding, groups));
}

Gradients convolution_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& w, Ints stride, Ints padding, Ints dilation,
                               bool transposed, Ints output_padding, int64_t groups, std::array<bool, 3> wanted) {
  Work work(kept("aten::convolution_backward"));
  work.argument(grad, kept("grad_output"), false);
  work.argument(x, kept("input"), false);
  work.argument(w, kept("weight"), false);
  work.start(/*reads_written=*/false, /*only_moves=*/false);
  const int64_t channels = transposed ? w.size(1) * groups : w.size(0);
  const auto [of_x, of_w, of_bias] =
      at::convolution_backward(work.view(grad), work.view(x), work.view(w), at::OptionalIntArrayRef(channels), stride, padding, dilation,
                               transposed, output_padding, groups, wanted);
  const auto adopted = [&](const at::Tensor& t) { return t.defined() ? work.adopt(t) : t; };
  return {adopted(of_x), adopted(of_w), adopted(of_bias)};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

}  // namespace deepport::sim

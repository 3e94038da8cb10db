// Every operator of the device that has no kernel of its own: computed by the CPU's kernel on the host's view of the device's
// memory, or by meta's in dry mode.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <map>
#include <unordered_map>
#include <unordered_set>

#include "boxed.h"
#include "generator.h"
#include "poison.h"
#include "rules.h"
#include "work.h"

namespace deepport::sim {
namespace {

std::map<std::string, int64_t>& counts() {
  static auto* const all = new std::map<std::string, int64_t>();
  return *all;
}

std::unordered_set<std::string>& lacking() {
  static auto* const all = new std::unordered_set<std::string>();
  return *all;
}

// Their result's shape, or the program's path, depends on data: the host waits for the device to have it.
const std::unordered_set<std::string>& data_dependent() {
  static const std::unordered_set<std::string> all = {
      "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::equal",
      "aten::repeat_interleave", "aten::bincount", "aten::is_nonzero"};
  return all;
}

// Applies f to each tensor of a value; where f changes one, the value gets it.
template <class F>
void each_tensor(c10::IValue& value, F&& f) {
  if (value.isTensor()) {
    at::Tensor t = value.toTensor();
    if (t.defined() && f(t)) value = t;
  } else if (value.isTensorList()) {
    auto list = value.toTensorVector();
    bool changed = false;
    for (at::Tensor& t : list) changed |= t.defined() && f(t);
    if (changed) value = c10::IValue(list);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (auto& entry : value.toOptionalTensorVector()) {
      if (entry && entry->defined()) f(*entry);
      list.push_back(entry);
    }
    value = c10::IValue(list);
  }
}

bool wants_generator(const c10::Argument& argument, const c10::IValue& value) {
  if (value.isGenerator()) return true;
  const auto optional = argument.type()->cast<c10::OptionalType>();
  return value.isNone() && optional && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
}

bool writes(const c10::Argument& argument) { return argument.alias_info() && argument.alias_info()->isWrite(); }

// A view: it neither reads nor writes what it shows.
bool only_views(const c10::FunctionSchema& schema) {
  for (const auto& result : schema.returns())
    if (result.alias_info() && !result.alias_info()->isWrite()) return true;
  return false;
}

const std::string& name_of(const c10::OperatorHandle& op) {
  thread_local std::unordered_map<const c10::FunctionSchema*, const std::string*> names;
  const std::string*& found = names[&op.schema()];
  if (!found) found = &kept(op.schema().name());
  return *found;
}

class Boxed {
 public:
  Boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), name_(name_of(op)), schema_(op.schema()), stack_(stack), work_(name_),
        first_(stack->size() - schema_.arguments().size()) {}

  void run() {
    count(name_);
    look();
    check_support();
    const bool waits = depends_on_data() && !dry();
    if (waits) check_sync();
    if (!only_views(schema_)) work_.start(reads_written(), only_moves(name_));
    substitute();
    op_.redispatchBoxed(c10::DispatchKeySet(dry() ? c10::DispatchKey::Meta : c10::DispatchKey::CPU), stack_);
    if (waits) wait();
    give_back();
  }

 private:
  c10::IValue& argument(size_t i) { return (*stack_)[first_ + i]; }

  void look() {
    for (size_t i = 0; i < schema_.arguments().size(); ++i) {
      const auto& declared = schema_.arguments()[i];
      if (argument(i).isTensor()) given_[i] = argument(i).toTensor();
      each_tensor(argument(i), [&](at::Tensor& t) { return work_.argument(t, declared.name(), writes(declared)), false; });
      if (argument(i).isDevice() && argument(i).toDevice().type() == kType) work_.place(argument(i).toDevice());
    }
  }

  void check_support() const {
    if (name_.rfind("aten::", 0) != 0 || lacking().count(name_))
      report(Rule::fallback, c10::str("the device has no kernel for ", name_, ", and the CPU computes it"));
  }

  bool depends_on_data() { return data_dependent().count(name_) || (name_.rfind("aten::index", 0) == 0 && by_mask()); }

  // Indexing by truth: the number of rows that are meant has to be counted first.
  bool by_mask() {
    bool found = false;
    for (size_t i = 0; i < schema_.arguments().size(); ++i)
      if (schema_.arguments()[i].name() == "indices")
        each_tensor(argument(i), [&](at::Tensor& t) { return found |= t.scalar_type() == at::kBool && on_device(t), false; });
    return found;
  }

  void check_sync() const {
    report(Call::in_reference() ? Rule::reference_sync : Rule::implicit_sync,
           c10::str("the host waits for the device, to learn what ", name_, " gives"));
  }

  void wait() {
    const Lock lock(mutex());
    wait_on_host(work_.stream());
  }

  bool reads_written() const { return name_.back() == '_' && !overwrites(name_); }

  void substitute() {
    for (size_t i = 0; i < schema_.arguments().size(); ++i) {
      c10::IValue& value = argument(i);
      each_tensor(value, [&](at::Tensor& t) { return on_device(t) && (t = work_.view(t), true); });
      if (value.isDevice() && value.toDevice().type() == kType) value = c10::Device(dry() ? at::kMeta : at::kCPU);
      if (!dry() && wants_generator(schema_.arguments()[i], value))
        value = host_generator(value.isNone() ? default_generator(work_.device().index()) : value.toGenerator());
    }
  }

  void give_back() {
    const size_t first = stack_->size() - schema_.returns().size();
    for (size_t r = 0; r < schema_.returns().size(); ++r) {
      c10::IValue& value = (*stack_)[first + r];
      const auto* const alias = schema_.returns()[r].alias_info();
      if (alias && alias->isWrite() && value.isTensor())
        value = written(*alias, value.toTensor());
      else
        each_tensor(value, [&](at::Tensor& t) { return (t.is_cpu() || t.is_meta()) && (t = work_.adopt(t), true); });
    }
  }

  // The argument that a result is: it keeps its identity.
  at::Tensor written(const c10::AliasInfo& alias, const at::Tensor& view) {
    for (size_t i = 0; i < schema_.arguments().size(); ++i) {
      const auto* const declared = schema_.arguments()[i].alias_info();
      if (!declared || !(*declared == alias) || !given_.count(i) || !given_[i].defined()) continue;
      if (on_device(given_[i])) work_.resettle(given_[i], view);
      return given_[i];
    }
    return view;
  }

  const c10::OperatorHandle& op_;
  const std::string& name_;
  const c10::FunctionSchema& schema_;
  torch::jit::Stack* stack_;
  Work work_;
  size_t first_;
  std::unordered_map<size_t, at::Tensor> given_;
};

}  // namespace

void boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Boxed(op, stack).run(); }

void count(const std::string& op) {
  const Lock lock(mutex());
  ++counts()[op];
}

std::map<std::string, int64_t> operators() {
  const Lock lock(mutex());
  return counts();
}

void set_lacking(const std::vector<std::string>& operators) { lacking() = {operators.begin(), operators.end()}; }

// Structured operators would allocate first and then call their out= form: here they are one operator, as on a device.
void register_structured() {
  static auto* const registered = new std::vector<c10::RegistrationHandleRAII>();
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    if (name.name.rfind("aten::", 0) != 0 || !op->hasSchema() ||
        !op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional))
      continue;
    registered->push_back(dispatcher.registerImpl(name, c10::DispatchKey::PrivateUse1, c10::KernelFunction::makeFromBoxedFunction<&boxed>(),
                                                  std::nullopt, nullptr, "deepport_sim"));
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&boxed>()); }

}  // namespace deepport::sim

#include "call.h"

#include <Python.h>

#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "rules.h"

namespace deepport::sim {
namespace {

struct Code {
  std::string file;
  bool carries, reference;
};

// Guarded by Python's lock.
struct Paths {
  std::vector<std::string> machinery, references;
  std::unordered_map<PyCodeObject*, Code> codes;  // owns them: an address is not given out again
};

Paths& paths() {
  static auto* const one = new Paths();
  return *one;
}

bool within(const std::vector<std::string>& prefixes, const std::string& file) {
  for (const std::string& prefix : prefixes)
    if (file.rfind(prefix, 0) == 0) return true;
  return false;
}

const Code& known(PyCodeObject* code) {
  auto& codes = paths().codes;
  auto found = codes.find(code);
  if (found != codes.end()) return found->second;
  const char* text = PyUnicode_AsUTF8(code->co_filename);
  const std::string file = text ? text : "";
  Py_INCREF(code);
  const bool carries = within(paths().machinery, file) || file.rfind("<frozen", 0) == 0;
  return codes.emplace(code, Code{file, carries, within(paths().references, file)}).first->second;
}

Site walked() {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  Site found{&kept("no line of Python: another thread, such as autograd's"), false};
  while (frame) {
    PyCodeObject* const code = PyFrame_GetCode(frame);
    const Code& here = known(code);
    Py_DECREF(code);
    found.reference |= here.reference;
    if (!here.carries) found.text = &kept(here.file + ":" + std::to_string(PyFrame_GetLineNumber(frame)));
    PyFrameObject* const outer = here.carries ? PyFrame_GetBack(frame) : nullptr;
    Py_DECREF(frame);
    frame = outer;
  }
  return found;
}

struct Running {
  const std::string* op = nullptr;
  Site site{nullptr, false};
};
thread_local Running running;

}  // namespace

const std::string& kept(const std::string& text) {
  static auto* const texts = new std::unordered_set<std::string>();
  static auto* const guard = new std::mutex();
  const std::lock_guard<std::mutex> lock(*guard);
  return *texts->insert(text).first;
}

Site here() {
  if (!Py_IsInitialized() || _Py_IsFinalizing()) return {&kept("the end of the program"), false};
  const PyGILState_STATE state = PyGILState_Ensure();
  const Site found = walked();
  PyGILState_Release(state);
  return found;
}

void set_paths(std::vector<std::string> machinery, std::vector<std::string> references) {
  paths().machinery = std::move(machinery);
  paths().references = std::move(references);
  paths().codes.clear();
}

Call::Call(const std::string& op) : outermost_(running.op == nullptr) {
  if (!outermost_) return;
  raise_deferred();
  running = {&op, here()};
}

Call::~Call() {
  if (outermost_) running = {};
}

const std::string& Call::current_op() { return running.op ? *running.op : kept("no operator"); }
const std::string& Call::current_site() { return running.op ? *running.site.text : *here().text; }
bool Call::in_reference() { return running.op && running.site.reference; }

}  // namespace deepport::sim

// Tensors as kernels' arguments: a torch.Tensor becomes the address of its data, None a null pointer, a torch.dtype a Type; and a
// str the choice that it names.
//
// An empty tensor, which has no address, gets one: it is not None.
//
// By torch's public Python methods alone, so that one build serves every version of torch.
#pragma once

#include <pybind11/pybind11.h>

#include "recording.h"
#include "types.h"

namespace deepport {

// `owner` keeps the memory while a call is recorded: the storage, for a tensor may be given another one.
template <class T>
struct Data {
  T* address = nullptr;
  pybind11::object owner = {};
};

}  // namespace deepport

namespace pybind11::detail {

template <class T>
struct type_caster<deepport::Data<T>> {
  PYBIND11_TYPE_CASTER(deepport::Data<T>, const_name("torch.Tensor | None"));

  bool load(handle source, bool) {
    if (source.is_none()) return true;
    static PyObject* const method = PyUnicode_InternFromString("data_ptr");
    const object address = reinterpret_steal<object>(PyObject_CallMethodNoArgs(source.ptr(), method));
    if (!address) {
      // Anything else that went wrong is no wrong argument: Ctrl-C, say, in a mode of torch that sees the question.
      if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw error_already_set();
      PyErr_Clear();
      return false;
    }
    static char empty;
    void* const given = PyLong_AsVoidPtr(address.ptr());
    value.address = static_cast<T*>(given ? given : &empty);
    if (deepport::Recording::current()) value.owner = source.attr("untyped_storage")();
    return true;
  }
};

template <>
struct type_caster<deepport::Type> {
  PYBIND11_TYPE_CASTER(deepport::Type, const_name("torch.dtype"));

  bool load(handle source, bool) {
    static const handle torch = module_::import("torch").release();
    static const handle float32 = torch.attr("float32").cast<object>().release();
    static const handle bfloat16 = torch.attr("bfloat16").cast<object>().release();
    value = source.is(bfloat16) ? deepport::Type::bfloat16 : deepport::Type::float32;
    return source.is(float32) || source.is(bfloat16);
  }
};

// (element, whether scales are powers of two, rows, columns)
template <>
struct type_caster<deepport::Format> {
  PYBIND11_TYPE_CASTER(deepport::Format, const_name("tuple[int, bool, int, int]"));

  bool load(handle source, bool convert) {
    make_caster<std::tuple<int, bool, int64_t, int64_t>> parts;
    if (!parts.load(source, convert)) return false;
    const auto [element, power_of_two, rows, columns] = cast_op<std::tuple<int, bool, int64_t, int64_t>>(parts);
    value = {deepport::Element(element), power_of_two, rows, columns};
    return true;
  }
};

template <>
struct type_caster<deepport::Scoring> {
  PYBIND11_TYPE_CASTER(deepport::Scoring, const_name("str"));

  bool load(handle source, bool) {
    for (const auto& [word, scoring] : {std::pair{"sqrtsoftplus", deepport::Scoring::sqrtsoftplus},
                                        {"sigmoid", deepport::Scoring::sigmoid},
                                        {"softmax", deepport::Scoring::softmax}}) {
      if (PyUnicode_Check(source.ptr()) && !PyUnicode_CompareWithASCIIString(source.ptr(), word)) {
        value = scoring;
        return true;
      }
    }
    return false;
  }
};

}  // namespace pybind11::detail

// SPDX-License-Identifier: Apache-2.0
#include <c10/util/Exception.h>
#include <torch/csrc/utils/pybind.h>

#include <exception>
#include <string>

#include "instseg/error.h"

namespace py = pybind11;

namespace instseg {

void init_config(py::module_& m);
void init_masks(py::module_& m);
void init_mask_targets(py::module_& m);
void init_image(py::module_& m);
void init_mask_ops(py::module_& m);
void init_model(py::module_& m);
void init_ops(py::module_& m);
void init_blend_ops(py::module_& m);
void init_solo_ops(py::module_& m);
void init_solo_targets(py::module_& m);
void init_build(py::module_& m);
void init_evaluation(py::module_& m);

}  // namespace instseg

namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

void set_error(PyObject* type, const c10::Error& error) {
  PyErr_SetString(type, first_line(error.what_without_backtrace()).c_str());
}

/** One-line Python errors; c10 errors otherwise arrive with a C++ backtrace. */
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const instseg::ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const instseg::TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const instseg::IoError& error) {
    PyErr_SetString(PyExc_OSError, error.what());
  } catch (const instseg::Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (const c10::IndexError& error) {
    set_error(PyExc_IndexError, error);
  } catch (const c10::ValueError& error) {
    set_error(PyExc_ValueError, error);
  } catch (const c10::TypeError& error) {
    set_error(PyExc_TypeError, error);
  } catch (const c10::NotImplementedError& error) {
    set_error(PyExc_NotImplementedError, error);
  } catch (const c10::OutOfMemoryError& error) {
    set_error(py::module_::import("torch").attr("OutOfMemoryError").ptr(), error);
  } catch (const c10::Error& error) {
    set_error(PyExc_RuntimeError, error);
  }
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Bindings of libinstseg; use them through the instseg package.";
  py::register_local_exception_translator(translate);
  instseg::init_config(m);
  instseg::init_masks(m);
  instseg::init_mask_targets(m);
  instseg::init_image(m);
  instseg::init_model(m);
  instseg::init_ops(m);
  instseg::init_blend_ops(m);
  instseg::init_mask_ops(m);
  instseg::init_solo_ops(m);
  instseg::init_solo_targets(m);
  instseg::init_build(m);
  instseg::init_evaluation(m);
}

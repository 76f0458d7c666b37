// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "instseg/config.h"
#include "instseg/model.h"

namespace instseg {

/** Content of a model file (docs/model-file.md): a safetensors file whose metadata makes it self-contained.
 */
struct ModelFile {
  ModelConfig config;
  std::string summary;                // training summary, a JSON object; "{}" when unknown
  NamedTensors tensors;               // parameters and buffers by name, on the CPU
  std::vector<std::string> warnings;  // e.g. tensors with NaN
};

/** Newest model-file format this build reads and the one it writes. */
inline constexpr int kModelFileVersion = 1;

/**
 * Reads a model file; executes nothing from it. Throws IoError when the file cannot be read and ValueError,
 * naming file, tensor and offset, when it is malformed or written by a newer format version.
 */
ModelFile read_model_file(const std::string& path);

/** Writes atomically (temporary file, then rename). */
void write_model_file(const std::string& path, const ModelFile& file);

/** All parameters and buffers of `model` by name, detached, sharing memory. */
NamedTensors state_of(const Model& model);

/** Copies `tensors` into `model`; ValueError lists missing, unexpected and misshapen names. */
void load_state(Model& model, const NamedTensors& tensors);

/** read_model_file + make_model + load_state. Prints nothing; warnings come back through `warnings` if given.
 */
std::shared_ptr<Model> load_model(const std::string& path, std::vector<std::string>* warnings = nullptr);

/**
 * state_of + write_model_file. `dtype` "float32" writes the tensors as they are; "float16" rounds the
 * parameters to half precision, which halves the file, and keeps buffers (statistics and counters of norms)
 * exact. Reading gives float32 again. Throws ValueError on another dtype and, naming the parameter, for a
 * finite value beyond the range of float16.
 */
void save_model(const std::string& path, const Model& model, const std::string& summary = "{}",
                const std::string& dtype = "float32");

}  // namespace instseg

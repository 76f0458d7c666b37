// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "instseg/model.h"

namespace instseg {

/** Content of a safetensors file (https://huggingface.co/docs/safetensors). */
struct Safetensors {
  std::map<std::string, std::string> metadata;
  NamedTensors tensors;  // in the order of the header; each owns its memory, on the CPU
};

/**
 * Reads a safetensors file with tensors of F64, F32, F16, BF16, I64, I32, I16, I8, U8 and BOOL. Nothing in
 * the file is trusted: every length, offset, shape and name is checked before it is used. Throws IoError when
 * the file cannot be read and ValueError, "[read_safetensors] <file>: ...", when it is malformed.
 */
Safetensors read_safetensors(const std::string& path);

/** read_safetensors for bytes in memory; `name` stands for the file in messages. */
Safetensors parse_safetensors(const void* bytes, size_t size, const std::string& name);

/**
 * Writes atomically. The header keeps the order of `tensors`; data are laid out by descending element size,
 * so every tensor is aligned to its elements. Throws ValueError on duplicate names and other dtypes, IoError
 * when writing fails.
 */
void write_safetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const NamedTensors& tensors);

}  // namespace instseg

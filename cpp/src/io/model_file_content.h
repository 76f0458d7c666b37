// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "instseg/model_file.h"
#include "io/safetensors.h"

namespace instseg {

/** Interprets the metadata of a safetensors file as a model file; `path` is used in messages. See
 * read_model_file. */
ModelFile model_file_content(Safetensors file, const std::string& path);

}  // namespace instseg

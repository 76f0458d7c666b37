// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "inputs.h"
#include "instseg/config.h"
#include "instseg/instances.h"
#include "instseg/version.h"

namespace instseg::apps {

/** Detections of one file, on the CPU. */
struct Detected {
  std::string file;
  Instances instances;
};

/** Milliseconds by stage, summed over images. */
struct Timings {
  double decode = 0;
  double preprocess = 0;
  double network = 0;
  double postprocess = 0;
  double draw = 0;  // and write
  int64_t images = 0;
};

/**
 * One entry of "images" in the detections document: the float32 results exactly; with `masks`, those of
 * models that predict them.
 */
nlohmann::ordered_json image_entry(const ModelConfig& config, const Detected& image, bool masks);

/** The detections document (docs/cli.md, "instseg predict"); `instseg predict --json` writes the same one. */
nlohmann::ordered_json detections_document(const std::string& model, nlohmann::ordered_json images,
                                           const std::vector<Failure>& failures);

/** Name of a label; its number when the model has no class names. */
std::string class_name(const ModelConfig& config, int64_t label);

/** One line for the image, and one per detection when `each`. */
std::string image_text(const ModelConfig& config, const Detected& image, bool each);

/** Mean milliseconds per image of every stage, one line. */
std::string timing_text(const Timings& timings);

/** What this build can do, for --version. */
std::string version_text(const BuildInfo& info);

}  // namespace instseg::apps

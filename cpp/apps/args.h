// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "instseg/error.h"
#include "instseg/image.h"

namespace instseg::apps {

/** A command line that cannot be understood; the program ends with exit code 2. */
class UsageError : public Error {
 public:
  using Error::Error;
};

/** Command line of instseg-infer. */
struct InferArgs {
  std::string model;                         // model file
  std::vector<std::string> inputs;           // image files and folders
  std::string output;                        // folder for annotated pictures; empty: none are written
  std::string json;                          // file for the detections document; "-": stdout; empty: none
  double score = 0.3;                        // detections below are dropped
  std::string device = "cpu";                // "cpu", "cuda" or "cuda:N"
  std::string precision = "fp32";            // "fp32", "bf16" or "fp16"
  int64_t max_detections = 0;                // 0: as the model file says
  int64_t short_side = 0;                    // px; 0: as the model file says
  int64_t long_side = 0;                     // px; 0: as the model file says
  int64_t threads = 0;                       // CPU threads; 0: as many as libtorch chooses
  int64_t pixel_limit = kDefaultPixelLimit;  // larger images are refused
  bool masks = true;                         // masks in the detections document
  bool help = false;
  bool version = false;
};

/** Parses the arguments after the program name. Throws UsageError with one line saying what is wrong. */
InferArgs parse_args(const std::vector<std::string>& arguments);

/** Text of --help. */
std::string help_text();

}  // namespace instseg::apps

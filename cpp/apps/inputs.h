// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <vector>

namespace instseg::apps {

/** An input that gave no detections, and why. */
struct Failure {
  std::string file;
  std::string error;  // one line
};

/** Whether the extension is that of an image file: .jpg, .jpeg or .png in any case. */
bool looks_like_image(const std::string& file);

/**
 * Image files named by `inputs`: files as given, folders replaced by the image files directly in them, sorted
 * by name. A folder that cannot be listed or has no image becomes a Failure.
 */
std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs,
                                       std::vector<Failure>& failures);

/** Names of output pictures: the input's name (".png" unless it is a JPEG), numbered when two inputs share
 * it. */
class PictureNames {
 public:
  explicit PictureNames(std::string folder) : folder_(std::move(folder)) {}
  /** Path of the picture for `file`; never the same twice. */
  std::string next(const std::string& file);

 private:
  std::string folder_;
  std::set<std::string> used_;
};

}  // namespace instseg::apps

// SPDX-License-Identifier: Apache-2.0
#include "inputs.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <system_error>

namespace instseg::apps {
namespace fs = std::filesystem;
namespace {

std::string lower_extension(const std::string& file) {
  std::string extension = fs::path(file).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

void add_folder(const std::string& folder, std::vector<std::string>& files, std::vector<Failure>& failures) {
  std::error_code error;
  std::vector<std::string> found;
  fs::directory_iterator entries(folder, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    std::error_code ignored;
    const std::string file = entries->path().string();
    if (looks_like_image(file) && !entries->is_directory(ignored)) found.push_back(file);
  }
  if (error) {
    failures.push_back({folder, "cannot list the folder: " + error.message()});
  } else if (found.empty()) {
    failures.push_back({folder, "no image files (.jpg, .jpeg, .png) in this folder"});
  }
  std::sort(found.begin(), found.end());
  files.insert(files.end(), found.begin(), found.end());
}

}  // namespace

bool looks_like_image(const std::string& file) {
  const std::string extension = lower_extension(file);
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
}

std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs,
                                       std::vector<Failure>& failures) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    std::error_code ignored;
    if (fs::is_directory(input, ignored)) {
      add_folder(input, files, failures);
    } else {
      files.push_back(input);
    }
  }
  return files;
}

std::string PictureNames::next(const std::string& file) {
  const fs::path path(file);
  const std::string extension = lower_extension(file);
  const bool jpeg = extension == ".jpg" || extension == ".jpeg";
  const std::string kept = jpeg ? path.extension().string() : ".png";
  std::string name = path.stem().string() + kept;
  for (int number = 2; !used_.insert(name).second; ++number) {
    name = path.stem().string() + "_" + std::to_string(number) + kept;
  }
  return (fs::path(folder_) / name).string();
}

}  // namespace instseg::apps

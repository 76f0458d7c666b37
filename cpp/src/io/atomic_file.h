// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

namespace instseg {

/**
 * A file that appears at `path` complete or not at all: bytes go to a temporary file in the same folder,
 * commit() flushes it to the disk and renames it. Without commit() the temporary file is removed. Throws
 * IoError, naming `path` and the reason, starting with "[function] ".
 */
class AtomicFile {
 public:
  AtomicFile(std::string path, std::string function);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, size_t size);
  void commit();

 private:
  [[noreturn]] void fail(const char* action, int error) const;

  std::string path_;
  std::string function_;
  std::string temporary_;
  int file_ = -1;
};

}  // namespace instseg

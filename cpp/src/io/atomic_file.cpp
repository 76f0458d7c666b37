// SPDX-License-Identifier: Apache-2.0
#include "io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include "instseg/error.h"

namespace instseg {

AtomicFile::AtomicFile(std::string path, std::string function)
    : path_(std::move(path)), function_(std::move(function)) {
  // Unlike mkstemp, open() gives the file the permissions any new file of the user has.
  std::random_device random;
  for (int attempt = 0; attempt < 16 && file_ < 0; ++attempt) {
    temporary_ = join(path_, ".tmp", ::getpid(), "-", random());
    file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file_ < 0 && errno != EEXIST) break;
  }
  if (file_ < 0) fail("create", errno);
}

AtomicFile::~AtomicFile() {
  if (file_ >= 0) ::close(file_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, size_t size) {
  const char* next = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::write(file_, next, std::min<size_t>(size, 1 << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", errno);
    next += written;
    size -= static_cast<size_t>(written);
  }
}

void AtomicFile::commit() {
  if (::fsync(file_) != 0) fail("write", errno);
  const int closed = ::close(std::exchange(file_, -1));
  if (closed != 0) fail("write", errno);
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("write", errno);
  temporary_.clear();
  // The rename itself reaches the disk with the folder; file systems without that notion may refuse.
  std::string folder = std::filesystem::path(path_).parent_path().string();
  const int handle = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;
  ::fsync(handle);
  ::close(handle);
}

void AtomicFile::fail(const char* action, int error) const {
  throw IoError(
      join("[", function_, "] cannot ", action, " ", path_, ": ", std::generic_category().message(error)));
}

}  // namespace instseg

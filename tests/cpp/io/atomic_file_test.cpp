// SPDX-License-Identifier: Apache-2.0
#include "io/atomic_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "instseg/error.h"
#include "io/safetensors_bytes.h"

namespace instseg {
namespace {

using instseg::testing::read_bytes;
using instseg::testing::TemporaryFolder;
using instseg::testing::write_bytes;

size_t count_files(const TemporaryFolder& folder) {
  const auto files = std::filesystem::directory_iterator(folder.path());
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

TEST(AtomicFile, AppearsOnlyWithCommit) {
  const TemporaryFolder folder;
  AtomicFile file(folder / "a", "f");
  file.write("one ", 4);
  file.write("two", 3);
  EXPECT_FALSE(std::filesystem::exists(folder / "a"));
  file.commit();
  EXPECT_EQ(read_bytes(folder / "a"), "one two");
  EXPECT_EQ(count_files(folder), 1u);
}

TEST(AtomicFile, WithoutCommitNothingChanges) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "old");
  {
    AtomicFile file(folder / "a", "f");
    file.write("new", 3);
  }
  EXPECT_EQ(read_bytes(folder / "a"), "old");
  EXPECT_EQ(count_files(folder), 1u);
}

TEST(AtomicFile, TargetThatIsAFolder) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "a");
  try {
    AtomicFile file(folder / "a", "f");
    file.commit();
    FAIL() << "no error";
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()), "[f] cannot write " + folder / "a" + ": Is a directory");
  }
  EXPECT_EQ(count_files(folder), 1u);
}

TEST(AtomicFile, FolderIsMissing) {
  const TemporaryFolder folder;
  try {
    AtomicFile file(folder / "no/a", "f");
    FAIL() << "no error";
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()),
              "[f] cannot create " + folder / "no/a" + ": No such file or directory");
  }
}

}  // namespace
}  // namespace instseg

// SPDX-License-Identifier: Apache-2.0
#include "inputs.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace instseg::apps {
namespace {

namespace fs = std::filesystem;

/** An empty folder of its own for each test. */
class Inputs : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string touch(const std::string& name) const {
    std::ofstream(folder_ / name) << "x";
    return (folder_ / name).string();
  }

  fs::path folder_;
};

TEST_F(Inputs, FolderGivesItsImagesSorted) {
  const std::string b = touch("b.PNG"), a = touch("a.jpeg"), c = touch("c.jpg");
  touch("notes.txt");
  fs::create_directories(folder_ / "d.png");
  std::vector<Failure> failures;
  EXPECT_EQ(expand_inputs({folder_.string()}, failures), (std::vector<std::string>{a, b, c}));
  EXPECT_TRUE(failures.empty());
}

TEST_F(Inputs, FilesStayAsGivenWhateverTheyAre) {
  std::vector<Failure> failures;
  const std::vector<std::string> files{"missing.png", "notes.txt", "missing.png"};
  EXPECT_EQ(expand_inputs(files, failures), files);
  EXPECT_TRUE(failures.empty());
}

TEST_F(Inputs, FolderWithoutImagesIsAFailure) {
  touch("notes.txt");
  std::vector<Failure> failures;
  EXPECT_TRUE(expand_inputs({folder_.string()}, failures).empty());
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].file, folder_.string());
  EXPECT_EQ(failures[0].error, "no image files (.jpg, .jpeg, .png) in this folder");
}

TEST(PictureNames, NeverRepeats) {
  PictureNames names("out");
  EXPECT_EQ(names.next("x/a.png"), "out/a.png");
  EXPECT_EQ(names.next("y/a.png"), "out/a_2.png");
  EXPECT_EQ(names.next("a.JPG"), "out/a.JPG");
  EXPECT_EQ(names.next("z/a.tif"), "out/a_3.png");
  EXPECT_EQ(names.next("noextension"), "out/noextension.png");
}

}  // namespace
}  // namespace instseg::apps

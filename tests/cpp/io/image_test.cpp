// SPDX-License-Identifier: Apache-2.0
#include "instseg/image.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "instseg/error.h"
#include "io/image_codec.h"

namespace instseg {
namespace {

at::Tensor gradient(int64_t height, int64_t width) {
  at::Tensor image = at::empty({height, width, 3}, at::kByte);
  auto* pixels = image.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < image.numel(); ++i) pixels[i] = static_cast<uint8_t>(i / 3 + i % 3 * 40);
  return image;
}

struct TemporaryFolder {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      ("instseg_image_test_" + std::to_string(testing::UnitTest::GetInstance()->random_seed()) + "_" +
       testing::UnitTest::GetInstance()->current_test_info()->name());
  TemporaryFolder() { std::filesystem::create_directories(path); }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name, const std::string& content) const {
    std::ofstream(path / name, std::ios::binary) << content;
    return (path / name).string();
  }
};

template <class E>
std::string message(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "no exception";
}

template <class E>
std::string decode_error(const std::vector<uint8_t>& bytes, int64_t limit = kDefaultPixelLimit) {
  return message<E>([&] { decode_image(bytes.data(), bytes.size(), "x", limit); });
}

TEST(ReadImage, RoundTripsPng) {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "a.PNG").string();
  const at::Tensor image = gradient(13, 17);
  write_image(path, image);
  EXPECT_TRUE(at::equal(read_image(path), image));
}

TEST(ReadImage, RoundTripsJpegClosely) {
  const TemporaryFolder folder;
  const std::string path = (folder.path / "a.jpeg").string();
  const at::Tensor image = at::empty({16, 24, 3}, at::kByte).fill_(90);
  write_image(path, image);
  EXPECT_TRUE(at::equal(read_image(path), image));
}

TEST(ReadImage, NamesFilesThatCannotBeRead) {
  const TemporaryFolder folder;
  const std::string missing = (folder.path / "none.jpg").string();
  EXPECT_EQ(message<IoError>([&] { read_image(missing); }),
            "[read_image] " + missing + ": cannot be opened: No such file or directory");
  EXPECT_EQ(message<IoError>([&] { read_image(folder.path.string()); }),
            "[read_image] " + folder.path.string() + ": is a folder");
}

TEST(ReadImage, NamesFilesThatAreNoImage) {
  const TemporaryFolder folder;
  const std::string empty = folder.file("empty.jpg", "");
  EXPECT_EQ(message<ValueError>([&] { read_image(empty); }), "[read_image] " + empty + ": file is empty");
  const std::string html = folder.file("page.jpg", "<!doctype html>");
  EXPECT_EQ(message<ValueError>([&] { read_image(html); }),
            "[read_image] " + html + ": is not a JPEG or PNG image (starts with 3c 21 64 6f)");
  const std::string tiny = folder.file("tiny.png", "\x89");
  EXPECT_EQ(message<ValueError>([&] { read_image(tiny); }),
            "[read_image] " + tiny + ": is not a JPEG or PNG image (starts with 89)");
}

TEST(ReadImage, GoesByContentNotByExtension) {
  const TemporaryFolder folder;
  const at::Tensor image = gradient(4, 5);
  const auto bytes = encode_png(image);
  const std::string path = folder.file("mislabelled.jpg", std::string(bytes.begin(), bytes.end()));
  EXPECT_TRUE(at::equal(read_image(path), image));
}

TEST(DecodeImage, EveryTruncationIsAnError) {
  const at::Tensor image = gradient(20, 30);
  for (const auto& whole : {encode_png(image), encode_jpeg(image)}) {
    for (size_t size = 3; size < whole.size(); ++size) {
      // A heap block of just this size, so that the sanitizer sees any read beyond it.
      const std::vector<uint8_t> part(whole.begin(), whole.begin() + size);
      const std::string text = decode_error<ValueError>(part);
      ASSERT_TRUE(text.starts_with("[read_image] x: ")) << size << " of " << whole.size() << ": " << text;
    }
    const std::vector<uint8_t> half(whole.begin(), whole.begin() + whole.size() / 2);
    EXPECT_EQ(decode_error<ValueError>(half), "[read_image] x: is truncated");
  }
}

TEST(DecodeImage, ChecksThePixelLimitInTheHeader) {
  auto png = encode_png(gradient(20, 30));
  EXPECT_EQ(decode_error<ValueError>(png, 599),
            "[read_image] x: 30x20 = 600 pixels exceeds the limit of 599; raise it with --pixel-limit");
  EXPECT_EQ(decode_error<ValueError>(encode_jpeg(gradient(20, 30)), 599),
            "[read_image] x: 30x20 = 600 pixels exceeds the limit of 599; raise it with --pixel-limit");
  EXPECT_EQ(decode_error<ValueError>(png, 600), "no exception");
}

TEST(DecodeImage, RefusesACrcError) {
  auto png = encode_png(gradient(20, 30));
  png[20] ^= 1;  // a width of another value, its checksum unchanged
  EXPECT_TRUE(decode_error<ValueError>(png).starts_with("[read_image] x: broken PNG data: "));
}

TEST(WriteImage, ChecksItsArguments) {
  const TemporaryFolder folder;
  const at::Tensor image = gradient(3, 4);
  EXPECT_EQ(message<ValueError>([&] { write_image("a.bmp", image); }),
            "[write_image] a.bmp: extension is not .png, .jpg or .jpeg");
  EXPECT_EQ(message<ValueError>([&] { write_image("a.png", image.select(2, 0)); }),
            "[write_image] needs an RGB image [H, W, 3], got [3, 4]");
  EXPECT_EQ(message<TypeError>([&] { write_image("a.png", image.to(at::kFloat)); }),
            "[write_image] needs uint8 pixels, got Float");
  const std::string nowhere = (folder.path / "no" / "such" / "a.png").string();
  EXPECT_NE(message<IoError>([&] { write_image(nowhere, image); }).find(nowhere), std::string::npos);
}

// A TIFF directory with one entry, in either byte order.
std::vector<uint8_t> tiff(bool little_endian, uint8_t type, uint8_t value) {
  if (little_endian) {
    return {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, type, 0, 1, 0, 0, 0, value, 0, 0, 0, 0, 0, 0, 0};
  }
  const uint8_t high = type == 3 ? 0 : value, low = type == 3 ? value : 0;
  return {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, type, 0, 0, 0, 1, high, low, 0, 0, 0, 0, 0, 0};
}

TEST(ExifOrientation, ReadsBothByteOrders) {
  for (const bool little : {true, false}) {
    for (uint8_t value = 0; value < 12; ++value) {
      const auto bytes = tiff(little, 3, value);
      EXPECT_EQ(exif_orientation(bytes.data(), bytes.size()), value >= 1 && value <= 8 ? value : 1);
    }
    const auto byte = tiff(little, 1, 6);
    EXPECT_EQ(exif_orientation(byte.data(), byte.size()), 6);
    const auto rational = tiff(little, 5, 6);
    EXPECT_EQ(exif_orientation(rational.data(), rational.size()), 1);
  }
}

TEST(ExifOrientation, SurvivesTruncationAndBadOffsets) {
  const auto whole = tiff(true, 3, 6);
  for (size_t size = 0; size < 22; ++size) {
    const std::vector<uint8_t> part(whole.begin(), whole.begin() + size);
    EXPECT_EQ(exif_orientation(part.data(), part.size()), 1);
  }
  auto far = whole;
  std::fill(far.begin() + 4, far.begin() + 8, uint8_t{0xff});
  EXPECT_EQ(exif_orientation(far.data(), far.size()), 1);
}

TEST(ImageDecoders, ListsWhatThisBuildReads) {
  EXPECT_EQ(image_decoders(), (std::vector<std::string>{"jpeg", "png"}));
}

}  // namespace
}  // namespace instseg

// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <string_view>

#include "evaluation/coco_match.h"
#include "instseg/coco_evaluation.h"
#include "instseg/error.h"

// The layout: magic number, kind, classes, max_detections, number of images; of each its id and number of
// records; of each record label, objects, number of detections and their arrays.
namespace instseg {
namespace {

constexpr int64_t kMagic = 0x31454f434f43;  // "COCOE1"

template <class T>
void put(std::string& bytes, const T* values, size_t count) {
  if (count > 0) bytes.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

void put(std::string& bytes, int64_t value) { put(bytes, &value, 1); }

/** Reads values one after another; ValueError past the end. */
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  template <class T>
  void take(T* values, size_t count) {
    require(count <= rest_.size() / sizeof(T));
    if (count > 0) std::memcpy(values, rest_.data(), count * sizeof(T));
    rest_.remove_prefix(count * sizeof(T));
  }
  int64_t number() {
    int64_t value = 0;
    take(&value, 1);
    return value;
  }
  /** A number of things of at least `bytes` bytes each, which have to follow. */
  size_t count(size_t bytes) {
    const int64_t value = number();
    require(value >= 0 && static_cast<uint64_t>(value) <= rest_.size() / bytes);
    return static_cast<size_t>(value);
  }
  void end() const { require(rest_.empty()); }
  static void require(bool ok) { check<ValueError>(ok, "[CocoEvaluation.from_state] the state is damaged"); }

 private:
  std::string_view rest_;
};

CocoRecord read_record(Reader& reader, int64_t classes, int64_t max_detections) {
  CocoRecord record;
  record.label = reader.number();
  Reader::require(record.label >= 0 && record.label < classes);
  reader.take(record.objects.data(), record.objects.size());
  const size_t n = reader.count(sizeof(double));
  Reader::require(n <= static_cast<size_t>(max_detections));
  record.scores.resize(n);
  record.matched.resize(kCocoAreas * n);
  record.ignored.resize(kCocoAreas * n);
  reader.take(record.scores.data(), n);
  reader.take(record.matched.data(), record.matched.size());
  reader.take(record.ignored.data(), record.ignored.size());
  return record;
}

}  // namespace

std::string CocoEvaluation::state() const {
  std::string bytes;
  for (const int64_t value :
       {kMagic, static_cast<int64_t>(kind_), classes_, max_detections_, static_cast<int64_t>(images_.size())})
    put(bytes, value);
  for (const auto& [id, records] : images_) {
    put(bytes, id);
    put(bytes, static_cast<int64_t>(records.size()));
    for (const CocoRecord& record : records) {
      put(bytes, record.label);
      put(bytes, record.objects.data(), record.objects.size());
      put(bytes, static_cast<int64_t>(record.scores.size()));
      put(bytes, record.scores.data(), record.scores.size());
      put(bytes, record.matched.data(), record.matched.size());
      put(bytes, record.ignored.data(), record.ignored.size());
    }
  }
  return bytes;
}

CocoEvaluation CocoEvaluation::from_state(const std::string& bytes) {
  Reader reader(bytes);
  Reader::require(reader.number() == kMagic);
  const int64_t kind = reader.number(), classes = reader.number(), max_detections = reader.number();
  Reader::require((kind == 0 || kind == 1) && classes >= 1 && max_detections >= 1);
  CocoEvaluation out(static_cast<CocoKind>(kind), classes, max_detections);
  const size_t images = reader.count(2 * sizeof(int64_t));
  for (size_t i = 0; i < images; ++i) {
    const int64_t id = reader.number();
    Reader::require(!out.images_.contains(id));
    std::vector<CocoRecord>& records = out.images_[id];
    for (size_t left = reader.count(sizeof(int64_t)); left > 0; --left)
      records.push_back(read_record(reader, classes, max_detections));
  }
  reader.end();
  return out;
}

}  // namespace instseg

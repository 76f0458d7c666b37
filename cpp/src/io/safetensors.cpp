// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <system_error>
#include <utility>
#include <vector>

#include "instseg/error.h"
#include "io/atomic_file.h"
#include "io/closest.h"
#include "io/strict_json.h"

namespace instseg {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kMaxRank = 32;
constexpr char kMetadata[] = "__metadata__";

const std::vector<std::pair<std::string, at::ScalarType>>& dtypes() {
  static const std::vector<std::pair<std::string, at::ScalarType>> table = {
      {"F64", at::kDouble}, {"F32", at::kFloat}, {"F16", at::kHalf},  {"BF16", at::kBFloat16},
      {"I64", at::kLong},   {"I32", at::kInt},   {"I16", at::kShort}, {"I8", at::kChar},
      {"U8", at::kByte},    {"BOOL", at::kBool}};
  return table;
}

// ---- Bytes ----

struct Source {
  std::string where;  // "[read_safetensors] <file>: "
  uint64_t size = 0;
  std::function<void(uint64_t offset, void* target, size_t count)> read;
};

// What users try to load by mistake, said in their terms.
const char* foreign_kind(const char* start) {
  if (std::memcmp(start, "PK\x03\x04", 4) == 0 || std::memcmp(start, "\x80\x02", 2) == 0) {
    return "a PyTorch checkpoint";
  }
  if (std::memcmp(start, "\x89HDF", 4) == 0) return "an HDF5 file";
  return nullptr;
}

std::string read_header(const Source& source) {
  check<ValueError>(source.size > 0, source.where, "the file is empty");
  check<ValueError>(source.size >= 8, source.where, "truncated: ", source.size,
                    " bytes, the header length alone has 8");
  char start[8];
  source.read(0, start, 8);
  const char* kind = foreign_kind(start);
  check<ValueError>(kind == nullptr, source.where, "this is ", kind == nullptr ? "" : kind,
                    ", not a safetensors file; `instseg convert` imports published checkpoints");
  uint64_t length = 0;
  std::memcpy(&length, start, 8);
  check<ValueError>(length <= kMaxHeader, source.where, "header length ", length, " is over the limit of ",
                    kMaxHeader, " bytes; this is no safetensors file");
  check<ValueError>(length <= source.size - 8, source.where, "truncated: the header needs ", length,
                    " bytes after offset 8, the file has ", source.size - 8);
  std::string text(length, '\0');
  source.read(8, text.data(), text.size());
  check<ValueError>(text.starts_with('{'), source.where, "the header at offset 8 is not a JSON object");
  return text;
}

// ---- Header ----

struct Entry {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // offsets into the data
  uint64_t end = 0;
};

bool as_size(const Json& json, uint64_t& value) {
  if (!json.is_number_unsigned()) return false;
  value = json.get<uint64_t>();
  return value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

at::ScalarType parse_dtype(const Json& json, const std::string& where) {
  std::vector<std::string> names;
  for (const auto& [name, type] : dtypes()) {
    if (json.is_string() && json.get_ref<const std::string&>() == name) return type;
    names.push_back(name);
  }
  throw ValueError(
      join(where, "dtype ", printable(json.dump(-1, ' ', true)), " is not one of ", comma_list(names)));
}

// The shape and its size in bytes, refusing products beyond 2^62, also those hidden behind a zero.
uint64_t parse_shape(const Json& json, Entry& entry, const std::string& where) {
  check<ValueError>(json.is_array(), where, "shape is not a list");
  check<ValueError>(json.size() <= kMaxRank, where, "shape has ", json.size(), " dimensions, more than ",
                    kMaxRank);
  uint64_t bytes = c10::elementSize(entry.dtype);
  bool empty = false;
  for (const Json& item : json) {
    uint64_t size = 0;
    check<ValueError>(as_size(item, size), where, "shape contains ", printable(item.dump(-1, ' ', true)),
                      ", not a non-negative 64-bit integer");
    entry.shape.push_back(static_cast<int64_t>(size));
    empty = empty || size == 0;
    const uint64_t factor = std::max<uint64_t>(size, 1);
    check<ValueError>(bytes <= (uint64_t{1} << 62) / factor, where, "shape ", json.dump(), " overflows");
    bytes *= factor;
  }
  return empty ? 0 : bytes;
}

Entry parse_entry(const std::string& name, const Json& json, uint64_t data_size, const std::string& file) {
  const std::string where = join(file, "tensor '", printable(name), "': ");
  check<ValueError>(!name.empty(), file, "a tensor has an empty name");
  check<ValueError>(json.is_object(), where, "its header entry is not a JSON object");
  for (const char* key : {"dtype", "shape", "data_offsets"})
    check<ValueError>(json.contains(key), where, "no ", key);
  for (const auto& [key, item] : json.items()) {
    check<ValueError>(key == "dtype" || key == "shape" || key == "data_offsets", where, "unknown key '",
                      printable(key), "'");
  }
  Entry entry;
  entry.name = name;
  entry.dtype = parse_dtype(json["dtype"], where);
  const uint64_t bytes = parse_shape(json["shape"], entry, where);
  const Json& offsets = json["data_offsets"];
  check<ValueError>(offsets.is_array() && offsets.size() == 2 && as_size(offsets[0], entry.begin) &&
                        as_size(offsets[1], entry.end) && entry.begin <= entry.end,
                    where, "data_offsets ", printable(offsets.dump(-1, ' ', true)), " is not [begin, end]");
  check<ValueError>(entry.end <= data_size, where, "data_offsets [", entry.begin, ", ", entry.end,
                    "] reach beyond the ", data_size, " bytes of data (truncated file?)");
  check<ValueError>(entry.end - entry.begin == bytes, where, "shape ", json["shape"].dump(), " of ",
                    json["dtype"].get_ref<const std::string&>(), " needs ", bytes, " bytes, data_offsets [",
                    entry.begin, ", ", entry.end, "] hold ", entry.end - entry.begin);
  return entry;
}

void parse_metadata(const Json& json, Safetensors& result, const std::string& where) {
  check<ValueError>(json.is_object(), where, kMetadata, " is not a JSON object");
  for (const auto& [key, item] : json.items()) {
    check<ValueError>(item.is_string(), where, kMetadata, ": '", printable(key), "' is not a string");
    result.metadata[key] = item.get<std::string>();
  }
}

// Every byte of the data belongs to exactly one tensor.
void check_layout(const std::vector<Entry>& entries, uint64_t data_size, const std::string& where) {
  std::vector<const Entry*> sorted;
  for (const Entry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t position = 0;
  const Entry* previous = nullptr;
  for (const Entry* entry : sorted) {
    check<ValueError>(entry->begin >= position, where, "tensor '", printable(entry->name),
                      "' at data offset ", entry->begin, " overlaps tensor '",
                      previous == nullptr ? "" : printable(previous->name), "', which ends at ", position);
    check<ValueError>(entry->begin == position, where, "data bytes ", position, " to ", entry->begin,
                      ", before tensor '", printable(entry->name), "', belong to no tensor");
    position = entry->end;
    previous = entry;
  }
  check<ValueError>(position == data_size, where, "the last ", data_size - position,
                    " bytes, from data offset ", position, ", belong to no tensor");
}

at::Tensor read_tensor(const Source& source, const Entry& entry, uint64_t data_start) {
  at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(entry.dtype));
  const size_t count = entry.end - entry.begin;
  if (count == 0) return tensor;
  source.read(data_start + entry.begin, tensor.mutable_data_ptr(), count);
  if (entry.dtype == at::kBool) {
    const auto* bytes = static_cast<const uint8_t*>(tensor.const_data_ptr());
    const auto* bad = std::find_if(bytes, bytes + count, [](uint8_t b) { return b > 1; });
    check<ValueError>(bad == bytes + count, source.where, "tensor '", printable(entry.name),
                      "': a BOOL is neither 0 nor 1, at data offset ", entry.begin + (bad - bytes));
  }
  return tensor;
}

Safetensors parse(const Source& source) {
  const std::string text = read_header(source);
  const Json header = parse_json(text, source.where + "header: ");
  const uint64_t data_start = 8 + text.size();
  const uint64_t data_size = source.size - data_start;
  Safetensors result;
  std::vector<Entry> entries;
  for (const auto& [name, item] : header.items()) {
    if (name == kMetadata) {
      parse_metadata(item, result, source.where);
    } else {
      entries.push_back(parse_entry(name, item, data_size, source.where));
    }
  }
  check_layout(entries, data_size, source.where);
  for (const Entry& entry : entries)
    result.tensors.emplace_back(entry.name, read_tensor(source, entry, data_start));
  return result;
}

// ---- Files ----

class InputFile {
 public:
  explicit InputFile(const std::string& path)
      : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (file_ < 0) fail(errno);
    struct stat status;
    const bool known = ::fstat(file_, &status) == 0;
    const int error = !known                    ? errno
                      : S_ISDIR(status.st_mode) ? EISDIR
                      : S_ISREG(status.st_mode) ? 0
                                                : EINVAL;
    if (error != 0) {
      ::close(file_);
      fail(error);
    }
    size_ = static_cast<uint64_t>(status.st_size);
  }
  ~InputFile() { ::close(file_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  uint64_t size() const { return size_; }

  void read(uint64_t offset, void* target, size_t count) const {
    char* next = static_cast<char*>(target);
    while (count > 0) {
      const ssize_t got = ::pread(file_, next, std::min<size_t>(count, 1 << 30), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(errno);
      check<IoError>(got > 0, "[read_safetensors] ", path_, ": the file shrank while it was read");
      next += got;
      offset += static_cast<uint64_t>(got);
      count -= static_cast<size_t>(got);
    }
  }

 private:
  [[noreturn]] void fail(int error) const {
    throw IoError(
        join("[read_safetensors] cannot read ", path_, ": ", std::generic_category().message(error)));
  }

  std::string path_;
  int file_;
  uint64_t size_ = 0;
};

std::string dtype_name(const std::string& name, const at::Tensor& tensor) {
  for (const auto& [text, type] : dtypes()) {
    if (type == tensor.scalar_type()) return text;
  }
  throw ValueError(join("[write_safetensors] tensor '", printable(name), "' has dtype ",
                        c10::toString(tensor.scalar_type()), ", which the format does not know"));
}

// Header text, padded so that the data start at a multiple of 8; `layout` gets the data order.
std::string make_header(const std::map<std::string, std::string>& metadata, const NamedTensors& tensors,
                        std::vector<size_t>& layout) {
  Json header = Json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  for (const auto& [name, tensor] : tensors) {
    check<ValueError>(tensor.defined(), "[write_safetensors] tensor '", printable(name), "' is undefined");
    check<ValueError>(!name.empty() && name != kMetadata && !header.contains(name),
                      "[write_safetensors] tensor name '", printable(name),
                      "' is empty, reserved or used twice");
    header[name] = {{"dtype", dtype_name(name, tensor)}, {"shape", tensor.sizes().vec()}};
  }
  layout.resize(tensors.size());
  std::iota(layout.begin(), layout.end(), size_t{0});
  std::stable_sort(layout.begin(), layout.end(), [&](size_t a, size_t b) {
    return tensors[a].second.element_size() > tensors[b].second.element_size();
  });
  uint64_t offset = 0;
  for (size_t i : layout) {
    const uint64_t end = offset + tensors[i].second.nbytes();
    header[tensors[i].first]["data_offsets"] = {offset, end};
    offset = end;
  }
  std::string text = dump_json(header, "[write_safetensors] ");
  text.append((8 - text.size() % 8) % 8, ' ');
  check<ValueError>(text.size() <= kMaxHeader, "[write_safetensors] the header has ", text.size(),
                    " bytes, over the limit of ", kMaxHeader);
  return text;
}

}  // namespace

Safetensors read_safetensors(const std::string& path) {
  const InputFile file(path);
  return parse({join("[read_safetensors] ", path, ": "), file.size(),
                [&](uint64_t offset, void* target, size_t count) { file.read(offset, target, count); }});
}

Safetensors parse_safetensors(const void* bytes, size_t size, const std::string& name) {
  return parse(
      {join("[read_safetensors] ", name, ": "), size, [&](uint64_t offset, void* target, size_t count) {
         std::memcpy(target, static_cast<const char*>(bytes) + offset, count);
       }});
}

void write_safetensors(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const NamedTensors& tensors) {
  std::vector<size_t> layout;
  const std::string header = make_header(metadata, tensors, layout);
  const uint64_t length = header.size();
  AtomicFile file(path, "write_safetensors");
  file.write(&length, sizeof(length));
  file.write(header.data(), header.size());
  for (size_t i : layout) {
    const at::Tensor tensor = tensors[i].second.detach().to(at::kCPU).contiguous();
    file.write(tensor.const_data_ptr(), tensor.nbytes());
  }
  file.commit();
}

}  // namespace instseg

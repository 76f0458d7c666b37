// SPDX-License-Identifier: Apache-2.0
#include "args.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "io/closest.h"

namespace instseg::apps {
namespace {

constexpr std::array kOptions = {"--model",     "--output",    "--json",           "--score",
                                 "--device",    "--precision", "--max-detections", "--short-side",
                                 "--long-side", "--threads",   "--pixel-limit",    "--no-masks",
                                 "--version",   "--help"};

[[noreturn]] void unknown_option(const std::string& name) {
  const auto close = closest_names(name, {kOptions.begin(), kOptions.end()}, 1);
  throw UsageError(join("unknown option ", name,
                        close.empty() ? "; see instseg-infer --help" : " (did you mean " + close[0] + "?)"));
}

template <class Number>
Number parse_number(const std::string& option, const std::string& text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  check<UsageError>(error == std::errc() && stop == end, option, " needs a number, got '", text, "'");
  return value;
}

double parse_score(const std::string& text) {
  const double score = parse_number<double>("--score", text);
  check<UsageError>(score >= 0 && score <= 1, "--score must be between 0 and 1, got ", text);
  return score;
}

int64_t parse_positive(const std::string& option, const std::string& text) {
  const auto value = parse_number<int64_t>(option, text);
  check<UsageError>(value >= 1, option, " must be at least 1, got ", text);
  return value;
}

std::string parse_device(const std::string& text) {
  const bool indexed = text.starts_with("cuda:") && text.size() > 5 && text.size() < 9 &&
                       std::all_of(text.begin() + 5, text.end(), [](char c) { return c >= '0' && c <= '9'; });
  check<UsageError>(text == "cpu" || text == "cuda" || indexed, "--device must be cpu, cuda or cuda:N, got '",
                    text, "'");
  return text;
}

std::string parse_precision(const std::string& text) {
  check<UsageError>(text == "fp32" || text == "bf16" || text == "fp16",
                    "--precision must be fp32, bf16 or fp16, got '", text, "'");
  return text;
}

void set_option(InferArgs& args, const std::string& name, const std::string& value) {
  if (name == "--model") args.model = value;
  if (name == "--output") args.output = value;
  if (name == "--json") args.json = value;
  if (name == "--score") args.score = parse_score(value);
  if (name == "--device") args.device = parse_device(value);
  if (name == "--precision") args.precision = parse_precision(value);
  if (name == "--max-detections") args.max_detections = parse_positive(name, value);
  if (name == "--short-side") args.short_side = parse_positive(name, value);
  if (name == "--long-side") args.long_side = parse_positive(name, value);
  if (name == "--threads") args.threads = parse_positive(name, value);
  if (name == "--pixel-limit") args.pixel_limit = parse_positive(name, value);
}

void add_positional(InferArgs& args, const std::string& value) {
  check<UsageError>(!value.empty(), "an empty file name");
  args.inputs.push_back(value);
}

// Without --model the first name is that of the model.
void take_model(InferArgs& args) {
  if (!args.model.empty() || args.inputs.empty()) return;
  args.model = args.inputs.front();
  args.inputs.erase(args.inputs.begin());
}

}  // namespace

InferArgs parse_args(const std::vector<std::string>& arguments) {
  InferArgs args;
  bool options_ended = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (options_ended || !argument.starts_with("-") || argument == "-") {
      add_positional(args, argument);
      continue;
    }
    if (argument == "--") {
      options_ended = true;
      continue;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument == "-h" ? "--help" : argument.substr(0, equals);
    if (std::find(kOptions.begin(), kOptions.end(), name) == kOptions.end()) unknown_option(name);
    if (name == "--help" || name == "--version" || name == "--no-masks") {
      check<UsageError>(equals == std::string::npos, name, " takes no value");
      if (name == "--no-masks") args.masks = false;
      if (name == "--help") args.help = true;
      if (name == "--version") args.version = true;
      continue;
    }
    const bool inline_value = equals != std::string::npos;
    check<UsageError>(inline_value || i + 1 < arguments.size(), name, " needs a value");
    const std::string value = inline_value ? argument.substr(equals + 1) : arguments[++i];
    check<UsageError>(!value.empty(), name, " needs a value");
    set_option(args, name, value);
  }
  if (args.help || args.version) return args;
  take_model(args);
  check<UsageError>(!args.model.empty(), "no model file given; see instseg-infer --help");
  check<UsageError>(!args.inputs.empty(), "no image or folder given; see instseg-infer --help");
  return args;
}

std::string help_text() {
  return R"(Usage: instseg-infer MODEL IMAGE|FOLDER... [options]

Detects objects in images with an instseg model file. Needs no Python.

  MODEL            a model file written by instseg (.safetensors); left out with --model
  IMAGE|FOLDER     JPEG or PNG files; of a folder, the image files directly in it, sorted by name

Options:
  --model FILE     the model file, instead of MODEL
  --output DIR     write each picture with its detections drawn to DIR
  --json FILE      write all detections to FILE ("-": standard output)
  --score T        drop detections with a score below T, 0 to 1 (default 0.3)
  --device D       cpu, cuda or cuda:N (default cpu)
  --precision P    fp32, bf16 or fp16; fp16 needs a GPU (default fp32)
  --max-detections N  keep at most N detections an image (default: as the model file says)
  --short-side PX  resize images to this shorter side (default: as the model file says)
  --long-side PX   but never beyond this longer side (default: as the model file says)
  --threads N      CPU threads (default: all cores)
  --pixel-limit N  refuse images with more pixels (default 178956970)
  --no-masks       leave the masks out of the detections document
  --version        say what this build can do
  --help           show this text

Examples:
  instseg-infer nuclei.safetensors cells.png
  instseg-infer nuclei.safetensors images/ --output pictures --json detections.json
  instseg-infer nuclei.safetensors a.jpg b.jpg --score 0.5 --json - | python3 -m json.tool
  instseg-infer nuclei.safetensors images/ --device cuda --precision fp16

Exit code: 0 all images done; 1 something failed (the rest is done); 2 wrong command line.
)";
}

}  // namespace instseg::apps

// SPDX-License-Identifier: Apache-2.0
#include "infer.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "inputs.h"
#include "instseg/image.h"
#include "instseg/predictor.h"
#include "report.h"

namespace instseg::apps {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/** One line at the bottom of a terminal that is rewritten; silent when stderr is no terminal. */
class Progress {
 public:
  explicit Progress(size_t total) : total_(total), shown_(isatty(STDERR_FILENO) != 0) {}
  void show(size_t index, const std::string& file) const {
    if (shown_) std::cerr << "\r\033[K[" << index + 1 << "/" << total_ << "] " << file << std::flush;
  }
  void clear() const {
    if (shown_) std::cerr << "\r\033[K" << std::flush;
  }

 private:
  size_t total_;
  bool shown_;
};

/** Fails before the work, rather than after it, when results could not be stored. */
void prepare_outputs(const InferArgs& args, const std::vector<std::string>& files) {
  std::error_code error;
  if (!args.output.empty()) {
    fs::create_directories(args.output, error);
    check<IoError>(!error, "cannot create the folder ", args.output, ": ", error.message());
    for (const std::string& file : files) {
      const fs::path folder = fs::path(file).parent_path();
      check<ValueError>(!fs::equivalent(folder.empty() ? "." : folder, args.output, error), "pictures in ",
                        args.output, " would replace input images; choose another --output folder");
    }
  }
  if (!args.json.empty() && args.json != "-") {
    const fs::path folder = fs::path(args.json).parent_path();
    check<IoError>(folder.empty() || fs::is_directory(folder, error), "the folder of ", args.json,
                   " does not exist");
    check<IoError>(!fs::is_directory(args.json, error), args.json, " is a folder; --json needs a file name");
  }
}

/** Most messages name the file already. */
void print_failure(const Failure& failure) {
  const bool named = failure.error.find(failure.file) != std::string::npos;
  std::cerr << "instseg-infer: " << (named ? "" : failure.file + ": ") << failure.error << std::endl;
}

/** All that one run accumulates. */
class Run {
 public:
  Run(const InferArgs& args, Predictor& predictor)
      : args_(args), predictor_(predictor), pictures_(args.output), started_(Clock::now()) {}

  void process(const std::string& file) {
    auto start = Clock::now();
    const at::Tensor image = read_image(file, args_.pixel_limit);
    const double decode = milliseconds_since(start);
    Instances found = predictor_(image).to(at::kCPU);
    start = Clock::now();
    if (!args_.output.empty()) {
      const DrawOptions options{.score_threshold = args_.score};
      write_image(pictures_.next(file),
                  draw_instances(image, found, predictor_.config().class_names, options));
    }
    add_times(decode, milliseconds_since(start));
    last = {file, std::move(found)};
    if (!args_.json.empty()) entries_.push_back(image_entry(predictor_.config(), last, args_.masks));
    ++done_;
  }

  void write_document() {
    const std::string text = detections_document(args_.model, std::move(entries_), failures)
                                 .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    if (args_.json == "-") {
      std::cout << text << std::endl;
      check<IoError>(std::cout.good(), "cannot write the detections to standard output");
      return;
    }
    std::ofstream out(args_.json, std::ios::binary);
    out << text << '\n';
    out.close();
    check<IoError>(out.good(), "cannot write ", args_.json);
  }

  void print_summary(size_t total) const {
    std::fprintf(stderr, "%zu of %zu images done in %.2f s%s\n", done_, total,
                 milliseconds_since(started_) / 1000,
                 args_.output.empty() ? "" : (", pictures in " + args_.output).c_str());
    if (done_ > 0) std::cerr << timing_text(timings_);
    if (!failures.empty())
      std::cerr << failures.size() << (failures.size() == 1 ? " input" : " inputs") << " failed\n";
  }

  Detected last;  // of the image processed last; the others are only kept as entries of the document
  std::vector<Failure> failures;

 private:
  void add_times(double decode, double draw) {
    const StageTimes& stages = predictor_.last_times();
    timings_.decode += decode;
    timings_.preprocess += stages.preprocess;
    timings_.network += stages.network;
    timings_.postprocess += stages.postprocess;
    timings_.draw += draw;
    ++timings_.images;
  }

  const InferArgs& args_;
  Predictor& predictor_;
  PictureNames pictures_;
  Timings timings_;
  nlohmann::ordered_json entries_ = nlohmann::ordered_json::array();
  size_t done_ = 0;
  Clock::time_point started_;
};

void process_all(Run& run, const InferArgs& args, const ModelConfig& config,
                 const std::vector<std::string>& files) {
  const Progress progress(files.size());
  const bool list_each = args.output.empty() && args.json.empty();
  for (size_t i = 0; i < files.size(); ++i) {
    progress.show(i, files[i]);
    try {
      run.process(files[i]);
      progress.clear();
      if (args.json != "-") std::cout << image_text(config, run.last, list_each) << std::flush;
    } catch (const std::exception& error) {
      progress.clear();
      run.failures.push_back({files[i], one_line(error)});
      print_failure(run.failures.back());
    }
  }
}

}  // namespace

int run_infer(const InferArgs& args) {
  std::vector<Failure> failures;
  const std::vector<std::string> files = expand_inputs(args.inputs, failures);
  prepare_outputs(args, files);
  if (args.threads > 0) at::set_num_threads(static_cast<int>(args.threads));

  PredictorOptions options;
  options.device = args.device;
  options.precision = args.precision;
  options.score_threshold = args.score;
  options.max_detections = args.max_detections;
  options.short_side = args.short_side;
  options.long_side = args.long_side;
  Predictor predictor(args.model, options);
  for (const std::string& warning : predictor.warnings())
    std::cerr << "instseg-infer: warning: " << warning << "\n";

  Run run(args, predictor);
  for (const Failure& failure : failures) print_failure(failure);
  run.failures = std::move(failures);
  process_all(run, args, predictor.config(), files);
  if (!args.json.empty()) run.write_document();
  run.print_summary(files.size());
  return run.failures.empty() ? 0 : 1;
}

std::string one_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

}  // namespace instseg::apps

// SPDX-License-Identifier: Apache-2.0
// instseg-infer: detections of a model file on image files, without Python.
#include <exception>
#include <iostream>

#include "args.h"
#include "infer.h"
#include "report.h"

int main(int argc, char** argv) {
  using namespace instseg::apps;
  try {
    const InferArgs args = parse_args({argv + 1, argv + argc});
    if (args.help) {
      std::cout << help_text();
      return 0;
    }
    if (args.version) {
      std::cout << version_text(instseg::build_info());
      return 0;
    }
    return run_infer(args);
  } catch (const UsageError& error) {
    std::cerr << "instseg-infer: " << one_line(error) << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "instseg-infer: " << one_line(error) << "\n";
    return 1;
  }
}

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "args.h"

namespace instseg::apps {

/** Runs the model on every input. Returns the exit code: 0, or 1 when something failed. */
int run_infer(const InferArgs& args);

/** First line of an exception's text: libtorch appends C++ stack traces to its own. */
std::string one_line(const std::exception& error);

}  // namespace instseg::apps

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace instseg {

/** The up to `count` candidates nearest to `name` by edit distance (case ignored), nearest first; far ones
 * are left out. */
std::vector<std::string> closest_names(const std::string& name, const std::vector<std::string>& candidates,
                                       size_t count = 3);

/** "a, b, c". */
std::string comma_list(const std::vector<std::string>& items);

}  // namespace instseg

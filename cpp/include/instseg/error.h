// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace instseg {

/** Base of every error raised by instseg. The text is one line: "[function] what is wrong, with the value".
 */
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/** A value that cannot be used: Python's ValueError. */
class ValueError : public Error {
 public:
  using Error::Error;
};

/** An argument of the wrong kind or dtype: Python's TypeError. */
class TypeError : public Error {
 public:
  using Error::Error;
};

/** A file that cannot be read or written: Python's OSError. */
class IoError : public Error {
 public:
  using Error::Error;
};

/** Joins `parts` as a stream would print them. */
template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/** Throws E with the joined `parts` unless `ok`. */
template <class E, class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) throw E(join(parts...));
}

}  // namespace instseg

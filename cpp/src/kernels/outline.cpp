// SPDX-License-Identifier: Apache-2.0
#include "kernels/outline.h"

namespace instseg::kernels {
namespace {

enum Direction { right = 0, down = 1, left = 2, up = 3 };

// The bitmap with a border of zeros, and which upper edges of pixels were walked along.
class Walk {
 public:
  Walk(const uint8_t* bitmap, int64_t height, int64_t width)
      : stride_(width + 2), cells_((height + 2) * (width + 2)) {
    for (int64_t y = 0; y < height; ++y) {
      uint8_t* row = cells_.data() + (y + 1) * stride_ + 1;
      for (int64_t x = 0; x < width; ++x) row[x] = bitmap[y * width + x] != 0 ? kInside : 0;
    }
  }

  bool unseen_edge(int64_t x, int64_t y) const {
    return cell(x, y) == kInside && (cell(x, y - 1) & kInside) == 0;
  }

  // From the upper left corner of (x, y), the inside to the right of the way. Positive area: an outer
  // outline.
  Outline follow(int64_t x0, int64_t y0, int64_t* area) {
    Outline corners = {x0, y0};
    int64_t x = x0, y = y0;
    int direction = right;
    *area = 0;
    do {
      step(direction, x, y, *area);
      const int next = turn(direction, x, y);
      if (next != direction && !(x == x0 && y == y0 && next == right)) {
        corners.push_back(x);
        corners.push_back(y);
      }
      direction = next;
    } while (x != x0 || y != y0 || direction != right);
    return corners;
  }

 private:
  static constexpr uint8_t kInside = 1, kSeen = 2;

  uint8_t cell(int64_t x, int64_t y) const { return cells_[(y + 1) * stride_ + x + 1]; }
  bool inside(int64_t x, int64_t y) const { return (cell(x, y) & kInside) != 0; }

  // One pixel edge from corner (x, y) on.
  void step(int direction, int64_t& x, int64_t& y, int64_t& area) {
    if (direction == right) {
      cells_[(y + 1) * stride_ + x + 1] |= kSeen;
      area -= y;
      ++x;
    } else if (direction == left) {
      area += y;
      --x;
    } else {
      y += direction == down ? 1 : -1;
    }
  }

  // Pixels that touch only at a corner are kept apart.
  int turn(int direction, int64_t x, int64_t y) const {
    const bool ahead_right = direction == right  ? inside(x, y)
                             : direction == down ? inside(x - 1, y)
                             : direction == left ? inside(x - 1, y - 1)
                                                 : inside(x, y - 1);
    if (!ahead_right) return (direction + 1) % 4;
    const bool ahead_left = direction == right  ? inside(x, y - 1)
                            : direction == down ? inside(x, y)
                            : direction == left ? inside(x - 1, y)
                                                : inside(x - 1, y - 1);
    return ahead_left ? (direction + 3) % 4 : direction;
  }

  int64_t stride_;
  std::vector<uint8_t> cells_;
};

}  // namespace

std::vector<Outline> outlines(const uint8_t* bitmap, int64_t height, int64_t width) {
  Walk walk(bitmap, height, width);
  std::vector<Outline> found;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      if (!walk.unseen_edge(x, y)) continue;
      int64_t area = 0;
      Outline corners = walk.follow(x, y, &area);
      if (area > 0) found.push_back(std::move(corners));
    }
  }
  return found;
}

}  // namespace instseg::kernels

// SPDX-License-Identifier: Apache-2.0
#include "kernels/polygon_clip.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace instseg::kernels {
namespace {

// The half plane sign * (coordinate `axis` - bound) > 0.
struct HalfPlane {
  int axis;
  double bound, sign;

  bool holds(const double* point) const { return sign * (point[axis] - bound) > 0; }
};

// Part of a ring inside the half plane, from the crossing where it enters to the one where it leaves.
using Chain = std::vector<double>;

void push_crossing(Chain& chain, const HalfPlane& half, const double* from, const double* to) {
  const int other = 1 - half.axis;
  const double part = (half.bound - from[half.axis]) / (to[half.axis] - from[half.axis]);
  double point[2];
  point[half.axis] = half.bound;
  point[other] = from[other] + part * (to[other] - from[other]);
  chain.insert(chain.end(), point, point + 2);
}

// Cuts `ring`, which has points on both sides and point `start` outside, into its inner chains.
std::vector<Chain> chains_of(const std::vector<double>& ring, const HalfPlane& half, size_t start) {
  std::vector<Chain> chains;
  const size_t points = ring.size() / 2;
  for (size_t i = 0; i < points; ++i) {
    const double* from = &ring[2 * ((start + i) % points)];
    const double* to = &ring[2 * ((start + i + 1) % points)];
    const bool was_inside = half.holds(from), is_inside = half.holds(to);
    if (!was_inside && is_inside) {
      chains.emplace_back();
      push_crossing(chains.back(), half, from, to);
    }
    if (is_inside) chains.back().insert(chains.back().end(), to, to + 2);
    if (was_inside && !is_inside) push_crossing(chains.back(), half, to, from);
  }
  return chains;
}

void append_reversed(std::vector<double>& ring, const Chain& chain) {
  for (size_t i = chain.size(); i > 0; i -= 2) ring.insert(ring.end(), {chain[i - 2], chain[i - 1]});
}

// Along the line, the polygon is between the crossings 0 and 1, 2 and 3, ...: they join the chains' ends.
void join(const std::vector<Chain>& chains, int axis, Rings& out) {
  const size_t ends = 2 * chains.size();  // end 2 * c enters chain c, 2 * c + 1 leaves it
  std::vector<std::pair<double, size_t>> order(ends);
  for (size_t end = 0; end < ends; ++end) {
    const Chain& chain = chains[end / 2];
    order[end] = {chain[(end % 2 == 0 ? 0 : chain.size() - 2) + (1 - axis)], end};
  }
  std::sort(order.begin(), order.end());
  std::vector<size_t> partner(ends);
  for (size_t i = 0; i < ends; i += 2) {
    partner[order[i].second] = order[i + 1].second;
    partner[order[i + 1].second] = order[i].second;
  }
  std::vector<char> done(chains.size(), 0);
  for (size_t first = 0; first < chains.size(); ++first) {
    if (done[first]) continue;
    std::vector<double> ring;
    for (size_t enter = 2 * first; !done[enter / 2]; enter = partner[enter ^ 1]) {
      const Chain& chain = chains[enter / 2];
      done[enter / 2] = 1;
      if (enter % 2 == 0) {
        ring.insert(ring.end(), chain.begin(), chain.end());
      } else {
        append_reversed(ring, chain);
      }
    }
    out.push_back(std::move(ring));
  }
}

void clip(std::vector<double> ring, const HalfPlane& half, Rings& out) {
  size_t outside = ring.size(), inside = 0;
  for (size_t i = 0; i < ring.size(); i += 2) {
    if (half.holds(&ring[i])) {
      ++inside;
    } else {
      outside = i / 2;
    }
  }
  if (2 * inside == ring.size()) {
    out.push_back(std::move(ring));
  } else if (inside > 0) {
    join(chains_of(ring, half, outside), half.axis, out);
  }
}

}  // namespace

Rings clipped_polygon(const std::vector<double>& polygon, double width, double height) {
  Rings rings = {polygon};
  for (const HalfPlane& half : {HalfPlane{0, 0.0, 1.0}, HalfPlane{0, width, -1.0}, HalfPlane{1, 0.0, 1.0},
                                HalfPlane{1, height, -1.0}}) {
    Rings next;
    for (std::vector<double>& ring : rings) clip(std::move(ring), half, next);
    rings = std::move(next);
  }
  return rings;
}

}  // namespace instseg::kernels

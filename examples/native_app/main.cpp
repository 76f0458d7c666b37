// SPDX-License-Identifier: Apache-2.0
// Prints the detections of a model file on one image: native_app MODEL IMAGE
#include <instseg/instseg.h>

#include <iostream>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 3) throw instseg::ValueError("usage: native_app MODEL IMAGE");
  instseg::Predictor predictor(argv[1], {.score_threshold = 0.3});
  const instseg::Instances found = predictor(instseg::read_image(argv[2]));
  const auto boxes = found.boxes.accessor<float, 2>();
  const auto scores = found.scores.accessor<float, 1>();
  const auto labels = found.labels.accessor<int64_t, 1>();
  std::vector<instseg::Rle> masks;
  if (found.masks.defined()) masks = found.masks.rle();
  for (int64_t i = 0; i < found.size(); ++i) {
    std::cout << "class " << labels[i] << "  score " << scores[i] << "  box " << boxes[i][0] << " "
              << boxes[i][1] << " " << boxes[i][2] << " " << boxes[i][3];
    if (!masks.empty()) std::cout << "  mask " << masks[i].area() << " px";
    std::cout << "\n";
  }
  std::cout << found.size() << " detections\n";
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}

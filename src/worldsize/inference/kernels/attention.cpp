#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace worldsize {

// `omp simd` lets the compiler add up in vectors; otherwise a sum of floats keeps its order.
void attend_head(const float* query_D, const float* keys_ND, const float* values_ND, int64_t num_seen, int64_t d_head,
                 float* weights, float* out_D) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(d_head));
  float largest = -INFINITY;
  for (int64_t n = 0; n < num_seen; ++n) {
    const float* key_D = keys_ND + n * d_head;
    float product = 0;
#pragma omp simd reduction(+ : product)
    for (int64_t d = 0; d < d_head; ++d) product += query_D[d] * key_D[d];
    weights[n] = product * scale;
    largest = std::max(largest, weights[n]);
  }
  float total = 0;
  for (int64_t n = 0; n < num_seen; ++n) {
    weights[n] = std::exp(weights[n] - largest);
    total += weights[n];
  }
  std::fill(out_D, out_D + d_head, 0.0f);
  for (int64_t n = 0; n < num_seen; ++n) {
    const float weight = weights[n] / total;
    const float* value_D = values_ND + n * d_head;
#pragma omp simd
    for (int64_t d = 0; d < d_head; ++d) out_D[d] += weight * value_D[d];
  }
}

}  // namespace worldsize

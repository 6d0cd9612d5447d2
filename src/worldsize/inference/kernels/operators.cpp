// The kernels as operators of torch: shapes checked, outputs made, blocks spread over torch's threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "kernels.h"

namespace {

using at::Tensor;
using namespace worldsize;

constexpr int64_t BYTES_WORTH_A_THREAD = 1 << 17;

// Memory of the rows that a product reads.
struct Rounded {
  std::vector<int8_t> x_NI;
  std::vector<float> scale_N;
  std::vector<int32_t> sums_NG;
  Rows rows;

  Rounded(const Tensor& x, int64_t num_rows, int64_t padded)
      : x_NI(num_rows * padded), scale_N(num_rows), sums_NG(num_rows * ((padded + GROUP - 1) / GROUP)) {
    const int64_t num_inputs = x.size(-1), num_groups = (padded + GROUP - 1) / GROUP;
    const float* from = x.const_data_ptr<float>();
    for (int64_t n = 0; n < num_rows; ++n)
      scale_N[n] = round_row(from + n * num_inputs, num_inputs, padded, &x_NI[n * padded], &sums_NG[n * num_groups]);
    rows = {x_NI.data(), scale_N.data(), sums_NG.data(), num_rows, padded, num_groups};
  }
};

const float* data_or_null(const std::optional<Tensor>& bias_O, int64_t num_outputs) {
  if (!bias_O) return nullptr;
  TORCH_CHECK(bias_O->scalar_type() == at::kFloat && bias_O->is_contiguous() && bias_O->numel() == num_outputs,
              "the bias must be ", num_outputs, " contiguous fp32 numbers");
  return bias_O->const_data_ptr<float>();
}

Tensor empty_like_rows(const Tensor& x, int64_t num_outputs) {
  auto sizes = x.sizes().vec();
  sizes.back() = num_outputs;
  return at::empty(sizes, x.options());
}

// weight: (O/64, I/step, 64, 4) bytes. `block` computes one: (rows of input, its index, where its outputs go).
template <class Block>
Tensor product(const Tensor& x_given, const Tensor& weight, const std::optional<Tensor>& bias_O, int64_t step,
               int64_t num_outputs, const Block& block) {
  TORCH_CHECK(x_given.scalar_type() == at::kFloat, "the input must be fp32");
  TORCH_CHECK(weight.scalar_type() == at::kByte && weight.is_contiguous() && weight.dim() == 4, "not a packed weight");
  const Tensor x = x_given.contiguous();
  const float* bias = data_or_null(bias_O, num_outputs);
  const int64_t padded = weight.size(1) * step, num_blocks = weight.size(0);
  TORCH_CHECK(x.size(-1) <= padded && num_outputs <= num_blocks * BLOCK, "the packed weight is of another shape");
  const int64_t num_rows = x.numel() / x.size(-1);
  const Rounded rounded(x, num_rows, padded);
  Tensor out = empty_like_rows(x, num_outputs);
  float* to = out.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, BYTES_WORTH_A_THREAD / (weight.stride(0) * std::max<int64_t>(1, num_rows)));
  at::parallel_for(0, num_blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin, o = begin * BLOCK; b < end; ++b, o += BLOCK)
      block(rounded.rows, b, Outputs{to + o, bias ? bias + o : nullptr, num_outputs, std::min(BLOCK, num_outputs - o)});
  });
  return out;
}

Tensor int8_linear(const Tensor& x, const Tensor& weight, const Tensor& scale_O, const std::optional<Tensor>& bias_O,
                   int64_t num_outputs) {
  TORCH_CHECK(scale_O.scalar_type() == at::kFloat && scale_O.is_contiguous() && scale_O.numel() == weight.size(0) * BLOCK,
              "scales must be fp32, one an output of every block");
  const auto* bytes = weight.const_data_ptr<uint8_t>();
  const float* scales = scale_O.const_data_ptr<float>();
  return product(x, weight, bias_O, INT8_STEP, num_outputs, [&](const Rows& rows, int64_t b, const Outputs& to) {
    int8_block(rows, bytes + b * weight.stride(0), scales + b * BLOCK, to);
  });
}

Tensor int4_linear(const Tensor& x, const Tensor& weight, const Tensor& scale, const std::optional<Tensor>& bias_O,
                   int64_t num_outputs) {
  TORCH_CHECK(scale.scalar_type() == at::kHalf && scale.is_contiguous() && scale.dim() == 3 &&
                  scale.size(0) == weight.size(0) && scale.size(1) * GROUP == weight.size(1) * INT4_STEP,
              "scales must be of half precision, one a group of every output");
  const auto* bytes = weight.const_data_ptr<uint8_t>();
  const auto* scales = reinterpret_cast<const uint16_t*>(scale.const_data_ptr());
  return product(x, weight, bias_O, INT4_STEP, num_outputs, [&](const Rows& rows, int64_t b, const Outputs& to) {
    int4_block(rows, bytes + b * weight.stride(0), scales + b * scale.stride(0), to);
  });
}

// Each row's one query a head over its own positions 0..p: (B, H, D) → (B, H·D). Queries of a group share keys.
Tensor attend(const Tensor& q_given, const Tensor& keys_SGTD, const Tensor& values_SGTD, const Tensor& positions_B,
              int64_t first_row) {
  const Tensor q_BHD = q_given.contiguous();
  TORCH_CHECK(q_BHD.dim() == 3 && q_BHD.scalar_type() == at::kFloat && keys_SGTD.scalar_type() == at::kFloat, "fp32 only");
  TORCH_CHECK(keys_SGTD.is_contiguous() && values_SGTD.is_contiguous() && positions_B.is_contiguous(), "contiguous only");
  const int64_t num_rows = q_BHD.size(0), num_heads = q_BHD.size(1), d_head = q_BHD.size(2);
  const int64_t per_key = num_heads / keys_SGTD.size(1), length = keys_SGTD.size(2);
  TORCH_CHECK(first_row + num_rows <= keys_SGTD.size(0) && positions_B.numel() == num_rows, "rows beyond the cache");
  Tensor out_BC = at::empty({num_rows, num_heads * d_head}, q_BHD.options());
  const int64_t* positions = positions_B.const_data_ptr<int64_t>();
  at::parallel_for(0, num_rows * num_heads, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(length);
    for (int64_t index = begin; index < end; ++index) {
      const int64_t row = index / num_heads, group = index % num_heads / per_key;
      const int64_t seen = std::min(positions[row] + 1, length);
      const int64_t at = (first_row + row) * keys_SGTD.stride(0) + group * keys_SGTD.stride(1);
      attend_head(q_BHD.const_data_ptr<float>() + index * d_head, keys_SGTD.const_data_ptr<float>() + at,
                  values_SGTD.const_data_ptr<float>() + at, seen, d_head, weights.data(),
                  out_BC.mutable_data_ptr<float>() + index * d_head);
    }
  });
  return out_BC;
}

}  // namespace

TORCH_LIBRARY(worldsize_kernels, library) {
  library.def("int8_linear(Tensor x, Tensor weight, Tensor scale_O, Tensor? bias_O, int num_outputs) -> Tensor");
  library.def("int4_linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias_O, int num_outputs) -> Tensor");
  library.def("attend(Tensor q_BHD, Tensor keys, Tensor values, Tensor positions_B, int first_row) -> Tensor");
}

TORCH_LIBRARY_IMPL(worldsize_kernels, CPU, library) {
  library.impl("int8_linear", &int8_linear);
  library.impl("int4_linear", &int4_linear);
  library.impl("attend", &attend);
}

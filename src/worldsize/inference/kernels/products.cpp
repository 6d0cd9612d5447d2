#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace worldsize {
namespace {

constexpr int LANES = 16;
constexpr int WIDE = BLOCK / LANES;  // registers of a block

int32_t four_inputs(const int8_t* x) {
  int32_t packed;
  std::memcpy(&packed, x, sizeof packed);
  return packed;
}

__mmask16 lanes_here(int64_t outputs_here, int column) {
  const int64_t left = outputs_here - column * LANES;
  return left >= LANES ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

void store(__m512 value, const Outputs& to, int64_t row, int column) {
  const __mmask16 here = lanes_here(to.here, column);
  if (to.bias_O) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(here, to.bias_O + column * LANES));
  _mm512_mask_storeu_ps(to.out_NO + row * to.stride + column * LANES, here, value);
}

// R rows, from `first` on, at a time: each weight that is read serves R products, and R·4 sums fit the registers.
// Weights are unsigned to the instruction, 128 too large, so a sum begins at -128 times the row's own sum.
template <int R>
void int8_rows(const Rows& rows, int64_t first, const uint8_t* weight, const float* scale_O, const Outputs& to) {
  const int8_t* x_NI = rows.x_NI + first * rows.padded;
  __m512i sums[R][WIDE];
  for (int r = 0; r < R; ++r) {
    int32_t total = 0;
    for (int64_t g = 0; g < rows.num_groups; ++g) total += rows.sums_NG[(first + r) * rows.num_groups + g];
    for (int c = 0; c < WIDE; ++c) sums[r][c] = _mm512_set1_epi32(-128 * total);
  }
  for (int64_t i = 0; i < rows.padded; i += INT8_STEP, weight += BLOCK * INT8_STEP) {
    __m512i w[WIDE];
#pragma GCC unroll 4
    for (int c = 0; c < WIDE; ++c) w[c] = _mm512_loadu_si512(weight + c * 64);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(four_inputs(x_NI + r * rows.padded + i));
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; ++c) sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], w[c], x);
    }
  }
  for (int r = 0; r < R; ++r) {
    const __m512 scale = _mm512_set1_ps(rows.scale_N[first + r]);
    for (int c = 0; c < WIDE; ++c) {
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][c]), scale);
      store(_mm512_mul_ps(value, _mm512_loadu_ps(scale_O + c * LANES)), to, first + r, c);
    }
  }
}

// Within a group the sums are integers, which begin at -8 times the group's own; each group's is scaled and added up
// in fp32.
template <int R>
void int4_rows(const Rows& rows, int64_t first, const uint8_t* weight, const uint16_t* scale, const Outputs& to) {
  const __m512i low_nibble = _mm512_set1_epi8(0x0f);
  const int8_t* x_NI = rows.x_NI + first * rows.padded;
  const int32_t* sums_NG = rows.sums_NG + first * rows.num_groups;
  __m512 totals[R][WIDE];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < WIDE; ++c) totals[r][c] = _mm512_setzero_ps();
  for (int64_t g = 0; g < rows.num_groups; ++g, scale += BLOCK) {
    __m512i sums[R][WIDE];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < WIDE; ++c) sums[r][c] = _mm512_set1_epi32(-8 * sums_NG[r * rows.num_groups + g]);
#pragma GCC unroll 4
    for (int64_t i = g * GROUP; i < (g + 1) * GROUP; i += INT4_STEP, weight += BLOCK * 4) {
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; ++c) {
        const __m512i both = _mm512_loadu_si512(weight + c * 64);
        const __m512i low = _mm512_and_si512(both, low_nibble);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibble);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const int8_t* x = x_NI + r * rows.padded + i;
          sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], low, _mm512_set1_epi32(four_inputs(x)));
          sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], high, _mm512_set1_epi32(four_inputs(x + 4)));
        }
      }
    }
    for (int c = 0; c < WIDE; ++c) {
      const __m512 step = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scale + c * LANES)));
      for (int r = 0; r < R; ++r) totals[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[r][c]), step, totals[r][c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < WIDE; ++c)
      store(_mm512_mul_ps(totals[r][c], _mm512_set1_ps(rows.scale_N[first + r])), to, first + r, c);
}

}  // namespace

float round_row(const float* x_I, int64_t num_inputs, int64_t padded, int8_t* out_I, int32_t* sums_G) {
  __m512 largest = _mm512_setzero_ps();
  __mmask16 not_a_number = 0;  // which a maximum would pass over
  for (int64_t i = 0; i < num_inputs; i += LANES) {
    const __mmask16 here = num_inputs - i >= LANES ? 0xffff : static_cast<__mmask16>((1u << (num_inputs - i)) - 1);
    const __m512 x = _mm512_maskz_loadu_ps(here, x_I + i);
    not_a_number |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
  }
  float scale = not_a_number ? NAN : _mm512_reduce_max_ps(largest) / 127.0f;
  if (scale == 0) scale = 1.0f;
  const __m512 divisor = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < padded; i += LANES) {
    const int64_t left = num_inputs - i, room = padded - i;
    const __mmask16 here = left >= LANES ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
    const __mmask16 written = room >= LANES ? 0xffff : static_cast<__mmask16>((1u << room) - 1);
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_maskz_loadu_ps(here, x_I + i), divisor));
    _mm_mask_storeu_epi8(out_I + i, written, _mm512_cvtsepi32_epi8(rounded));
  }
  for (int64_t i = 0; i < padded; i += GROUP) {
    int32_t total = 0;
    for (int64_t j = i; j < std::min(i + GROUP, padded); ++j) total += out_I[j];
    sums_G[i / GROUP] = total;
  }
  return scale;
}

void int8_block(const Rows& rows, const uint8_t* weight, const float* scale_O, const Outputs& to) {
  int64_t n = 0;
  for (; n + 4 <= rows.num_rows; n += 4) int8_rows<4>(rows, n, weight, scale_O, to);
  if (rows.num_rows - n == 3) int8_rows<3>(rows, n, weight, scale_O, to);
  if (rows.num_rows - n == 2) int8_rows<2>(rows, n, weight, scale_O, to);
  if (rows.num_rows - n == 1) int8_rows<1>(rows, n, weight, scale_O, to);
}

void int4_block(const Rows& rows, const uint8_t* weight, const uint16_t* scale, const Outputs& to) {
  int64_t n = 0;
  for (; n + 3 <= rows.num_rows; n += 3) int4_rows<3>(rows, n, weight, scale, to);
  if (rows.num_rows - n == 2) int4_rows<2>(rows, n, weight, scale, to);
  if (rows.num_rows - n == 1) int4_rows<1>(rows, n, weight, scale, to);
}

}  // namespace worldsize

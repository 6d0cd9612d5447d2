#include <immintrin.h>

#include <cmath>

#include "kernels.h"

namespace worldsize {
namespace {

constexpr int LANES = 16;
constexpr int WIDE = BLOCK / LANES;  // registers of a block

int32_t four_inputs(const int8_t* x) {
  int32_t packed;
  __builtin_memcpy(&packed, x, sizeof packed);
  return packed;
}

int32_t sum(const int8_t* x, int64_t count) {
  int32_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += x[i];
  return total;
}

__mmask16 lanes_here(int64_t outputs_here, int column) {
  const int64_t left = outputs_here - column * LANES;
  return left >= LANES ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

void store(__m512 value, const float* bias_O, float* out_O, int64_t outputs_here, int column) {
  const __mmask16 here = lanes_here(outputs_here, column);
  if (bias_O) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(here, bias_O + column * LANES));
  _mm512_mask_storeu_ps(out_O + column * LANES, here, value);
}

// R rows at a time: each weight that is read serves R products. Weights are unsigned to the instruction, 128 too large,
// so a sum begins at -128 times the row's own sum.
template <int R>
void int8_rows(const int8_t* x_NI, const float* scale_N, int64_t padded, const uint8_t* weight, const float* scale_O,
               const float* bias_O, float* out_NO, int64_t num_outputs, int64_t outputs_here) {
  __m512i sums[R][WIDE];
  for (int r = 0; r < R; ++r) {
    const __m512i start = _mm512_set1_epi32(-128 * sum(x_NI + r * padded, padded));
    for (int c = 0; c < WIDE; ++c) sums[r][c] = start;
  }
  for (int64_t i = 0; i < padded; i += INT8_STEP, weight += BLOCK * INT8_STEP) {
    __m512i w[WIDE];
#pragma GCC unroll 4
    for (int c = 0; c < WIDE; ++c) w[c] = _mm512_loadu_si512(weight + c * 64);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(four_inputs(x_NI + r * padded + i));
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; ++c) sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], w[c], x);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < WIDE; ++c) {
      __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][c]), _mm512_set1_ps(scale_N[r]));
      value = _mm512_mul_ps(value, _mm512_loadu_ps(scale_O + c * LANES));
      store(value, bias_O, out_NO + r * num_outputs, outputs_here, c);
    }
  }
}

// Within a group the sums are integers; each group's is scaled and added up in fp32.
template <int R>
void int4_rows(const int8_t* x_NI, const float* scale_N, int64_t padded, const uint8_t* weight, const uint16_t* scale,
               const float* bias_O, float* out_NO, int64_t num_outputs, int64_t outputs_here) {
  const __m512i low_nibble = _mm512_set1_epi8(0x0f);
  __m512 totals[R][WIDE];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < WIDE; ++c) totals[r][c] = _mm512_setzero_ps();
  for (int64_t first = 0; first < padded; first += GROUP, scale += BLOCK) {
    __m512i sums[R][WIDE];
    for (int r = 0; r < R; ++r) {
      const __m512i start = _mm512_set1_epi32(-8 * sum(x_NI + r * padded + first, GROUP));
      for (int c = 0; c < WIDE; ++c) sums[r][c] = start;
    }
#pragma GCC unroll 4
    for (int64_t i = first; i < first + GROUP; i += INT4_STEP, weight += BLOCK * 4) {
#pragma GCC unroll 4
      for (int c = 0; c < WIDE; ++c) {
        const __m512i both = _mm512_loadu_si512(weight + c * 64);
        const __m512i low = _mm512_and_si512(both, low_nibble);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibble);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const int8_t* x = x_NI + r * padded + i;
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
    for (int c = 0; c < WIDE; ++c) {
      const __m512 value = _mm512_mul_ps(totals[r][c], _mm512_set1_ps(scale_N[r]));
      store(value, bias_O, out_NO + r * num_outputs, outputs_here, c);
    }
}

}  // namespace

float round_row(const float* x_I, int64_t num_inputs, int64_t padded, int8_t* out_I) {
  __m512 largest = _mm512_setzero_ps();
  for (int64_t i = 0; i < num_inputs; i += LANES) {
    const __mmask16 here = num_inputs - i >= LANES ? 0xffff : static_cast<__mmask16>((1u << (num_inputs - i)) - 1);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(here, x_I + i)));
  }
  float scale = _mm512_reduce_max_ps(largest) / 127.0f;
  if (!(scale > 0)) scale = 1.0f;
  const __m512 divisor = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < padded; i += LANES) {
    const int64_t left = num_inputs - i, room = padded - i;
    const __mmask16 here = left >= LANES ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
    const __mmask16 written = room >= LANES ? 0xffff : static_cast<__mmask16>((1u << room) - 1);
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_div_ps(_mm512_maskz_loadu_ps(here, x_I + i), divisor));
    _mm_mask_storeu_epi8(out_I + i, written, _mm512_cvtsepi32_epi8(rounded));
  }
  return scale;
}

void int8_block(const int8_t* x_NI, const float* scale_N, int64_t num_rows, int64_t padded, const uint8_t* weight,
                const float* scale_O, const float* bias_O, float* out_NO, int64_t num_outputs, int64_t outputs_here) {
  for (int64_t n = 0; n < num_rows;) {
    const auto rows = [&](auto run, int count) {
      run(x_NI + n * padded, scale_N + n, padded, weight, scale_O, bias_O, out_NO + n * num_outputs, num_outputs,
          outputs_here);
      n += count;
    };
    switch (num_rows - n) {
      case 1: rows(int8_rows<1>, 1); break;
      case 2: rows(int8_rows<2>, 2); break;
      case 3: rows(int8_rows<3>, 3); break;
      case 4: rows(int8_rows<4>, 4); break;
      case 5: rows(int8_rows<5>, 5); break;
      default: rows(int8_rows<6>, 6);
    }
  }
}

void int4_block(const int8_t* x_NI, const float* scale_N, int64_t num_rows, int64_t padded, const uint8_t* weight,
                const uint16_t* scale, const float* bias_O, float* out_NO, int64_t num_outputs, int64_t outputs_here) {
  for (int64_t n = 0; n < num_rows;) {
    const auto rows = [&](auto run, int count) {
      run(x_NI + n * padded, scale_N + n, padded, weight, scale, bias_O, out_NO + n * num_outputs, num_outputs,
          outputs_here);
      n += count;
    };
    switch (num_rows - n) {
      case 1: rows(int4_rows<1>, 1); break;
      case 2: rows(int4_rows<2>, 2); break;
      default: rows(int4_rows<3>, 3);
    }
  }
}

}  // namespace worldsize

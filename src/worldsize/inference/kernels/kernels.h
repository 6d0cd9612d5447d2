// Products with packed weights and decoding's attention, on plain pointers. Compiled for AVX-512 with VNNI.
//
// Letters as in matrix.py: N rows, I inputs, O outputs. Weights lie in blocks of BLOCK outputs, so that one block's
// bytes are read in one line and a register holds the same input's weights for 16 outputs.
#pragma once

#include <cstdint>

namespace worldsize {

constexpr int64_t BLOCK = 64;       // outputs of a block: four registers of 16
constexpr int64_t INT8_STEP = 4;    // inputs that one instruction sums
constexpr int64_t INT4_STEP = 8;    // inputs that one byte column holds: low nibbles the first four, high the others
constexpr int64_t GROUP = 32;       // inputs that share an int4 scale

// Rows of input rounded to int8: `padded` values each, zeros after the first I.
struct Rows {
  const int8_t* x_NI;
  const float* scale_N;
  const int32_t* sums_NG;  // of each group of 32 values
  int64_t num_rows, padded, num_groups;
};

// Where a block's outputs go: `here` of them, 64 but in the last block, in rows that are `stride` floats apart.
struct Outputs {
  float* out_NO;
  const float* bias_O;  // or null
  int64_t stride, here;
};

// Round a row; return its scale.
float round_row(const float* x_I, int64_t num_inputs, int64_t padded, int8_t* out_I, int32_t* sums_G);

// One block of an int8 product. weight: (I/4, 64, 4) bytes, each its value + 128.
void int8_block(const Rows& rows, const uint8_t* weight, const float* scale_O, const Outputs& to);

// One block of an int4 product. weight: (I/8, 64, 4) bytes of two nibbles, each its value + 8;
// scale: (I/32, 64) of half precision.
void int4_block(const Rows& rows, const uint8_t* weight, const uint16_t* scale, const Outputs& to);

// One query over the first `num_seen` keys of its row: softmax(q·k / sqrt(D))·v. `weights` holds num_seen floats.
void attend_head(const float* query_D, const float* keys_ND, const float* values_ND, int64_t num_seen, int64_t d_head,
                 float* weights, float* out_D);

}  // namespace worldsize

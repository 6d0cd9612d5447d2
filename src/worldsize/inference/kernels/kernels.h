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

// Round a row of x to int8, its scale returned; `padded` inputs are written, zeros after the first I.
float round_row(const float* x_I, int64_t num_inputs, int64_t padded, int8_t* out_I);

// One block of outputs of an int8 product for N rows. weight: (I/4, 64, 4) bytes, each its value + 128.
void int8_block(const int8_t* x_NI, const float* scale_N, int64_t num_rows, int64_t padded, const uint8_t* weight,
                const float* scale_O, const float* bias_O, float* out_NO, int64_t num_outputs, int64_t outputs_here);

// The same of an int4 product. weight: (I/8, 64, 4) bytes of two nibbles, each its value + 8;
// scale: (I/32, 64) of half precision.
void int4_block(const int8_t* x_NI, const float* scale_N, int64_t num_rows, int64_t padded, const uint8_t* weight,
                const uint16_t* scale, const float* bias_O, float* out_NO, int64_t num_outputs, int64_t outputs_here);

// One query over the first `num_seen` keys of its row: softmax(q·k / sqrt(D))·v. `weights` holds num_seen floats.
void attend_head(const float* query_D, const float* keys_ND, const float* values_ND, int64_t num_seen, int64_t d_head,
                 float* weights, float* out_D);

}  // namespace worldsize

// The ops that other ops are made of, with the contracts that stand at their definitions.
#pragma once

#include "linear.h"

// What some tokens do to the memory of a DeltaNet layer, with room for more: DeltaLog in operands.py.
struct Log {
    float *inputs, *k, *d, *g;
};

EXPORT void project(ForkJoin fork_join, int threads, const Matrix* matrices, long count, const float* x,
                    long T, long K, int swiglu);

EXPORT void rms_norm(ForkJoin fork_join, int threads, const float* x, const bf16* w, float* y, long rows,
                     long D, float eps);

EXPORT void delta_mix(ForkJoin fork_join, int threads, const float* qkv, const float* z, const float* a,
                      const float* b, const void* conv, const void* dt_bias, const float* a_log,
                      const float* norm, float* rows, float* state, float* y, const Log* past, const Log* log,
                      long kept, long room, long B, long T, long G, long H, long K, long V, float eps, int half);

EXPORT void qk_norm_rotary(ForkJoin fork_join, int threads, const float* q, const float* k,
                           const void* q_weight, const void* k_weight, float eps, const float* cos,
                           const float* sin, float* q_out, float* k_out, long tokens, long H, long KV,
                           long Dh, long R, long q_head, long q_token, int half);

EXPORT void store_rows(ForkJoin fork_join, int threads, const float* x, void* to, bf16* scale, long B, long T,
                       long KV, long Dh, long batch_step, long head_step, long start, int size);

EXPORT void attention(ForkJoin fork_join, int threads, const float* q, const void* keys, const void* values,
                      const bf16* key_scale, const bf16* value_scale, float* out, float* scratch, long spans,
                      long B, long T, long H, long Dh, long KV, long S, long batch_step, long head_step,
                      int size);

EXPORT long attention_spans(int threads, long B, long T, long KV, long S);

EXPORT long look_up_int8(const uint8_t* codes, const bf16* scale, const int64_t* ids, float* out,
                         long count, long N, long K);

EXPORT void sigmoid_gate(ForkJoin fork_join, int threads, const float* x, const float* gate, float* y,
                         long tokens, long H, long Dh, long gate_head, long gate_token);

/* worker/ops/cuda/functions.cuh - activations and their slopes in f32. */
#pragma once

#include "worker/ops/cuda/cuda.cuh"

/* The standard normal distribution function. */
__device__ __forceinline__ float normal_cdf(float x)
{
    return 0.5f * erfcf(-0.70710678118654752f * x);
}
/* By e^-|x|, which neither overflows nor cancels. */
__device__ __forceinline__ float sigmoid(float x)
{
    const float e = expf(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}
__device__ __forceinline__ float sigmoid_slope(float x)
{
    const float e = expf(-fabsf(x));
    return e / ((1 + e) * (1 + e));
}

/* 1 / sqrt(2 pi) and, for GELU's tanh form, (1 + tanh u) / 2 = sigmoid(2 u) with
 * 2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks & Gimpel 2016). */
constexpr float INV_SQRT_2PI = 0.39894228040143268f, GELU_SCALE = 1.5957691216057308f,
                GELU_CUBE = 0.044715f;

template <enum ops_epilogue F> __device__ __forceinline__ float activation(float x)
{
    if (F == OPS_GELU_ERF)
        return x * normal_cdf(x);
    if (F == OPS_GELU_TANH)
        return x * sigmoid(GELU_SCALE * (x + GELU_CUBE * x * x * x));
    if (F == OPS_SILU)
        return x * sigmoid(x);
    return x;
}

template <enum ops_epilogue F> __device__ __forceinline__ float activation_slope(float x)
{
    if (F == OPS_GELU_ERF)
        return normal_cdf(x) + x * expf(-0.5f * x * x) * INV_SQRT_2PI;
    if (F == OPS_GELU_TANH) {
        const float u = GELU_SCALE * (x + GELU_CUBE * x * x * x);
        return sigmoid(u) + x * sigmoid_slope(u) * GELU_SCALE * (1 + 3 * GELU_CUBE * x * x);
    }
    if (F == OPS_SILU)
        return sigmoid(x) + x * sigmoid_slope(x);
    return 1;
}

/* f(constant) for the epilogue. */
template <enum ops_epilogue F> struct epilogue {
    static constexpr enum ops_epilogue value = F;
};
template <typename F> static inline void by_epilogue(enum ops_epilogue which, F f)
{
    switch (which) {
    case OPS_NONE:
        return f(epilogue<OPS_NONE>{});
    case OPS_GELU_ERF:
        return f(epilogue<OPS_GELU_ERF>{});
    case OPS_GELU_TANH:
        return f(epilogue<OPS_GELU_TANH>{});
    case OPS_SILU:
        return f(epilogue<OPS_SILU>{});
    }
}

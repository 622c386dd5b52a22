/* worker/ops/cuda/columns.cu - d_bias (N) += column sums of d_y (R,N): columns.cuh has the order. Bound
 * by memory: 2 or 4 bytes an element. */
#include "worker/ops/cuda/columns.cuh"

namespace
{
template <typename T, int V> struct plain_source {
    const T *x;
    int64_t N;
    __device__ void operator()(float (&value)[1][V], int64_t row, int64_t column) const
    {
        load<V>(value[0], x + row * N + column);
    }
};
} // namespace

size_t cuda_column_sums_scratch(int64_t R, int64_t N)
{
    return column_scratch(R, N, 1);
}

cudaError_t cuda_column_sums(struct cuda_launch launch, float *d_bias, const act *d_y, int64_t R,
                             int64_t N, void *scratch)
{
    if (R * N == 0)
        return cudaSuccess;
    by_act(launch.act, aligned(d_y) && N % 8 == 0, [&](auto t, auto n) {
        using T = decltype(t);
        constexpr int V = decltype(n)::value;
        const plain_source<T, V> source = {(const T *)d_y, N};
        column_sums<V, 1>(launch.stream, d_bias, nullptr, source, R, N, scratch);
    });
    return cudaGetLastError();
}

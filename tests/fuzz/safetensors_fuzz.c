/* tests/fuzz/safetensors_fuzz.c - the input is a safetensors file. */
#include "common/models/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void read_tensor(const struct safetensors *file, const struct tensor *tensor)
{
    const struct tensor *found = NULL;
    float values[16];
    size_t elements = tensor->size_bytes / bl_dtype_bytes(tensor->dtype);
    fuzz_touch(tensor->data, tensor->size_bytes);
    if (safetensors_find(file, tensor->name) != tensor)
        __builtin_trap();
    if (safetensors_expect(file, tensor->name, tensor->rank, tensor->dims, &found, NULL) < 0)
        __builtin_trap();
    size_t count = elements < 16 ? elements : 16;
    if (tensor_to_f32(tensor, elements - count, count, values, NULL) == 0)
        fuzz_touch(values, count * sizeof *values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *file = NULL;
    struct bl_error err = {0};
    if (safetensors_parse(data, size, "fuzz", &file, &err) < 0) {
        fuzz_touch(&err, sizeof err);
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(file); i++)
        read_tensor(file, safetensors_at(file, i));
    safetensors_free(&file);
    return 0;
}

/* worker/ops/cpu/variant.c - the table of one instruction set. */
#include "worker/ops/cpu/cpu.h"

void CPU_VARIANT(cpu_fill)(struct ops *table)
{
    CPU_VARIANT(cpu_fill_affine)(table);
    CPU_VARIANT(cpu_fill_attention)(table);
    CPU_VARIANT(cpu_fill_elementwise)(table);
    CPU_VARIANT(cpu_fill_layernorm)(table);
    CPU_VARIANT(cpu_fill_loss)(table);
    CPU_VARIANT(cpu_fill_linear)(table);
    CPU_VARIANT(cpu_fill_linear_gradient)(table);
    CPU_VARIANT(cpu_fill_matrix)(table);
    CPU_VARIANT(cpu_fill_operand)(table);
    CPU_VARIANT(cpu_fill_optimizer)(table);
    CPU_VARIANT(cpu_fill_rmsnorm)(table);
    CPU_VARIANT(cpu_fill_router)(table);
    CPU_VARIANT(cpu_fill_rows)(table);
    CPU_VARIANT(cpu_fill_softmax)(table);
    CPU_VARIANT(cpu_fill_top_k)(table);
}

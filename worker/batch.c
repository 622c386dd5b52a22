/* worker/batch.c - see batch.h. */
#include "worker/batch.h"

#include <stdlib.h>

void batch_free(struct batch **batch)
{
    struct batch *b = *batch;
    if (!b)
        return;
    if (b->release_frames)
        b->release_frames(b->frames);
    free(b->slots);
    free(b);
    *batch = NULL;
}

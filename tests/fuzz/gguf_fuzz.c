/* GGUF metadata, tensor tables and the shapes derived from them, from arbitrary bytes. */
#include "svc/model/gguf.h"
#include "svc/model/shape.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* keeps the reads */

/* Reads all that a caller may read, so that a bad pointer shows. */
static uint64_t walk(const struct gguf *gguf)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < gguf_n_pairs(gguf); i++) {
        const struct gguf_pair *pair = gguf_pair(gguf, i);
        const struct gguf_value *value = &pair->value;
        for (size_t k = 0; k < value->size; k++)
            sum += value->data[k];
        if (value->type == GGUF_ARRAY && value->item_type == GGUF_STRING) {
            const uint8_t *at = value->data;
            for (uint64_t k = 0; k < value->n_items; k++)
                sum += gguf_next_string(&at).length;
            if (at != value->data + value->size)
                abort();
        }
    }
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++)
        sum += gguf_tensor(gguf, i)->bytes;
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[256];
    struct gguf *gguf;
    if (gguf_open_memory(&gguf, data, size, why, sizeof why) == 0) {
        struct model_shape shape;
        sink += walk(gguf);
        if (model_shape_read(&shape, gguf, why, sizeof why) == 0)
            sink += shape.n_layers;
        gguf_free(gguf);
    }
    return 0;
}

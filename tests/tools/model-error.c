/* model-error: how far logits are from double precision.
 *
 *   model-error --tokens N              the token ids of the tests, separated by spaces
 *   model-error MODEL.gguf LOGITS N     relative error of a file of float32 logits of those tokens */
#include "tests/support/reference.h"
#include "tests/support/toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_MAX    4096
#define TOY_SEED 7
#define TOY_IDS  259 /* that every toy vocabulary has */

int main(int argc, char **argv)
{
    uint32_t tokens[N_MAX];
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: model-error --tokens N | MODEL.gguf LOGITS N\n");
        return 64;
    }
    unsigned long n = strtoul(argv[argc - 1], NULL, 10);
    if (n == 0 || n > N_MAX)
        return 64;
    toy_tokens(tokens, (uint32_t)n, TOY_IDS, TOY_SEED);
    if (argc == 3) {
        for (unsigned long i = 0; i < n; i++)
            printf("%u%c", tokens[i], i + 1 < n ? ' ' : '\n');
        return 0;
    }
    struct reference *reference = reference_new(argv[1]);
    size_t n_logits = n * reference_n_vocab(reference);
    float *logits = malloc(n_logits * sizeof *logits);
    double *expected = malloc(n_logits * sizeof *expected);
    FILE *file = fopen(argv[2], "rbe");
    if (!file || !logits || !expected ||
        fread(logits, sizeof *logits, n_logits, file) != n_logits) {
        fprintf(stderr, "model-error: %s does not hold %zu logits\n", argv[2], n_logits);
        return 65;
    }
    fclose(file);
    reference_logits(reference, tokens, n, expected);
    printf("%.4g\n", reference_error(logits, expected, n_logits));
    free(logits);
    free(expected);
    reference_free(reference);
    return 0;
}

/* reference-greedy MODEL.gguf TOLERANCE N ID...: the greedy continuation of a prompt in double precision.
 *
 * Prints at most N ids. It ends earlier before a token whose logit leads the next by less than TOLERANCE times the
 * root mean square of all logits: there, rounding may rightly decide. */
#include "tests/support/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define N_MAX 512

/* The likeliest of n, or n if its lead is within the tolerance. */
static size_t pick_clear(const double *logits, size_t n, double tolerance)
{
    size_t best = 0;
    double sum = 0, second = -INFINITY;

    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    for (size_t i = 0; i < n; i++) {
        sum += logits[i] * logits[i];
        if (i != best && logits[i] > second)
            second = logits[i];
    }
    return logits[best] - second > tolerance * sqrt(sum / (double)n) ? best : n;
}

int main(int argc, char **argv)
{
    uint32_t tokens[N_MAX];
    if (argc < 5 || argc > N_MAX) {
        fprintf(stderr, "usage: reference-greedy MODEL.gguf TOLERANCE N ID...\n");
        return 64;
    }
    double tolerance = strtod(argv[2], NULL);
    size_t n_prompt = (size_t)argc - 4, n = n_prompt, end = n + strtoul(argv[3], NULL, 10);
    for (size_t i = 0; i < n_prompt; i++)
        tokens[i] = (uint32_t)strtoul(argv[4 + i], NULL, 10);
    if (end > N_MAX)
        return 64;

    struct reference *reference = reference_new(argv[1]);
    size_t n_vocab = reference_n_vocab(reference);
    double *logits = malloc(end * n_vocab * sizeof *logits);
    if (!logits)
        return 70;
    for (; n < end; n++) {
        reference_logits(reference, tokens, n, logits);
        size_t id = pick_clear(logits + (n - 1) * n_vocab, n_vocab, tolerance);
        if (id == n_vocab)
            break;
        tokens[n] = (uint32_t)id;
        printf("%s%u", n > n_prompt ? " " : "", tokens[n]);
    }
    printf("\n");
    free(logits);
    reference_free(reference);
    return 0;
}

/* From logits to a token, with the order and meaning of Hugging Face's processors.
 *
 * Biases of single tokens, and what is banned (a bias of −infinity, or an end of sequence before
 * the least number of tokens), as SequenceBias and MinNewTokensLength; repetition penalty over
 * prompt and output ids (positive logits divided, negative multiplied), frequency and presence
 * penalty over output ids (as OpenAI's interface and vLLM have them; Hugging Face has none),
 * temperature, top-k (ties with the k-th are kept), top-p (a token is kept while the mass before
 * it is below p), min-p; then one draw. Temperature 0 is greedy: the greatest penalised logit, the
 * lowest id among equals.
 *
 * The draw of token `index` of a request depends on (seed, sample, index) and the logits alone: it
 * is Philox4x32-10 (Salmon et al., SC11), key = seed (low word, high word), counter = (index low,
 * index high, sample, 0), and u = the high 53 bits of (word 0 << 32 | word 1) / 2^53. Weights are
 * computed in double precision by plain IEEE operations, and where nothing is cut the weights of
 * blocks of 64 tokens in float32 by the 16-partial rule, so that the same seed gives the same
 * token on every machine. */
#ifndef QUERN_SVC_SAMPLER_H
#define QUERN_SVC_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

struct sampler_bias {
    uint32_t id;
    float bias; /* -100 … 100, or -infinity: never drawn */
};

struct sampler_params {
    float temperature;        /* 0 … 100; 0: greedy */
    uint32_t top_k;           /* 0: all */
    float top_p;              /* (0, 1]; 1: all */
    float min_p;              /* [0, 1]; 0: all */
    float repetition_penalty; /* (0, 100]; 1: none */
    float presence_penalty;   /* -100 … 100; 0: none */
    float frequency_penalty;  /* -100 … 100; 0: none */
    uint64_t seed;
    const struct sampler_bias *biases; /* (n_biases) ids rising, not checked; the caller's */
    uint32_t n_biases;
    const uint32_t *ends; /* (n_ends) ids that are not drawn before min_tokens; the caller's */
    uint32_t n_ends;
    uint32_t min_tokens;
};

/* 0, or -EINVAL with a sentence that names the value and its range. */
int sampler_params_check(const struct sampler_params *params, char *why, size_t why_size);

/* The distinct ids of one sequence, and how often each came out. */
struct sampler_history;
int sampler_history_new(struct sampler_history **ret, uint32_t n_ids_max);
void sampler_history_free(struct sampler_history *history);
void sampler_history_add(struct sampler_history *history, uint32_t id, int is_output);

/* Scratch of one thread. Ids from n_tokens on (padding rows) are never drawn. */
struct sampler;
int sampler_new(struct sampler **ret, uint32_t n_tokens);
void sampler_free(struct sampler *sampler);

/* Draws output token number `index` from `logits` (n_tokens, changed meanwhile and put
 * back). Returns 0 and the id; -EDOM where no logit is a number; -ENODATA where every token that
 * could be drawn is banned. */
int sampler_draw(struct sampler *sampler, const struct sampler_params *params,
                 const struct sampler_history *history, float *logits, uint32_t sample,
                 uint64_t index, uint32_t *ret_id);

/* What the last draw chose among, best first where anything was cut; probabilities sum to 1. The
 * draw's parameters and logits must still be there, unchanged. */
struct sampler_candidate {
    uint32_t id;
    double value; /* penalised logit */
    double p;
};
const struct sampler_candidate *sampler_kept(struct sampler *sampler, size_t *ret_n);

/* The n greatest of `logits` (n_tokens), best first, lowest id first among equals; `p` is not set.
 * Returns how many there are (fewer only if the vocabulary is smaller). */
size_t sampler_top(struct sampler *sampler, const float *logits, size_t n,
                   const struct sampler_candidate **ret_top);

/* The generator itself, for tests and for forks of a seed. */
void sampler_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t ret[4]);

#endif

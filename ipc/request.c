/* What a valid request is: see request.h. */
#define _GNU_SOURCE /* mempcpy */
#include "ipc/request.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 3, 4))) static int invalid(char *why, size_t why_size,
                                                         const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, why_size, format, args);
    va_end(args);
    return -EINVAL;
}

/* ---- Counted forms ---------------------------------------------------------------------------- */

uint32_t ipc_chat_count(const uint8_t *input, uint32_t input_bytes)
{
    uint32_t count = 0;

    if (input_bytes >= sizeof(count))
        memcpy(&count, input, sizeof(count));
    return count;
}

int ipc_chat_next(const uint8_t *input, uint32_t input_bytes, struct ipc_chat_cursor *cursor,
                  struct ipc_part *ret)
{
    uint32_t count = ipc_chat_count(input, input_bytes);
    struct ipc_chat_entry entry;

    if (input_bytes < sizeof(count) || count > IPC_CHAT_MESSAGES_MAX ||
        count > (input_bytes - sizeof(count)) / sizeof(entry))
        return -EINVAL;
    uint32_t texts = (uint32_t)(sizeof(count) + count * sizeof(entry));
    if (cursor->index == 0)
        cursor->offset = texts;
    if (cursor->offset < texts || cursor->offset > input_bytes)
        return -EINVAL;
    if (cursor->index >= count)
        return cursor->offset == input_bytes ? 0 : -EINVAL;
    memcpy(&entry, input + sizeof(count) + cursor->index * sizeof(entry), sizeof(entry));
    if (entry.role > IPC_ROLE_LAST || entry.length > input_bytes - cursor->offset)
        return -EINVAL;
    *ret = (struct ipc_part){input + cursor->offset, entry.length, entry.role};
    cursor->index++;
    cursor->offset += entry.length;
    return 1;
}

uint8_t *ipc_chat_join(const uint8_t *first, uint32_t first_bytes, const uint8_t *second,
                       uint32_t second_bytes, uint32_t *ret_bytes)
{
    const size_t head = sizeof(uint32_t), entry = sizeof(struct ipc_chat_entry);
    uint32_t n_first = ipc_chat_count(first, first_bytes);
    uint32_t n_second = ipc_chat_count(second, second_bytes), n = n_first + n_second;
    size_t first_texts = head + n_first * entry, second_texts = head + n_second * entry;
    uint8_t *out = malloc((size_t)first_bytes + second_bytes - head), *at = out;

    if (out == NULL)
        return NULL;
    at = mempcpy(at, &n, head);
    at = mempcpy(at, first + head, n_first * entry);
    at = mempcpy(at, second + head, n_second * entry);
    at = mempcpy(at, first + first_texts, first_bytes - first_texts);
    mempcpy(at, second + second_texts, second_bytes - second_texts);
    *ret_bytes = (uint32_t)(first_bytes + second_bytes - head);
    return out;
}

int ipc_stop_next(const uint8_t *stops, uint32_t stop_bytes, uint32_t *cursor, struct ipc_part *ret)
{
    uint32_t length;

    if (*cursor >= stop_bytes)
        return *cursor == stop_bytes ? 0 : -EINVAL;
    if (stop_bytes - *cursor < sizeof(length))
        return -EINVAL;
    memcpy(&length, stops + *cursor, sizeof(length));
    if (length == 0 || length > IPC_STOP_BYTES_MAX ||
        length > stop_bytes - *cursor - (uint32_t)sizeof(length))
        return -EINVAL;
    *ret = (struct ipc_part){stops + *cursor + sizeof(length), length, 0};
    *cursor += (uint32_t)sizeof(length) + length;
    return 1;
}

/* ---- Checks ------------------------------------------------------------------------------------- */

#define TAKES(kind)  (1u << IPC_INPUT_##kind)
#define TAKES_PROMPT (TAKES(TEXT) | TAKES(CHAT) | TAKES(IDS) | TAKES(SEGMENTS))
#define PROMPT_FLAGS (IPC_FLAG_SPECIAL | IPC_FLAG_RAW_CHAT)

/* What each operation takes. */
static const struct {
    uint8_t inputs; /* bit per enum ipc_input */
    bool samples;   /* looks at the sampling parameters and stop strings */
    uint32_t flags;
} operations[IPC_OP_LAST + 1] = {
    [IPC_OP_GENERATE] = {TAKES_PROMPT, true, PROMPT_FLAGS | IPC_FLAG_IGNORE_EOS | IPC_FLAG_ECHO},
    [IPC_OP_CANCEL] = {TAKES(NONE), false, 0},
    [IPC_OP_TOKENIZE] = {TAKES(TEXT) | TAKES(CHAT) | TAKES(SEGMENTS), false, PROMPT_FLAGS},
    [IPC_OP_DETOKENIZE] = {TAKES(IDS), false, IPC_FLAG_SPECIAL},
    [IPC_OP_SCORE] = {TAKES_PROMPT, false, PROMPT_FLAGS},
    [IPC_OP_EMBED] = {TAKES_PROMPT | TAKES(TEXTS), false,
                      PROMPT_FLAGS | IPC_FLAG_MEAN | IPC_FLAG_NORMALIZE},
    [IPC_OP_INFO] = {TAKES(NONE), false, 0},
    [IPC_OP_STATUS] = {TAKES(NONE), false, 0},
    [IPC_OP_PIN] = {TAKES_PROMPT, false, PROMPT_FLAGS | IPC_FLAG_KEEP},
    [IPC_OP_UNPIN] = {TAKES(NONE), false, 0},
};

static int check_number(const struct ipc_request_record *r, uint32_t bit, float value, double min,
                        bool min_open, double max, const char *name, char *why, size_t why_size)
{
    if ((r->given & bit) == 0) {
        /* Bits, not value: −0 would be a second way to say the same. */
        uint32_t bits;

        memcpy(&bits, &value, sizeof(bits));
        if (bits != 0)
            return invalid(why, why_size, "%s has a value but is not marked as given.", name);
        return 0;
    }
    if (!isfinite(value) || (double)value < min || (min_open && (double)value <= min) ||
        (double)value > max)
        return invalid(why, why_size, "%s is %g; it must be %s %g and at most %g.", name,
                       (double)value, min_open ? "above" : "at least", min, max);
    return 0;
}

static int check_sampling(const struct ipc_request_record *r, char *why, size_t why_size)
{
    if ((r->given & IPC_GIVEN_TOP_K) == 0 && r->top_k != 0)
        return invalid(why, why_size, "top_k has a value but is not marked as given.");
    if ((r->given & IPC_GIVEN_SEED) == 0 && r->seed != 0)
        return invalid(why, why_size, "seed has a value but is not marked as given.");
    if ((r->given & IPC_GIVEN_MAX_TOKENS) == 0 ? r->max_tokens != 0 : r->max_tokens == 0)
        return invalid(why, why_size, "max_tokens must be at least 1 where it is given.");
    if ((r->given & IPC_GIVEN_MIN_TOKENS) == 0 && r->min_tokens != 0)
        return invalid(why, why_size, "min_tokens has a value but is not marked as given.");
    if (r->max_tokens != 0 && r->min_tokens > r->max_tokens)
        return invalid(why, why_size, "min_tokens is %u, but max_tokens is %u.", r->min_tokens,
                       r->max_tokens);
    if (r->n_logprobs > IPC_LOGPROBS_MAX)
        return invalid(why, why_size, "%u log probabilities are asked for; at most %u are given.",
                       r->n_logprobs, IPC_LOGPROBS_MAX);
    if (r->samples > IPC_SAMPLES_MAX)
        return invalid(why, why_size, "%u answers in parallel are asked for; at most %u are given.",
                       r->samples, IPC_SAMPLES_MAX);
    if (check_number(r, IPC_GIVEN_TEMPERATURE, r->temperature, 0, false, 100, "temperature", why,
                     why_size) < 0 ||
        check_number(r, IPC_GIVEN_TOP_P, r->top_p, 0, true, 1, "top_p", why, why_size) < 0 ||
        check_number(r, IPC_GIVEN_MIN_P, r->min_p, 0, false, 1, "min_p", why, why_size) < 0 ||
        check_number(r, IPC_GIVEN_REPETITION, r->repetition, 0, true, 100, "repetition penalty",
                     why, why_size) < 0 ||
        check_number(r, IPC_GIVEN_PRESENCE, r->presence, -100, false, 100, "presence penalty", why,
                     why_size) < 0 ||
        check_number(r, IPC_GIVEN_FREQUENCY, r->frequency, -100, false, 100, "frequency penalty",
                     why, why_size) < 0)
        return -EINVAL;
    return 0;
}

/* Chat, segments and texts: n parts, each of a role up to role_last. */
static int check_parts(const struct ipc_request_record *r, const uint8_t *span, uint32_t n_max,
                       uint32_t role_last, const char *what, char *why, size_t why_size)
{
    uint32_t n = ipc_chat_count(span, r->input_bytes);
    struct ipc_chat_cursor cursor = {0, 0};
    struct ipc_part part;
    int more;

    if (n == 0)
        return invalid(why, why_size, "The %s is empty.", what);
    if (n > n_max)
        return invalid(why, why_size, "The %s has %u parts; at most %u are taken.", what, n, n_max);
    while ((more = ipc_chat_next(span, r->input_bytes, &cursor, &part)) > 0)
        if (part.role > role_last)
            return invalid(why, why_size, "Part %u of the %s is of the unknown kind %u.",
                           cursor.index - 1, what, part.role);
    if (more < 0)
        return invalid(why, why_size, "The lengths or roles in the %s are wrong.", what);
    return 0;
}

static int check_input(const struct ipc_request_record *r, const uint8_t *span, char *why,
                       size_t why_size)
{
    switch (r->input) {
    case IPC_INPUT_NONE:
        if (r->input_bytes != 0)
            return invalid(why, why_size, "The operation takes no input, but has %u bytes of it.",
                           r->input_bytes);
        return 0;
    case IPC_INPUT_IDS:
        if (r->input_bytes % sizeof(uint32_t) != 0)
            return invalid(why, why_size, "%u bytes are no whole number of token ids.",
                           r->input_bytes);
        return 0;
    case IPC_INPUT_CHAT:
        return check_parts(r, span, IPC_CHAT_MESSAGES_MAX, IPC_ROLE_LAST, "chat", why, why_size);
    case IPC_INPUT_SEGMENTS:
        return check_parts(r, span, IPC_CHAT_MESSAGES_MAX, IPC_SEGMENT_LAST, "list of segments",
                           why, why_size);
    case IPC_INPUT_TEXTS:
        return check_parts(r, span, IPC_TEXTS_MAX, 0, "list of texts", why, why_size);
    default:
        return 0;
    }
}

static int check_biases(const uint8_t *list, uint32_t bytes, char *why, size_t why_size)
{
    uint64_t least = 0;
    struct ipc_bias b;

    if (bytes % sizeof(b) != 0)
        return invalid(why, why_size, "%u bytes are no whole number of biases.", bytes);
    if (bytes / sizeof(b) > IPC_BIASES_MAX)
        return invalid(why, why_size, "%u biases are given; at most %u are taken.",
                       bytes / (uint32_t)sizeof(b), IPC_BIASES_MAX);
    for (uint32_t at = 0; at < bytes; at += (uint32_t)sizeof(b)) {
        memcpy(&b, list + at, sizeof(b));
        if (b.token < least)
            return invalid(why, why_size, "The biases are not in rising order of tokens: %u.",
                           b.token);
        if (!(b.bias >= -100.0f && b.bias <= 100.0f) && !(isinf(b.bias) && b.bias < 0))
            return invalid(why, why_size,
                           "The bias of token %u is %g; it must be at least -100 and at most 100, "
                           "or minus infinity.",
                           b.token, (double)b.bias);
        least = (uint64_t)b.token + 1;
    }
    return 0;
}

static int check_stops(const uint8_t *stops, uint32_t stop_bytes, char *why, size_t why_size)
{
    struct ipc_part part;
    uint32_t cursor = 0, n = 0;
    int more;

    while ((more = ipc_stop_next(stops, stop_bytes, &cursor, &part)) > 0)
        n++;
    if (more < 0)
        return invalid(why, why_size, "A stop string is empty, or longer than %u bytes.",
                       IPC_STOP_BYTES_MAX);
    if (n > IPC_STOPS_MAX)
        return invalid(why, why_size, "%u stop strings are given; at most %u are taken.", n,
                       IPC_STOPS_MAX);
    return 0;
}

static int check_stop_ids(uint32_t bytes, char *why, size_t why_size)
{
    if (bytes % sizeof(uint32_t) != 0)
        return invalid(why, why_size, "%u bytes are no whole number of stop ids.", bytes);
    if (bytes / sizeof(uint32_t) > IPC_STOP_IDS_MAX)
        return invalid(why, why_size, "%u stop ids are given; at most %u are taken.",
                       bytes / (uint32_t)sizeof(uint32_t), IPC_STOP_IDS_MAX);
    return 0;
}

/* A request that does not sample has none of the sampling fields. */
static bool has_sampling(const struct ipc_request_record *r)
{
    return r->given != 0 || r->max_tokens != 0 || r->stop_bytes != 0 || r->temperature != 0 ||
           r->top_k != 0 || r->top_p != 0 || r->min_p != 0 || r->repetition != 0 ||
           r->presence != 0 || r->frequency != 0 || r->n_logprobs != 0 || r->seed != 0 ||
           r->samples != 0 || r->min_tokens != 0 || r->bias_bytes != 0 || r->stop_id_bytes != 0;
}

int ipc_request_check(const struct ipc_request_record *r, const uint8_t *span, char *why,
                      size_t why_size)
{
    if (r->op == 0 || r->op > IPC_OP_LAST)
        return invalid(why, why_size, "Operation %u is unknown.", r->op);
    if (r->input > IPC_INPUT_LAST || (operations[r->op].inputs >> r->input & 1) == 0)
        return invalid(why, why_size, "Operation %u does not take input of kind %u.", r->op,
                       r->input);
    if ((r->flags & ~operations[r->op].flags) != 0)
        return invalid(why, why_size, "Flags 0x%x do not go with operation %u.",
                       r->flags & ~operations[r->op].flags, r->op);
    if ((r->given & ~IPC_GIVEN_ALL) != 0)
        return invalid(why, why_size, "Parameter bits 0x%x are unknown.",
                       r->given & ~IPC_GIVEN_ALL);
    if (r->priority > IPC_PRIORITY_LAST)
        return invalid(why, why_size, "Priority %u is unknown.", r->priority);
    for (size_t i = 0; i < sizeof(r->reserved) / sizeof(r->reserved[0]); i++)
        if (r->reserved[i] != 0)
            return invalid(why, why_size, "Reserved bytes of the request are not zero.");
    if ((r->op == IPC_OP_CANCEL) != (r->target != 0))
        return invalid(why, why_size, "Cancel, and nothing else, names a target.");
    if (r->prefix != 0 ? r->op != IPC_OP_GENERATE && r->op != IPC_OP_PIN && r->op != IPC_OP_UNPIN
                       : r->op == IPC_OP_UNPIN)
        return invalid(why, why_size, "Operation %u %s.", r->op,
                       r->prefix != 0 ? "does not go on from a prefix" : "must name a prefix");
    if (!operations[r->op].samples && has_sampling(r))
        return invalid(why, why_size, "Operation %u takes no sampling parameters.", r->op);
    if (check_sampling(r, why, why_size) < 0 || check_input(r, span, why, why_size) < 0 ||
        check_stops(span + r->input_bytes, r->stop_bytes, why, why_size) < 0 ||
        check_biases(span + r->input_bytes + r->stop_bytes + r->model_bytes, r->bias_bytes, why,
                     why_size) < 0 ||
        check_stop_ids(r->stop_id_bytes, why, why_size) < 0)
        return -EINVAL;
    if (r->model_bytes > IPC_MODEL_BYTES_MAX ||
        memchr(span + r->input_bytes + r->stop_bytes, 0, r->model_bytes) != NULL)
        return invalid(why, why_size,
                       "The name of the model is longer than %u bytes or has a zero "
                       "byte in it.",
                       IPC_MODEL_BYTES_MAX);
    return 0;
}

/* ---- Names ---------------------------------------------------------------------------------------- */

const char *ipc_reason_name(unsigned reason)
{
    static const char *const names[IPC_REASON_LAST + 1] = {
        "done", "end of sequence", "stop", "length", "cancelled", "failed",
    };

    return reason <= IPC_REASON_LAST ? names[reason] : "unknown reason";
}

const char *ipc_code_name(unsigned code)
{
    static const char *const names[IPC_CODE_LAST + 1] = {
        "ok",           "invalid request", "too long",      "unsupported",
        "busy",         "denied",          "no such model", "out of memory",
        "not a number", "deadline",        "shutting down", "internal error",
        "version",
    };

    return code <= IPC_CODE_LAST ? names[code] : "unknown code";
}

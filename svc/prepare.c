/* From a request's bytes to something that can be computed (see prepare.h). */
#include "svc/prepare.h"

#include "ipc/request.h"
#include "svc/client.h"
#include "svc/embedding.h"
#include "svc/sequence.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char *const role_names[] = {"system", "user", "assistant", "tool"};

int prepare_init(struct prepare *prepare, const struct model *model, const struct pins *pins,
                 uint32_t slot, uint32_t context, uint32_t page_len, uint32_t score_rows,
                 size_t input_bytes_max)
{
    struct prepare p = {.model = model,
                        .pins = pins,
                        .slot = slot,
                        .context = context,
                        .page_len = page_len,
                        .score_rows = score_rows,
                        .n_ids_max = input_bytes_max + 4096};
    if (model_tokenizer(model) &&
        text_chat_init(&p.chat, model_tokenizer(model), p.chat_why, sizeof p.chat_why) < 0)
        return -ENOMEM;
    p.ids = malloc(p.n_ids_max * sizeof *p.ids);
    if (!p.ids) {
        text_chat_done(&p.chat);
        return -ENOMEM;
    }
    *prepare = p;
    return 0;
}

void prepare_done(struct prepare *prepare)
{
    text_chat_done(&prepare->chat);
    free(prepare->ids);
    prepare->ids = NULL;
}

static int invalid_utf8(struct request *q, const char *what, size_t offset)
{
    request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID, "%s is not valid UTF-8: byte %zu is wrong.",
                what, offset);
    return -EILSEQ;
}

/* Texts with many ids (NFC may lengthen a text) do not fit the scratch: that is an error too. */
static int encode_error(struct request *q, int r, size_t n, size_t max)
{
    if (r == -EILSEQ)
        return invalid_utf8(q, "The text", n);
    if (r == -ENOSPC)
        request_end(q, IPC_REASON_FAILED, IPC_CODE_TOO_LONG,
                    "The text has %zu tokens, but one request takes at most %zu.", n, max);
    else if (r < 0)
        request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY,
                    "No memory was left to tokenize the text.");
    return r;
}

static int chat_error(const struct prepare *p, struct request *q, int r, size_t n, const char *why)
{
    if (r == -ENOSPC)
        return encode_error(q, r, n, p->n_ids_max);
    if (r < 0)
        request_end(q, IPC_REASON_FAILED,
                    r == -ENOMEM    ? IPC_CODE_NO_MEMORY
                    : r == -ENOTSUP ? IPC_CODE_UNSUPPORTED
                                    : IPC_CODE_INVALID,
                    "%s", why);
    return r;
}

/* The ids of a chat of `bytes` in its form on the wire. `begins`: no prefix goes before it. */
static int encode_chat(struct prepare *p, struct request *q, const uint8_t *chat, uint32_t bytes,
                       bool begins, size_t *ret_n)
{
    char why[IPC_SENTENCE_MAX] = "";
    struct ipc_chat_cursor cursor = {0};
    struct ipc_part part;
    size_t n = 0, count = ipc_chat_count(chat, bytes);
    struct chat_message *messages = calloc(count ? count : 1, sizeof *messages);
    if (!messages) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY,
                    "No memory was left for the messages.");
        return -ENOMEM;
    }
    while (n < count && ipc_chat_next(chat, bytes, &cursor, &part) == 1) {
        const char *role = role_names[part.role];
        messages[n++] = (struct chat_message){.role = {role, strlen(role)},
                                              .content = {(const char *)part.bytes, part.length}};
    }
    const struct chat_conversation conversation = {.messages = messages, .n_messages = n};
    /* What follows a prefix has its beginning there; what is pinned has its answer to come. */
    const struct chat_options options = {.no_default_system =
                                             (q->r.flags & IPC_FLAG_RAW_CHAT) || !begins,
                                         .no_generation_prompt = q->r.op == IPC_OP_PIN};
    int r = text_chat_prompt(model_tokenizer(p->model), &p->chat, &conversation, &options, p->ids,
                             p->n_ids_max, ret_n, why, sizeof why);
    free(messages);
    return chat_error(p, q, r, *ret_n, why);
}

/* A chat after a pinned one, where a program renders chats: it renders them as one, and what is pinned
 * must be the beginning of that. */
static int encode_whole_chat(struct prepare *p, struct request *q, const struct pin *pin,
                             size_t *ret_n)
{
    uint32_t bytes, count = ipc_chat_count(pin->chat, pin->chat_bytes) +
                            ipc_chat_count(q->input, q->r.input_bytes);
    if (count > IPC_CHAT_MESSAGES_MAX) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                    "The chat has %u messages with those of its prefix; at most %u are taken.",
                    count, IPC_CHAT_MESSAGES_MAX);
        return -EINVAL;
    }
    uint8_t *whole = ipc_chat_join(pin->chat, pin->chat_bytes, q->input, q->r.input_bytes, &bytes);
    if (!whole) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY,
                    "No memory was left for the messages.");
        return -ENOMEM;
    }
    int r = encode_chat(p, q, whole, bytes, true, ret_n);
    if (r == 0 && (*ret_n < pin->n_tokens ||
                   memcmp(p->ids, pin->tokens, pin->n_tokens * sizeof *p->ids) != 0)) {
        request_end(
            q, IPC_REASON_FAILED, IPC_CODE_UNSUPPORTED,
            "The model's chat template, a program of its own, does not begin this chat with "
            "what was pinned; send the whole conversation.");
        r = -ENOTSUP;
    }
    if (r == 0 && q->r.op == IPC_OP_PIN) {
        q->chat = whole;
        q->chat_bytes = bytes;
    } else {
        free(whole);
    }
    return r;
}

/* A prompt that its client rendered: the segments as they are. */
static int encode_segments(struct prepare *p, struct request *q, size_t *ret_n)
{
    char why[IPC_SENTENCE_MAX] = "";
    struct ipc_chat_cursor cursor = {0};
    struct ipc_part part;
    size_t n = 0, count = ipc_chat_count(q->input, q->r.input_bytes);
    struct chat_segment *segments = calloc(count, sizeof *segments);
    if (!segments) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY,
                    "No memory was left for the segments.");
        return -ENOMEM;
    }
    while (n < count && ipc_chat_next(q->input, q->r.input_bytes, &cursor, &part) == 1)
        segments[n++] = (struct chat_segment){.kind = (enum chat_kind)part.role,
                                              .offset = (size_t)(part.bytes - q->input),
                                              .length = part.length};
    int r = text_segments_encode(model_tokenizer(p->model), (const char *)q->input, segments, n,
                                 p->ids, p->n_ids_max, ret_n, why, sizeof why);
    free(segments);
    return chat_error(p, q, r, *ret_n, why);
}

static int copy_ids(struct prepare *p, struct request *q, size_t *ret_n)
{
    uint32_t n_tokens = model_shape(p->model)->n_tokens;
    size_t n = q->r.input_bytes / sizeof(uint32_t);
    if (n > p->n_ids_max)
        return encode_error(q, -ENOSPC, n, p->n_ids_max);
    memcpy(p->ids, q->input, n * sizeof *p->ids);
    for (size_t i = 0; i < n; i++) {
        if (p->ids[i] < n_tokens)
            continue;
        request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                    "Token id %u at place %zu is not in the vocabulary of %u tokens.", p->ids[i], i,
                    n_tokens);
        return -EINVAL;
    }
    *ret_n = n;
    return 0;
}

static int no_tokenizer(struct request *q)
{
    request_end(q, IPC_REASON_FAILED, IPC_CODE_UNSUPPORTED,
                "The model file has no tokenizer: only token ids can be given.");
    return -ENOTSUP;
}

/* The ids of the input into scratch. On failure the request was ended. */
static int input_ids(struct prepare *p, struct request *q, size_t *ret_n)
{
    const struct text_tokenizer *tokenizer = model_tokenizer(p->model);
    if (q->r.input == IPC_INPUT_IDS)
        return copy_ids(p, q, ret_n);
    if (!tokenizer)
        return no_tokenizer(q);
    if (q->r.input == IPC_INPUT_CHAT)
        return encode_chat(p, q, q->input, q->r.input_bytes, !q->r.prefix, ret_n);
    if (q->r.input == IPC_INPUT_SEGMENTS)
        return encode_segments(p, q, ret_n);
    int r = text_encode(tokenizer, (const char *)q->input, q->r.input_bytes,
                        q->r.flags & IPC_FLAG_SPECIAL, p->ids, p->n_ids_max, ret_n);
    return encode_error(q, r, *ret_n, p->n_ids_max);
}

/* The same after the tokens of the pinned prefix that the request goes on from, if any. */
static int prompt_ids(struct prepare *p, struct request *q, size_t *ret_n)
{
    struct prepare rest = *p;
    size_t n = 0, n_prefix = 0;
    if (q->r.prefix) {
        const struct pin *pin = pins_find(p->pins, q->r.prefix, q->client->account);
        if (!pin) {
            request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                        "User %u has no pinned prefix %llu in this model.",
                        (unsigned)q->client->account->uid, (unsigned long long)q->r.prefix);
            return -ENOENT;
        }
        if (pin->chat && q->r.input == IPC_INPUT_CHAT)
            return encode_whole_chat(p, q, pin, ret_n);
        n_prefix = pin->n_tokens; /* a context at most, for which the scratch has room */
        memcpy(p->ids, pin->tokens, n_prefix * sizeof *p->ids);
        rest.ids += n_prefix;
        rest.n_ids_max -= n_prefix;
    }
    int r = n_prefix && q->r.input_bytes == 0 ? 0 : input_ids(&rest, q, &n);
    *ret_n = n_prefix + n;
    return r;
}

static void detokenize(struct prepare *p, struct request *q, size_t n)
{
    const struct text_tokenizer *tokenizer = model_tokenizer(p->model);
    char *text;
    size_t length;
    if (!tokenizer) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_UNSUPPORTED,
                    "The model file has no tokenizer: ids cannot be turned into text.");
        return;
    }
    int r = text_decode(tokenizer, p->ids, n, q->r.flags & IPC_FLAG_SPECIAL, &text, &length);
    if (r < 0) {
        request_end(q, IPC_REASON_FAILED, r == -ENOMEM ? IPC_CODE_NO_MEMORY : IPC_CODE_INVALID,
                    r == -ENOMEM ? "No memory was left for the text."
                                 : "One of the ids is no token of the vocabulary.");
        return;
    }
    request_set_result(q, IPC_DATA_TEXT, text, length);
    request_end(q, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
}

static void tokenized(struct prepare *p, struct request *q, size_t n)
{
    uint32_t *ids = malloc(n ? n * sizeof *ids : 1);
    if (!ids) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY, "No memory was left for the ids.");
        return;
    }
    memcpy(ids, p->ids, n * sizeof *ids);
    request_set_result(q, IPC_DATA_IDS, ids, n * sizeof *ids);
    request_end(q, IPC_REASON_DONE, IPC_CODE_OK, "%s", "");
}

static struct sampler_params sampling(const struct prepare *p, const struct request *q)
{
    const struct model_sampling *d = model_sampling(p->model);
    const struct ipc_request_record *r = &q->r;
    uint32_t given = r->given;
    struct sampler_params s = {
        .temperature = given & IPC_GIVEN_TEMPERATURE ? r->temperature : d->temperature,
        .top_k = given & IPC_GIVEN_TOP_K ? r->top_k : d->top_k,
        .top_p = given & IPC_GIVEN_TOP_P ? r->top_p : d->top_p,
        .min_p = given & IPC_GIVEN_MIN_P ? r->min_p : 0,
        .repetition_penalty = given & IPC_GIVEN_REPETITION ? r->repetition : d->repetition_penalty,
        .presence_penalty = given & IPC_GIVEN_PRESENCE ? r->presence : 0,
        .frequency_penalty = given & IPC_GIVEN_FREQUENCY ? r->frequency : 0,
        .seed = r->seed,
    };
    if (!(given & IPC_GIVEN_SEED) &&
        getrandom(&s.seed, sizeof s.seed, GRND_NONBLOCK) != sizeof s.seed)
        s.seed = q->taken_us;
    return s;
}

static int make_scores(const struct prepare *p, struct sequence *s)
{
    s->sched.rows_max = p->score_rows;
    s->scores = calloc(s->n_prompt, sizeof *s->scores);
    return s->scores ? 0 : -ENOMEM;
}

/* The ids that end a sequence: the request's stop ids, at `list`, and the vocabulary's own, which
 * are only for the sampler. */
static int take_ends(struct prepare *p, struct request *q, struct sequence *s, const uint8_t *list)
{
    const struct text_tokenizer *tokenizer = model_tokenizer(p->model);

    s->params.min_tokens = q->r.min_tokens;
    s->ends = malloc(q->r.stop_id_bytes + 3 * sizeof *s->ends);
    if (!s->ends)
        return -ENOMEM;
    memcpy(s->ends, list, q->r.stop_id_bytes);
    s->n_stop_ids = s->params.n_ends = q->r.stop_id_bytes / sizeof *s->ends;
    if (tokenizer && q->r.min_tokens > 0) {
        const struct text_ids *ids = text_tokenizer_ids(tokenizer);
        const uint32_t own[] = {ids->eos, ids->im_end, ids->endoftext};
        for (size_t i = 0; i < sizeof own / sizeof *own; i++)
            if (own[i] != TEXT_NO_ID && text_is_eos(tokenizer, own[i]))
                s->ends[s->params.n_ends++] = own[i];
    }
    s->params.ends = s->ends;
    return 0;
}

/* Biases and ends: the sampling values point into the sequence. */
static int take_rules(struct prepare *p, struct request *q, struct sequence *s)
{
    const uint8_t *list =
        q->input + q->r.input_bytes + q->r.stop_bytes + q->r.model_bytes; /* not aligned */
    _Static_assert(sizeof *s->biases == sizeof(struct ipc_bias), "a bias as on the wire");

    if (q->r.bias_bytes > 0) {
        s->biases = malloc(q->r.bias_bytes);
        if (!s->biases)
            return -ENOMEM;
        memcpy(s->biases, list, q->r.bias_bytes);
        s->params.biases = s->biases;
        s->params.n_biases = q->r.bias_bytes / sizeof *s->biases;
    }
    return take_ends(p, q, s, list + q->r.bias_bytes);
}

static int make_generate(struct prepare *p, struct request *q, struct sequence *s)
{
    const struct text_tokenizer *tokenizer = model_tokenizer(p->model);
    s->params = sampling(p, q);
    int r = take_rules(p, q, s);
    if (r == 0)
        r = stop_new(&s->stop, q->input + q->r.input_bytes, q->r.stop_bytes);
    if (r < 0)
        return r;
    if ((q->r.flags & IPC_FLAG_ECHO) && s->sample == 0) {
        r = make_scores(p, s);
        if (r < 0)
            return r;
    }
    if (s->params.repetition_penalty != 1 || s->params.presence_penalty != 0 ||
        s->params.frequency_penalty != 0) {
        uint32_t n_tokens = model_shape(p->model)->n_tokens;
        r = sampler_history_new(&s->history, s->n_total < n_tokens ? s->n_total : n_tokens);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < s->n_prompt; i++)
            sampler_history_add(s->history, s->tokens[i], 0);
    }
    if (tokenizer)
        text_stream_init(&s->stream, tokenizer, false);
    return 0;
}

static int make_sequence(struct prepare *p, struct request *q, uint32_t sample, uint32_t n_prompt,
                         uint32_t n_total)
{
    struct sequence *s;
    int r = sequence_new(&s, q, sample, p->ids, n_prompt, n_total, p->page_len);
    if (r < 0)
        return r;
    if (q->r.op == IPC_OP_GENERATE) {
        r = make_generate(p, q, s);
    } else if (q->r.op == IPC_OP_SCORE) {
        r = make_scores(p, s);
    } else if (q->r.op == IPC_OP_EMBED) {
        r = embedding_prepare(s, model_shape(p->model)->d_model);
    }
    if (r < 0) {
        sequence_free(s);
        return r;
    }
    s->sched.user = &q->client->account->users[p->slot];
    s->sched.class_ = q->class_;
    s->sched.arrival_us = q->taken_us;
    s->sched.parked = request_is_parked(q);
    q->sequences[sample] = s;
    q->n_live++;
    return 0;
}

/* Whether n tokens, and one more where an answer follows, are a prompt; else the request was ended. */
static bool fits(const struct prepare *p, struct request *q, size_t n, bool generate)
{
    if (n == 0)
        request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                    "The prompt is empty: give at least one token.");
    else if (n + (generate ? 1 : 0) > p->context)
        request_end(q, IPC_REASON_FAILED, IPC_CODE_TOO_LONG,
                    "The prompt has %zu tokens, but the context holds %u%s; shorten it or start "
                    "quernd with a larger --context.",
                    n, p->context, generate ? ", the answer's included" : "");
    else
        return true;
    return false;
}

/* Frees the first n sequences of a request that was ended for want of something. */
static void unmake_sequences(struct request *q, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        sequence_free(q->sequences[i]);
    q->n_sequences = q->n_live = 0;
}

static void no_memory(struct request *q, uint32_t n_total)
{
    request_end(q, IPC_REASON_FAILED, IPC_CODE_NO_MEMORY,
                "No memory was left for a sequence of %u tokens.", n_total);
}

/* Whether all stop ids are tokens; else the request was ended. */
static bool stop_ids_known(const struct prepare *p, struct request *q)
{
    uint32_t n_tokens = model_shape(p->model)->n_tokens, id;
    const uint8_t *list =
        q->input + q->r.input_bytes + q->r.stop_bytes + q->r.model_bytes + q->r.bias_bytes;

    for (uint32_t at = 0; at < q->r.stop_id_bytes; at += (uint32_t)sizeof id) {
        memcpy(&id, list + at, sizeof id);
        if (id < n_tokens)
            continue;
        request_end(q, IPC_REASON_FAILED, IPC_CODE_INVALID,
                    "The stop id %u is not in the vocabulary of %u tokens.", id, n_tokens);
        return false;
    }
    return true;
}

static void make_sequences(struct prepare *p, struct request *q, size_t n)
{
    bool generate = q->r.op == IPC_OP_GENERATE;
    bool given = generate && (q->r.given & IPC_GIVEN_MAX_TOKENS);
    uint64_t room = p->context > n ? p->context - n : 0;
    uint64_t wanted = given ? q->r.max_tokens : generate ? PREPARE_MAX_TOKENS : 0;
    if (!fits(p, q, n, generate) || !stop_ids_known(p, q))
        return;
    if (q->r.op == IPC_OP_PIN && n / p->page_len > pins_user_max(p->pins)) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_BUSY,
                    "The prefix has %zu tokens, but one user may pin %u here; start quernd with a "
                    "larger --kv-bytes.",
                    n, pins_user_max(p->pins) * p->page_len);
        return;
    }
    if (given && wanted > room) {
        request_end(q, IPC_REASON_FAILED, IPC_CODE_TOO_LONG,
                    "The prompt has %zu tokens and max_tokens is %u, but the context holds %u "
                    "together; ask for at most %u.",
                    n, q->r.max_tokens, p->context, (unsigned)room);
        return;
    }
    uint32_t n_total = (uint32_t)(n + (wanted < room ? wanted : room));
    uint32_t n_samples = generate && q->r.samples > 1 ? q->r.samples : 1;
    q->final.u.final.prompt_tokens = (uint32_t)n;
    q->sequences = calloc(n_samples, sizeof *q->sequences);
    if (q->sequences)
        q->n_sequences = n_samples;
    for (uint32_t i = 0; i < n_samples; i++) {
        if (q->sequences && make_sequence(p, q, i, (uint32_t)n, n_total) == 0)
            continue;
        no_memory(q, n_total);
        unmake_sequences(q, i);
        return;
    }
}

/* The ids of text number i of a request for embeddings, to scratch; any input is text number 0. */
static int embedding_ids(struct prepare *p, struct request *q, struct ipc_chat_cursor *cursor,
                         size_t *ret_n)
{
    struct ipc_part part;
    if (q->r.input != IPC_INPUT_TEXTS)
        return input_ids(p, q, ret_n);
    ipc_chat_next(q->input, q->r.input_bytes, cursor, &part);
    int r = text_encode(model_tokenizer(p->model), (const char *)part.bytes, part.length,
                        q->r.flags & IPC_FLAG_SPECIAL, p->ids, p->n_ids_max, ret_n);
    return encode_error(q, r, *ret_n, p->n_ids_max);
}

/* One sequence for each text; their vectors get one block of memory. */
static void make_embeddings(struct prepare *p, struct request *q)
{
    bool texts = q->r.input == IPC_INPUT_TEXTS;
    uint32_t count = texts ? ipc_chat_count(q->input, q->r.input_bytes) : 1;
    struct ipc_chat_cursor cursor = {0};
    if (texts && !model_tokenizer(p->model)) {
        no_tokenizer(q);
        return;
    }
    q->result = calloc((size_t)count * model_shape(p->model)->d_model, sizeof(float));
    q->sequences = calloc(count, sizeof *q->sequences);
    if (!q->result || !q->sequences) {
        no_memory(q, count);
        return;
    }
    q->n_sequences = count;
    for (uint32_t i = 0; i < count; i++) {
        size_t n = 0;
        bool ok = embedding_ids(p, q, &cursor, &n) == 0 && fits(p, q, n, false);
        if (ok && make_sequence(p, q, i, (uint32_t)n, (uint32_t)n) == 0) {
            q->final.u.final.prompt_tokens += (uint32_t)n;
            continue;
        }
        if (ok)
            no_memory(q, (uint32_t)n);
        unmake_sequences(q, i);
        return;
    }
}

void prepare_request(struct prepare *prepare, struct request *request)
{
    struct prepare *p = prepare;
    struct request *q = request;
    size_t n = 0;

    if (q->r.op == IPC_OP_EMBED)
        make_embeddings(p, q);
    else if (prompt_ids(p, q, &n) == 0) {
        q->final.u.final.prompt_tokens = (uint32_t)n;
        if (q->r.op == IPC_OP_TOKENIZE)
            tokenized(p, q, n);
        else if (q->r.op == IPC_OP_DETOKENIZE)
            detokenize(p, q, n);
        else
            make_sequences(p, q, n);
    }
    q->prepared = true;
    if (p->chat.program && q->r.op == IPC_OP_PIN && q->r.input == IPC_INPUT_CHAT && !q->r.prefix) {
        q->chat = q->input; /* the span begins with it */
        q->chat_bytes = q->r.input_bytes;
    } else {
        free(q->input);
    }
    q->input = NULL;
}

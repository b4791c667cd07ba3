/* What the originals do, through the ring, with the shipped model: prompts as segments, echo, least and
 * banned tokens, alternatives, embeddings. */
#include "chat/render.h"
#include "client/quern.h"
#include "tests/support/quernd.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BYTES_MAX = 1 << 20, TOKENS_MAX = 600 };

static struct quernd service;
static quern *q;

/* ---- an answer, collected ------------------------------------------------------------------ */

static struct answer {
    uint32_t tokens[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    size_t n;
    struct quern_score top[TOKENS_MAX][20];
    size_t n_top[TOKENS_MAX];
    char data[BYTES_MAX]; /* ids, scores or floats */
    size_t n_data, n_data_before_tokens;
    struct quern_result result;
} answer, other;

static int take(void *arg, const struct quern_event *event)
{
    struct answer *a = arg;
    if (event->type == QUERN_EVENT_TOKEN) {
        a->tokens[a->n] = event->u.token.token;
        a->logprobs[a->n++] = event->u.token.logprob;
    } else if (event->type == QUERN_EVENT_DATA && event->u.data.kind == QUERN_DATA_LOGPROBS) {
        memcpy(a->top[a->n - 1], event->data, event->data_size);
        a->n_top[a->n - 1] = event->data_size / sizeof a->top[0][0];
    } else if (event->type == QUERN_EVENT_DATA) {
        assert_int_equal(event->u.data.index, a->n_data);
        memcpy(a->data + a->n_data, event->data, event->data_size);
        a->n_data += event->data_size;
        if (a->n == 0)
            a->n_data_before_tokens = a->n_data;
    }
    return 0;
}

static void ask(const struct quern_request *r, struct answer *a)
{
    memset(a, 0, sizeof *a);
    if (quern_generate(q, r, take, a, &a->result) < 0)
        fail_msg("%s", quern_error(q));
}

static void ask_well(const struct quern_request *r, struct answer *a)
{
    ask(r, a);
    if (a->result.final_.code != QUERN_CODE_OK)
        fail_msg("%s", a->result.sentence);
}

static struct quern_request request(enum quern_op op)
{
    struct quern_request r;
    quern_request_init(&r);
    r.op = op;
    if (op == QUERN_OP_GENERATE) {
        r.given = QUERN_GIVEN_TEMPERATURE | QUERN_GIVEN_MAX_TOKENS;
        r.max_tokens = 24;
    }
    return r;
}

static void set_text(struct quern_request *r, const char *text)
{
    r->kind = QUERN_INPUT_TEXT;
    r->input = text;
    r->input_size = strlen(text);
}

/* ---- prompts ------------------------------------------------------------------------------- */

/* A prompt that its client renders is the one that the service renders. */
static void segments_are_the_chat(void **state)
{
    (void)state;
    const struct chat_message talk[] = {
        {.role = {"user", 4}, .content = {"\nlist files <|im_end|>", 21}},
        {.role = {"assistant", 9}, .content = {"ls", 2}},
        {.role = {"tool", 4}, .content = {"a b <tool_call>", 15}},
        {.role = {"user", 4}, .content = {"再见", 6}},
    };
    const enum quern_role roles[] = {QUERN_ROLE_USER, QUERN_ROLE_ASSISTANT, QUERN_ROLE_TOOL,
                                     QUERN_ROLE_USER};
    const struct chat_conversation conversation = {.messages = talk, .n_messages = 4};
    const struct chat_options options = {0};
    struct quern_message messages[4];
    struct quern_segment segments[64];
    struct chat_prompt prompt = {0};
    char why[256];

    for (size_t i = 0; i < 4; i++)
        messages[i] = (struct quern_message){roles[i], talk[i].content.s, talk[i].content.len};
    struct quern_request r = request(QUERN_OP_TOKENIZE);
    r.kind = QUERN_INPUT_CHAT;
    r.messages = messages;
    r.n_messages = 4;
    ask_well(&r, &answer);

    assert_int_equal(
        chat_render(&prompt, CHAT_QWEN2, &conversation, &options, NULL, why, sizeof why), 0);
    assert_true(prompt.n < 64);
    for (size_t i = 0; i < prompt.n; i++)
        segments[i] = (struct quern_segment){(enum quern_segment_kind)prompt.segments[i].kind,
                                             prompt.text.s + prompt.segments[i].offset,
                                             prompt.segments[i].length};
    r.kind = QUERN_INPUT_SEGMENTS;
    r.segments = segments;
    r.n_segments = prompt.n;
    ask_well(&r, &other);
    assert_true(answer.n_data > 100);
    assert_int_equal(answer.n_data, other.n_data);
    assert_memory_equal(answer.data, other.data, answer.n_data);

    segments[0] = (struct quern_segment){QUERN_SEGMENT_CONTROL, "<|no_such|>", 11};
    ask(&r, &answer);
    assert_int_equal(answer.result.final_.code, QUERN_CODE_UNSUPPORTED);
    assert_non_null(strstr(answer.result.sentence, "<|no_such|>"));
    chat_prompt_done(&prompt);
}

/* ---- log probabilities --------------------------------------------------------------------- */

static void echo_gives_the_scores_first(void **state)
{
    (void)state;
    struct quern_request r = request(QUERN_OP_SCORE);
    set_text(&r, "Compress a file and keep the original, then list what the archive holds:");
    ask_well(&r, &other);
    r = request(QUERN_OP_GENERATE);
    set_text(&r, "Compress a file and keep the original, then list what the archive holds:");
    static struct answer plain;
    ask_well(&r, &plain);
    r.flags = QUERN_ECHO;
    for (int again = 0; again < 2; again++) { /* also where the prompt is in the prefix cache */
        ask_well(&r, &answer);
        assert_int_equal(answer.n_data_before_tokens, other.n_data);
        assert_int_equal(answer.n_data, other.n_data);
        assert_memory_equal(answer.data, other.data, other.n_data);
        assert_int_equal(answer.n, plain.n);
        assert_memory_equal(answer.tokens, plain.tokens, plain.n * sizeof *plain.tokens);
        assert_memory_equal(answer.logprobs, plain.logprobs, plain.n * sizeof *plain.logprobs);
    }
    r.samples = 3; /* once, not for each answer */
    ask_well(&r, &answer);
    assert_int_equal(answer.n_data, other.n_data);
}

static void alternatives_are_sorted_and_hold_the_chosen(void **state)
{
    (void)state;
    struct quern_request r = request(QUERN_OP_GENERATE);
    set_text(&r, "Show the size of");
    r.given |= QUERN_GIVEN_REPETITION;
    r.repetition = 1;
    r.n_logprobs = 20;
    ask_well(&r, &answer);
    assert_true(answer.n > 0);
    for (size_t i = 0; i < answer.n; i++) {
        double sum = 0;
        assert_int_equal(answer.n_top[i], 20);
        assert_int_equal(answer.top[i][0].token, answer.tokens[i]); /* greedy */
        assert_memory_equal(&answer.top[i][0].logprob, &answer.logprobs[i], sizeof(float));
        for (size_t k = 0; k < 20; k++) {
            assert_true(k == 0 || answer.top[i][k].logprob <= answer.top[i][k - 1].logprob);
            sum += exp(answer.top[i][k].logprob);
        }
        assert_true(sum > 0.05 && sum < 1 + 1e-5);
    }
}

/* ---- what may be drawn --------------------------------------------------------------------- */

static uint32_t token_of(const char *text)
{
    struct quern_request r = request(QUERN_OP_TOKENIZE);
    uint32_t id;
    set_text(&r, text);
    r.flags = QUERN_SPECIAL;
    ask_well(&r, &other);
    assert_int_equal(other.n_data, sizeof id);
    memcpy(&id, other.data, sizeof id);
    return id;
}

static void no_end_before_the_least_number_of_tokens(void **state)
{
    (void)state;
    const struct quern_bias end = {token_of("<|im_end|>"), 100};
    struct quern_request r = request(QUERN_OP_GENERATE);
    set_text(&r, "tar is");
    r.biases = &end;
    r.n_biases = 1;
    ask_well(&r, &answer);
    assert_int_equal(answer.result.final_.reason, QUERN_REASON_EOS);
    assert_int_equal(answer.n, 1);
    r.given |= QUERN_GIVEN_MIN_TOKENS;
    r.min_tokens = 5;
    ask_well(&r, &answer);
    assert_int_equal(answer.result.final_.reason, QUERN_REASON_EOS);
    assert_int_equal(answer.n, 6);
    for (size_t i = 0; i < 5; i++)
        assert_int_not_equal(answer.tokens[i], end.token);
}

/* The answer without the tokens of the answer: given in any order, and each of them stays away. */
static void banned_tokens_stay_away(void **state)
{
    (void)state;
    struct quern_request r = request(QUERN_OP_GENERATE);
    struct quern_bias biases[24];
    size_t n = 0;
    set_text(&r, "Show the size of");
    ask_well(&r, &answer);
    for (size_t i = answer.n; i-- > 0;) {
        bool known = false;
        for (size_t k = 0; k < n; k++)
            known = known || biases[k].token == answer.tokens[i];
        if (!known)
            biases[n++] = (struct quern_bias){answer.tokens[i], -INFINITY};
    }
    r.biases = biases;
    r.n_biases = n;
    ask_well(&r, &other);
    assert_true(other.n > 0);
    for (size_t i = 0; i < other.n; i++)
        for (size_t k = 0; k < n; k++)
            assert_int_not_equal(other.tokens[i], biases[k].token);

    uint64_t id;
    biases[1] = biases[0];
    r.n_biases = 2;
    assert_true(quern_submit(q, &r, &id) < 0); /* twice the same */
    assert_non_null(strstr(quern_error(q), "order"));
}

/* ---- embeddings ---------------------------------------------------------------------------- */

static size_t width;

static void embed_texts(const char *const *texts, size_t n, uint32_t flags, float *ret)
{
    struct quern_request r = request(QUERN_OP_EMBED);
    struct quern_segment segments[64];
    for (size_t i = 0; i < n; i++)
        segments[i] = (struct quern_segment){QUERN_SEGMENT_TEXT, texts[i], strlen(texts[i])};
    r.kind = QUERN_INPUT_TEXTS;
    r.segments = segments;
    r.n_segments = n;
    r.flags = flags;
    ask_well(&r, &answer);
    width = answer.n_data / n / sizeof(float);
    assert_int_equal(answer.n_data, n * width * sizeof(float));
    memcpy(ret, answer.data, answer.n_data);
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < width; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* The mean is that of the last positions of every beginning of the text. */
static void the_mean_is_over_all_positions(void **state)
{
    (void)state;
    static float mean[4096], last[4096];
    static double sum[4096];
    uint32_t ids[200];
    struct quern_request r = request(QUERN_OP_TOKENIZE);
    set_text(&r, "Extract an archive into a folder.");
    ask_well(&r, &answer);
    size_t n = answer.n_data / sizeof *ids;
    assert_true(n >= 5 && n < 200);
    memcpy(ids, answer.data, answer.n_data);
    r = request(QUERN_OP_EMBED);
    r.kind = QUERN_INPUT_IDS;
    r.ids = ids;
    for (size_t i = 1; i <= n; i++) {
        r.n_ids = i;
        ask_well(&r, &answer);
        width = answer.n_data / sizeof(float);
        assert_true(width <= 4096);
        memcpy(last, answer.data, answer.n_data);
        for (size_t k = 0; k < width; k++)
            sum[k] += last[k];
    }
    r.flags = QUERN_MEAN;
    ask_well(&r, &answer);
    memcpy(mean, answer.data, answer.n_data);
    for (size_t k = 0; k < width; k++)
        assert_true(fabs(mean[k] - sum[k] / (double)n) <= 1e-6 * (1 + fabs(sum[k])));
}

static void a_batch_is_each_alone_and_length_is_one(void **state)
{
    (void)state;
    static float all[3 * 4096], one[4096];
    const char *const texts[] = {"Delete a branch.", "git", "圧縮ファイルを展開する。 Extract it."};
    for (uint32_t flags = 0; flags <= (QUERN_MEAN | QUERN_NORMALIZE); flags += QUERN_MEAN) {
        embed_texts(texts, 3, flags, all);
        assert_true(width <= 4096);
        for (size_t i = 0; i < 3; i++) {
            embed_texts(&texts[i], 1, flags, one);
            assert_memory_equal(one, all + i * width, width * sizeof(float));
            double length = sqrt(dot(one, one));
            assert_true(flags & QUERN_NORMALIZE ? fabs(length - 1) < 1e-5 : fabs(length - 1) > 0.1);
        }
    }
}

/* Texts about the same thing are nearer to each other than to the others. */
static void like_is_near_like(void **state)
{
    (void)state;
    static const char *const pairs[] = {
        "Create a zip archive from files.",
        "Compress files into a zip archive.",
        "Delete a branch in git.",
        "Remove a local git branch.",
        "Show the IP address of the machine.",
        "Display network addresses of this host.",
        "Print the first lines of a file.",
        "Show the first 10 lines of a file.",
        "Change the password of a user.",
        "Set a new password for a user.",
        "Convert a video to another format.",
        "Convert an audio file to another format.",
        "List running Docker containers.",
        "Show all running containers.",
        "Stop a systemd service.",
        "Restart a systemd service.",
    };
    enum { N = sizeof pairs / sizeof *pairs };
    static float vectors[N * 4096];
    embed_texts(pairs, N, QUERN_MEAN | QUERN_NORMALIZE, vectors);
    double mean[4096] = {0};
    for (size_t i = 0; i < N; i++) /* without what all have in common */
        for (size_t k = 0; k < width; k++)
            mean[k] += vectors[i * width + k] / N;
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < width; k++)
            vectors[i * width + k] -= (float)mean[k];
    double like = 0, unlike = 0;
    int n_nearest = 0;
    for (size_t i = 0; i < N; i++) {
        const float *a = vectors + i * width;
        size_t best = N;
        double best_cosine = -2;
        for (size_t j = 0; j < N; j++) {
            const float *b = vectors + j * width;
            double cosine = dot(a, b) / sqrt(dot(a, a) * dot(b, b));
            if (j == (i ^ 1))
                like += cosine / N;
            else if (j != i)
                unlike += cosine / (N * (N - 2));
            if (j != i && cosine > best_cosine) {
                best_cosine = cosine;
                best = j;
            }
        }
        n_nearest += best == (i ^ 1);
    }
    print_message(
        "cosine of like texts %.3f, of others %.3f; the like one is nearest %d of %d times\n", like,
        unlike, n_nearest, N);
    assert_true(like > unlike + 0.1);
    assert_true(n_nearest >= N / 4); /* by chance 1 in 15 */
}

static int start(void **state)
{
    (void)state;
    quernd_prepare(&service, (const char *const[]){"--shape", "tiny", NULL});
    snprintf(service.model, sizeof service.model, "models/quern-tldr.gguf");
    quernd_start(&service, (const char *const[]){"--context", "512", "--threads", "2", NULL});
    return quern_connect(&q, service.socket);
}

static int stop(void **state)
{
    (void)state;
    quern_close(q);
    int status = quernd_stop(&service);
    quernd_remove(&service);
    return status;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_are_the_chat),
        cmocka_unit_test(echo_gives_the_scores_first),
        cmocka_unit_test(alternatives_are_sorted_and_hold_the_chosen),
        cmocka_unit_test(no_end_before_the_least_number_of_tokens),
        cmocka_unit_test(banned_tokens_stay_away),
        cmocka_unit_test(the_mean_is_over_all_positions),
        cmocka_unit_test(a_batch_is_each_alone_and_length_is_one),
        cmocka_unit_test(like_is_near_like),
    };
    return cmocka_run_group_tests(tests, start, stop);
}

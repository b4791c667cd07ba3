/* `quernd perplexity` against the double-precision pass, on the shipped model: the windows, the
 * counting and the logarithms are done here once more, from the definition. F32 weights and cache
 * must agree to the rounding of float32; the shipped Q8_0 file, whose activations are rounded to 8
 * bits, within TOLERANCE_Q8. */
#define _GNU_SOURCE
#include "svc/text/tokenizer.h"
#include "tests/support/reference.h"
#include "tests/support/vocab.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SHIPPED       "models/quern-tldr.gguf"
#define TOLERANCE_F32 2e-5 /* of the mean, in nats */
#define TOLERANCE_Q8  0.05

enum { WINDOW = 24, STRIDE = 10, MERGES = 7933, TOKENS_MAX = 256 };

static const char text[] =
    "Find files by extension: find . -name '*.c'\nCount lines in a file: wc -l path/to/file\n"
    "Extract an archive: tar xf archive.tar.gz\nGr\xc3\xbc\xc3\x9f"
    "e: 42\n";
static const char request[] = "Count the lines in a file", answer[] = "wc --lines path/to/file";

struct fixture {
    char folder[64], f32[96];
    const char *quernd;
    struct text_tokenizer *tokenizer;
    struct reference *reference;
};

static void write_file(const char *path, const char *content)
{
    FILE *file = fopen(path, "wbe");
    assert_non_null(file);
    assert_int_equal(fputs(content, file) < 0, 0);
    assert_int_equal(fclose(file), 0);
}

/* Runs quernd with these arguments; the numbers of its line of JSON. */
static void perplexity(const struct fixture *f, const char *arguments, double *ret_nll,
                       unsigned *ret_scored)
{
    char *command;
    char line[512];
    double p;
    assert_true(asprintf(&command, "%s perplexity --json --threads 2 %s", f->quernd, arguments) >
                0);
    FILE *out = popen(command, "re");
    assert_non_null(out);
    assert_non_null(fgets(line, sizeof line, out));
    assert_int_equal(pclose(out), 0);
    assert_int_equal(
        sscanf(line, "{\"perplexity\": %lf, \"nll\": %lf, \"scored\": %u", &p, ret_nll, ret_scored),
        3);
    assert_true(fabs(p - exp(*ret_nll)) < 1e-3);
    free(command);
}

/* −log p of tokens [first, n) of a window, in double precision */
static double window_nll(const struct fixture *f, const uint32_t *tokens, size_t n, size_t first)
{
    size_t n_vocab = reference_n_vocab(f->reference);
    double *logits = malloc(n * n_vocab * sizeof *logits), total = 0;
    assert_non_null(logits);
    reference_logits(f->reference, tokens, n, logits);
    for (size_t t = first; t < n; t++) {
        const double *row = logits + (t - 1) * n_vocab;
        double max = -INFINITY, sum = 0;
        for (size_t i = 0; i < n_vocab; i++)
            max = fmax(max, row[i]);
        for (size_t i = 0; i < n_vocab; i++)
            sum += exp(row[i] - max);
        total += max + log(sum) - row[tokens[t]];
    }
    free(logits);
    return total;
}

static void check(const struct fixture *f, const char *form, double nll, unsigned scored)
{
    const struct {
        const char *model;
        double tolerance;
    } files[] = {{f->f32, TOLERANCE_F32}, {SHIPPED, TOLERANCE_Q8}};
    for (int i = 0; i < 2; i++) {
        char *arguments;
        double got;
        unsigned n;
        assert_true(asprintf(&arguments, "--kv f32 --model %s %s", files[i].model, form) > 0);
        perplexity(f, arguments, &got, &n);
        print_message("%s: %.6f, in double precision %.6f\n", arguments, got, nll);
        assert_int_equal(n, scored);
        assert_true(fabs(got - nll) < files[i].tolerance);
        free(arguments);
    }
}

static void windows_of_a_text(void **state)
{
    const struct fixture *f = *state;
    uint32_t tokens[TOKENS_MAX];
    size_t n, scored_to = 1;
    double sum = 0;
    assert_int_equal(text_encode(f->tokenizer, text, strlen(text), false, tokens, TOKENS_MAX, &n),
                     0);
    assert_true(n > 2 * WINDOW);
    for (size_t begin = 0; scored_to < n; begin += STRIDE) {
        size_t end = begin + WINDOW < n ? begin + WINDOW : n;
        sum += window_nll(f, tokens + begin, end - begin, scored_to - begin);
        scored_to = end;
    }
    char path[128], form[256];
    snprintf(path, sizeof path, "%s/text", f->folder);
    write_file(path, text);
    snprintf(form, sizeof form, "--text %s --window %d --stride %d", path, WINDOW, STRIDE);
    check(f, form, sum / (double)(n - 1), (unsigned)n - 1);
    unlink(path);
}

static void answer_of_a_chat(void **state)
{
    const struct fixture *f = *state;
    uint32_t tokens[TOKENS_MAX];
    size_t n_prompt, n;
    char prompt[512], whole[640], path[128], form[256], line[256];
    snprintf(prompt, sizeof prompt,
             "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n%s"
             "<|im_end|>\n<|im_start|>assistant\n",
             request);
    snprintf(whole, sizeof whole, "%s%s<|im_end|>", prompt, answer);
    assert_int_equal(
        text_encode(f->tokenizer, prompt, strlen(prompt), true, tokens, TOKENS_MAX, &n_prompt), 0);
    assert_int_equal(text_encode(f->tokenizer, whole, strlen(whole), true, tokens, TOKENS_MAX, &n),
                     0);
    snprintf(path, sizeof path, "%s/chat", f->folder);
    snprintf(line, sizeof line, "%s\t%s\n", request, answer);
    write_file(path, line);
    snprintf(form, sizeof form, "--chat %s", path);
    check(f, form, window_nll(f, tokens, n, n_prompt) / (double)(n - n_prompt),
          (unsigned)(n - n_prompt));
    unlink(path);
}

static int set_up(void **state)
{
    static struct fixture f = {.folder = "/tmp/quern-perplexity.XXXXXX"};
    static char quernd[256];
    const char *build = getenv("BUILD");
    struct vocab_file vocabulary;
    char *command, why[256];
    snprintf(quernd, sizeof quernd, "%s/quernd", build ? build : "build");
    f.quernd = quernd;
    if (!mkdtemp(f.folder))
        return -1;
    snprintf(f.f32, sizeof f.f32, "%s/f32.gguf", f.folder);
    if (asprintf(&command, "%s quantize %s %s f32", quernd, SHIPPED, f.f32) < 0)
        return -1;
    int r = system(command);
    free(command);
    if (r || vocab_file_load(&vocabulary, VOCAB_FILE_QWEN2, MERGES) ||
        text_tokenizer_new(&f.tokenizer, &vocabulary.source, why, sizeof why))
        return -1;
    vocab_file_done(&vocabulary);
    f.reference = reference_new(f.f32);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    reference_free(f->reference);
    text_tokenizer_free(f->tokenizer);
    unlink(f->f32);
    return rmdir(f->folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_of_a_text),
        cmocka_unit_test(answer_of_a_chat),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* How fast text becomes tokens, with Qwen2's real vocabulary, on one core.
 *
 * usage: tokenizer_bench [FILE...]
 *        tokenizer_bench --ids FILE     the ids of the text, on a line
 *        tokenizer_bench --rows FILE    the ids of each line of it, on a line each
 *
 * One line a file: bytes, tokens, and megabytes a second, the median of RUNS (CPU time of the thread,
 * so that a busy machine counts less). Without files: this project's own pages and sources, and the
 * golden lines by language, which are short and so read from warm caches; give real texts to know.
 * The yardstick: `peer_llama tokenize VOCAB.gguf <FILE` prints the same figure for llama.cpp. */
#include "svc/text/tokenizer.h"
#include "tests/support/vocab.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS    9
#define GOLDEN  "tests/golden/tokenizer/texts.tsv"
#define ROOM_MB 64

static double cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void measure(const struct text_tokenizer *t, const char *name, const char *text, size_t n)
{
    uint32_t *ids = malloc(sizeof *ids * (n + 1));
    double rates[RUNS];
    size_t n_ids = 0;

    for (unsigned run = 0; run < RUNS; run++) {
        double start = cpu_s();
        int r = text_encode(t, text, n, false, ids, n, &n_ids);
        rates[run] = (double)n / 1e6 / (cpu_s() - start);
        if (r < 0) {
            printf("%-24s %s\n", name, strerror(-r));
            goto free_ids;
        }
    }
    qsort(rates, RUNS, sizeof *rates, by_value);
    printf("%-24s %9zu bytes %8zu tokens %7.1f MB/s\n", name, n, n_ids, rates[RUNS / 2]);
free_ids:
    free(ids);
}

/* Appends a file to the text; what does not fit is left out. */
static size_t append(char *text, size_t used, const char *path)
{
    FILE *f = fopen(path, "rb");

    if (!f) {
        perror(path);
        exit(1);
    }
    used += fread(text + used, 1, ((size_t)ROOM_MB << 20) - used, f);
    fclose(f);
    return used;
}

static void golden_by_language(const struct text_tokenizer *t, char *text)
{
    char *all = malloc((size_t)1 << 20), name[16] = "", *line, *rest = all;
    size_t n = 0, used = append(all, 0, GOLDEN);

    all[used] = '\0';
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *tab = strchr(line, '\t');
        if (n > 0 && (!tab || strncmp(name, line, (size_t)(tab - line) + 1) != 0)) {
            name[strcspn(name, "\t")] = '\0';
            measure(t, name, text, n);
            n = 0;
        }
        if (!tab)
            break;
        snprintf(name, sizeof name, "%.*s\t", (int)(tab - line), line);
        n += (size_t)sprintf(text + n, "%s\n", tab + 1);
    }
    free(all);
}

/* Prints the ids of a text, or of each of its lines without the line's end. */
static int print_ids(const struct text_tokenizer *t, const char *text, size_t n, bool by_line)
{
    uint32_t *ids = malloc(sizeof *ids * (n + 1));

    for (size_t begin = 0; ids && begin < n;) {
        const char *end = by_line ? memchr(text + begin, '\n', n - begin) : NULL;
        size_t len = end ? (size_t)(end - text) - begin : n - begin, n_ids = 0;
        int r = text_encode(t, text + begin, len, false, ids, n, &n_ids);
        if (r < 0) {
            free(ids);
            return 1;
        }
        for (size_t i = 0; i < n_ids; i++)
            printf(i ? " %u" : "%u", ids[i]);
        putchar('\n');
        begin += len + 1;
    }
    free(ids);
    return 0;
}

int main(int argc, char **argv)
{
    struct text_tokenizer *t = vocab_tokenizer();
    char *text = malloc((size_t)ROOM_MB << 20);

    if (!text)
        return 1;
    if (argc == 3 && strncmp(argv[1], "--", 2) == 0) {
        size_t n = append(text, 0, argv[2]);
        int r = print_ids(t, text, n, strcmp(argv[1], "--rows") == 0);
        free(text);
        text_tokenizer_free(t);
        return r;
    }
    for (int i = 1; i < argc; i++) {
        const char *slash = strrchr(argv[i], '/');
        measure(t, slash ? slash + 1 : argv[i], text, append(text, 0, argv[i]));
    }
    if (argc == 1) {
        size_t n = append(text, 0, "docs/design.md");
        measure(t, "docs/design.md", text, n);
        n = append(text, 0, "svc/text/bpe.c");
        n = append(text, n, "svc/text/tokenizer.c");
        measure(t, "svc/text", text, n);
        golden_by_language(t, text);
    }
    free(text);
    text_tokenizer_free(t);
    return 0;
}

/* Owns: the temporary folder of generated models, and the steps to run one. */
#define _GNU_SOURCE /* asprintf */
#include "tests/support/toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES_MAX 128

static char folder[] = "/tmp/quern-toy-XXXXXX";
static struct {
    char *arguments, *path;
} files[FILES_MAX];
static unsigned n_files;

static void fail(const char *what)
{
    fprintf(stderr, "toy model: %s\n", what);
    exit(1);
}

static void remove_files(void)
{
    for (unsigned i = 0; i < n_files; i++) {
        unlink(files[i].path);
        free(files[i].path);
        free(files[i].arguments);
    }
    rmdir(folder);
}

static unsigned new_file(const char *arguments, const char *name)
{
    if (n_files == FILES_MAX)
        fail("too many files");
    if (n_files == 0) {
        if (!mkdtemp(folder))
            fail("no temporary folder");
        atexit(remove_files);
    }
    files[n_files].arguments = strdup(arguments);
    if (asprintf(&files[n_files].path, "%s/%s", folder, name) < 0 || !files[n_files].arguments)
        fail("no memory");
    return n_files++;
}

const char *toy_path(const char *name)
{
    for (unsigned i = 0; i < n_files; i++)
        if (strcmp(strrchr(files[i].path, '/') + 1, name) == 0)
            return files[i].path;
    return files[new_file("", name)].path;
}

const char *toy_file(const char *arguments)
{
    for (unsigned i = 0; i < n_files; i++)
        if (*files[i].arguments && strcmp(files[i].arguments, arguments) == 0)
            return files[i].path;
    char name[32];
    snprintf(name, sizeof name, "toy-%u.gguf", n_files);
    unsigned file = new_file(arguments, name);
    const char *build = getenv("BUILD");
    char *command;
    if (asprintf(&command, "'%s/tests/tools/make-model' %s '%s'", build ? build : "build",
                 arguments, files[file].path) < 0)
        fail("no memory");
    if (system(command) != 0)
        fail(command);
    free(command);
    return files[file].path;
}

void toy_open(struct toy *ret, const char *path, unsigned n_threads, enum ops_kv_type kv_type,
              uint32_t n_context, uint32_t n_sequences, uint32_t chunk)
{
    char why[512] = "";
    struct toy toy = {0};
    const struct ops_pool_options pool = {.n_threads = n_threads, .no_pinning = 1};
    const struct model_options options = {
        .huge_pages = MM_HUGE_OFF, .n_context = n_context, .kv_type = kv_type};
    toy.pages_per_sequence = (n_context + OPS_KV_PAGE - 1) / OPS_KV_PAGE;
    uint32_t n_pages = toy.pages_per_sequence * n_sequences;
    if (ops_pool_new(&toy.pool, &pool) < 0 ||
        model_load(&toy.model, path, &options, toy.pool, why, sizeof why) < 0)
        fail(*why ? why : "cannot be loaded");
    if (mm_kv_new(&toy.kv, n_pages, model_shape(toy.model)->n_layers,
                  forward_kv_slice_bytes(toy.model, kv_type), MM_HUGE_OFF, why, sizeof why) < 0 ||
        forward_new(&toy.forward, toy.model, toy.pool, toy.kv, kv_type, chunk, n_context) < 0)
        fail("no scratch");
    toy.pages = calloc(n_pages, sizeof *toy.pages);
    if (!toy.pages)
        fail("no memory");
    /* Sequences take pages in turn, so that no sequence's pages lie side by side. */
    for (uint32_t p = 0; p < toy.pages_per_sequence; p++)
        for (uint32_t s = 0; s < n_sequences; s++)
            toy.pages[s * toy.pages_per_sequence + p] = mm_kv_take(toy.kv);
    toy.n_vocab = model_shape(toy.model)->n_vocab;
    *ret = toy;
}

void toy_close(struct toy *toy)
{
    forward_free(toy->forward);
    mm_kv_free(toy->kv);
    model_free(toy->model);
    ops_pool_free(toy->pool);
    free(toy->pages);
}

void toy_run(struct toy *toy, uint32_t sequence, const uint32_t *tokens, uint32_t n, uint32_t chunk,
             float *logits)
{
    for (uint32_t done = 0; done < n;) {
        uint32_t step = n - done < chunk ? n - done : chunk;
        struct forward_span span = {
            .tokens = tokens + done,
            .n_tokens = step,
            .first_position = done,
            .pages = toy->pages + sequence * toy->pages_per_sequence,
            .n_logits = step,
            .logits = logits + (size_t)done * toy->n_vocab,
        };
        if (forward_run(toy->forward, &span, 1, NULL) < 0 || span.error)
            fail("the forward pass failed");
        done += step;
    }
}

void toy_tokens(uint32_t *tokens, uint32_t n, uint32_t n_vocab, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        tokens[i] = (state >> 8) % n_vocab;
    }
}

/* quernd pool: how many huge pages of 2 MiB the configuration asks for. quern-hugepages.service
 * reserves them before the service starts. Reads the metadata of the models only. */
#include "ops/attention.h"
#include "svc/cmd/cmd.h"
#include "svc/model/gguf.h"
#include "svc/model/shape.h"
#include "svc/model/weights.h"
#include "svc/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PAGE_SHIFT = 21, CONTEXT_DEFAULT = 8192, CONTEXTS_DEFAULT = 4 };

static const char help[] =
    "usage: quernd pool [--required] [--config FILE] [OPTION…]\n"
    "  Prints how many huge pages of 2 MiB huge-page-pool asks for: what weights and KV cache "
    "need\n"
    "  (auto), a size, or 0 (off, or no huge pages). --required prints nothing, and fails where\n"
    "  the service also does without them.\n";

/* Bytes of weights and KV cache, as load.c will ask for them; the cache at most a quarter of the
 * machine for all models that ask for no number. */
static int bytes_needed(const struct options_model *o, uint64_t quarter, uint64_t *ret, char *why,
                        size_t why_size)
{
    struct gguf *gguf;
    struct model_shape shape;
    struct model_weights weights = {0};
    int r = gguf_open(&gguf, o->path, why, why_size);
    if (r < 0)
        return r;
    r = model_shape_read(&shape, gguf, why, why_size);
    if (r == 0)
        r = model_weights_plan(&weights, gguf, &shape, why, why_size);
    if (r == 0) {
        const struct ops_attention_shape kv = {shape.n_heads, shape.n_kv_heads, shape.head_dim,
                                               o->kv_type};
        const uint64_t trained = shape.context_length ? shape.context_length : CONTEXT_DEFAULT;
        const uint64_t context = o->context                  ? o->context
                                 : trained < CONTEXT_DEFAULT ? trained
                                                             : CONTEXT_DEFAULT;
        const uint64_t page = (uint64_t)ops_kv_page_bytes(&kv) * shape.n_layers;
        uint64_t cache = CONTEXTS_DEFAULT * page * ((context + OPS_KV_PAGE - 1) / OPS_KV_PAGE);
        cache = o->kv_bytes ? o->kv_bytes : cache < quarter ? cache : quarter;
        *ret = weights.arena_bytes + cache;
    }
    model_weights_done(&weights);
    gguf_free(gguf);
    return r;
}

/* Huge pages for all models. Weights and cache are arenas of their own, each of whole pages. */
static int pages_needed(const struct options *o, uint64_t *ret, char *why, size_t why_size)
{
    uint64_t n_default = 0, bytes = 0, pages = 0;
    for (uint32_t i = 0; i < o->models.n; i++)
        n_default += !o->models.all[i].kv_bytes;
    const uint64_t quarter =
        (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4;
    for (uint32_t i = 0; i < o->models.n; i++) {
        int r = bytes_needed(&o->models.all[i], n_default ? quarter / n_default : 0, &bytes, why,
                             why_size);
        if (r < 0)
            return r;
        pages += (bytes >> PAGE_SHIFT) + 2;
    }
    *ret = pages;
    return 0;
}

int cmd_pool(int argc, char **argv)
{
    struct options o;
    char why[512];
    bool required = argc > 1 && !strcmp(argv[1], "--required");
    if (argc > 1 && !strcmp(argv[1], "--help")) {
        fputs(help, stdout);
        return CMD_OK;
    }
    int r = options_parse(&o, argc - required, argv + required, why, sizeof why);
    if (r < 0) {
        fprintf(stderr, "quernd pool: %s\n", why);
        return CMD_USAGE;
    }
    uint64_t pages = 0;
    if (required)
        r = o.huge_pages == MM_HUGE_REQUIRE ? CMD_OK : CMD_NO_INPUT;
    else if (o.huge_pages == MM_HUGE_OFF || o.huge_page_pool == OPTIONS_POOL_OFF)
        pages = 0;
    else if (o.huge_page_pool)
        pages = (o.huge_page_pool >> PAGE_SHIFT) + 2;
    else if ((r = pages_needed(&o, &pages, why, sizeof why)) < 0)
        fprintf(stderr, "quernd pool: %s\n", why);
    options_done(&o);
    if (required)
        return r;
    if (r < 0)
        return r == -EBADMSG || r == -ENOTSUP ? CMD_BAD_DATA : CMD_NO_INPUT;
    printf("%" PRIu64 "\n", pages);
    return CMD_OK;
}

/* quernd inspect FILE: what a model file holds and what serving it would need, or what a packed image
 * holds. Reads the metadata only; weights stay on disk. */
#include "mm/image.h"
#include "svc/cmd/cmd.h"
#include "svc/model/gguf.h"
#include "svc/model/shape.h"
#include "svc/model/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: quernd inspect [--tensors] FILE\n"
    "  Prints the shape, types and sizes of a GGUF model (the first file of a split set), and the\n"
    "  memory that it needs; --tensors lists every tensor. Of a packed image it prints the "
    "parts.\n";

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void print_string(const struct gguf *gguf, const char *label, const char *key)
{
    struct gguf_string s;
    char why[256];
    if (gguf_get_string(gguf, key, &s, why, sizeof why) == 0)
        printf("%-22s %.*s\n", label, (int)(s.length < 200 ? s.length : 200), s.data);
}

static void print_shape(const struct gguf *gguf, const struct model_shape *s)
{
    print_string(gguf, "name", "general.name");
    print_string(gguf, "architecture", "general.architecture");
    printf("%-22s %u\n", "layers", s->n_layers);
    printf("%-22s %u\n", "hidden size", s->d_model);
    printf("%-22s %u query, %u key/value, of %u\n", "heads", s->n_heads, s->n_kv_heads,
           s->head_dim);
    if (s->n_experts)
        printf("%-22s %u of %u wide, %u a token; shared %u wide\n", "experts", s->n_experts,
               s->d_expert, s->n_experts_used, s->d_shared);
    else
        printf("%-22s %u\n", "feed-forward size", s->d_ff);
    printf("%-22s %u rows, %s head\n", "vocabulary", s->n_vocab, s->tied_head ? "tied" : "its own");
    printf("%-22s %u positions\n", "context", s->context_length);
    printf("%-22s base %g%s\n", "rope", s->rope.theta,
           s->rope.scaling == OPS_ROPE_YARN     ? ", YaRN"
           : s->rope.scaling == OPS_ROPE_LINEAR ? ", linear scaling"
                                                : "");
    if (s->rope.scaling != OPS_ROPE_NONE)
        printf("%-22s factor %g, trained on %u positions\n", "rope scaling", s->rope.factor,
               s->rope.original_context);
    printf("%-22s %g\n", "rms epsilon", (double)s->rms_eps);
}

/* Tensors and bytes of each type, in the order in which the types first appear. */
static void print_types(const struct gguf *gguf)
{
    uint32_t seen[64];
    size_t n_seen = 0;
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        uint32_t type = gguf_tensor(gguf, i)->type;
        size_t k = 0;
        while (k < n_seen && seen[k] != type)
            k++;
        if (k < n_seen || n_seen == sizeof seen / sizeof *seen)
            continue;
        seen[n_seen++] = type;
        uint64_t bytes = 0, count = 0;
        for (size_t j = i; j < gguf_n_tensors(gguf); j++) {
            const struct gguf_tensor *t = gguf_tensor(gguf, j);
            if (t->type == type) {
                bytes += t->bytes;
                count++;
            }
        }
        const char *name = ops_type_name(type);
        if (ops_type_info(type))
            printf("%-22s %" PRIu64 " tensors, %.1f MiB\n", name, count, mib(bytes));
        else
            printf("%-22s %" PRIu64 " tensors, a type that quern does not compute\n",
                   name ? name : "?", count);
    }
}

static void print_tensors(const struct gguf *gguf)
{
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor(gguf, i);
        const char *name = ops_type_name(t->type);
        printf("  %-32.*s %-8s", (int)t->name.length, t->name.data, name ? name : "?");
        for (uint32_t d = 0; d < t->n_dims; d++)
            printf("%s%" PRIu64, d ? " x " : " ", t->dims[d]);
        printf("  %" PRIu64 " bytes at %" PRIu64 " of part %u\n", t->bytes, t->offset, t->file + 1);
    }
}

/* The memory that serving takes: weights as packed, and KV for one context of 8,192 and of all. */
static void print_needs(const struct model_shape *s, const struct model_weights *w)
{
    const struct ops_attention_shape f16 = {s->n_heads, s->n_kv_heads, s->head_dim, OPS_KV_F16};
    const uint64_t page = (uint64_t)ops_kv_page_bytes(&f16) * s->n_layers;
    const uint64_t context = s->context_length;
    printf("%-22s %s\n", "types", w->type_summary);
    printf("%-22s %.1f MiB read for each token\n", "weights", mib(w->token_bytes));
    printf("%-22s %.1f MiB: %zu huge pages of 2 MiB\n", "weights in memory", mib(w->arena_bytes),
           (w->arena_bytes + (2u << 20) - 1) >> 21);
    printf("%-22s %.1f KiB a position in F16; %.1f MiB for %" PRIu64 " positions\n", "KV cache",
           (double)page / OPS_KV_PAGE / 1024,
           mib(page * ((context + OPS_KV_PAGE - 1) / OPS_KV_PAGE)), context);
}

/* Whether the file begins as an image does. */
static bool is_image(const char *path)
{
    char magic[8] = "";
    FILE *file = fopen(path, "re");
    bool is = file && fread(magic, sizeof magic, 1, file) == 1 &&
              memcmp(magic, "QUERNIMG", sizeof magic) == 0;
    if (file)
        fclose(file);
    return is;
}

static int inspect_image(const char *path)
{
    struct mm_image *image;
    struct mm_image_info info;
    char why[512];
    int r = mm_image_open(&image, path, NULL, NULL, why, sizeof why);
    if (r < 0) {
        fprintf(stderr, "quernd inspect: %s\n", why);
        return r == -EBADMSG || r == -ESTALE ? CMD_BAD_DATA : CMD_NO_INPUT;
    }
    mm_image_info(image, &info);
    printf("%-22s %s\n", "file", path);
    printf("%-22s packed image, %.1f MiB\n", "kind", mib(info.file_bytes));
    printf("%-22s %016" PRIx64 "\n", "layout", info.layout);
    printf("%-22s %016" PRIx64 "%016" PRIx64 "\n", "content", info.content[1], info.content[0]);
    for (unsigned i = 0; i < info.n_sections; i++) {
        uint64_t length = 0;
        mm_image_section(image, mm_image_section_name(image, i), &length);
        printf("%-22s %.1f MiB\n", mm_image_section_name(image, i), mib(length));
    }
    mm_image_free(image);
    return CMD_OK;
}

int cmd_inspect(int argc, char **argv)
{
    bool tensors = argc == 3 && !strcmp(argv[1], "--tensors");
    if (argc != (tensors ? 3 : 2) || !strcmp(argv[1], "--help") || argv[argc - 1][0] == '-') {
        bool asked = argc == 2 && !strcmp(argv[1], "--help");
        fputs(help, asked ? stdout : stderr);
        return asked ? CMD_OK : CMD_USAGE;
    }
    if (is_image(argv[argc - 1]))
        return inspect_image(argv[argc - 1]);
    struct gguf *gguf;
    struct model_shape shape;
    struct model_weights weights = {0};
    char why[512];
    int r = gguf_open(&gguf, argv[argc - 1], why, sizeof why);
    if (r < 0) {
        fprintf(stderr, "quernd inspect: %s\n", why);
        return r == -EBADMSG || r == -ENOTSUP ? CMD_BAD_DATA : CMD_NO_INPUT;
    }
    uint64_t bytes = 0;
    for (unsigned i = 0; i < gguf_n_files(gguf); i++)
        bytes += gguf_file_bytes(gguf, i);
    printf("%-22s %s\n", "file", argv[argc - 1]);
    printf("%-22s %.1f MiB in %u part%s, %zu tensors\n", "size", mib(bytes), gguf_n_files(gguf),
           gguf_n_files(gguf) == 1 ? "" : "s", gguf_n_tensors(gguf));
    r = model_shape_read(&shape, gguf, why, sizeof why);
    if (r == 0) {
        print_shape(gguf, &shape);
        r = model_weights_plan(&weights, gguf, &shape, why, sizeof why);
    }
    print_types(gguf);
    if (tensors)
        print_tensors(gguf);
    if (r == 0)
        print_needs(&shape, &weights);
    else
        fprintf(stderr, "quernd inspect: %s\n", why);
    model_weights_done(&weights);
    gguf_free(gguf);
    return r == 0 ? CMD_OK : CMD_BAD_DATA;
}

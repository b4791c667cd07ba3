/* quernd pack IN OUT: writes the packed image of a model, as a start of the service would beside it.
 * quernd verify IMAGE [MODEL]: reads every byte of an image and says whether it is good; beside its
 * model, whether it is what packing that model gives. */
#include "mm/image.h"
#include "ops/matmul.h"
#include "svc/cmd/session.h"
#include "svc/model/gguf.h"
#include "svc/model/residence.h"
#include "svc/model/shape.h"
#include "svc/model/vocab.h"
#include "svc/text/tables.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char pack_help[] =
    "usage: quernd pack [--threads N] [--huge-pages prefer|require|off] IN OUT\n"
    "  Packs the GGUF model IN (the first file of a split set) and writes the image OUT, which a\n"
    "  service reads instead whose setting \"image\" names it.\n";

static const char verify_help[] =
    "usage: quernd verify IMAGE [MODEL]\n"
    "  Checks every byte of a packed image; with the GGUF file that it was made of, also that it\n"
    "  holds what that file holds. 0: it is good, 65: it is not.\n";

static int fail(const char *verb, int code, const char *sentence)
{
    fprintf(stderr, "quernd %s: %s\n", verb, sentence);
    return code;
}

/* ---- pack ----------------------------------------------------------------------------------- */

static int pack_with(struct ops_pool *pool, const struct cmd_options *options, const char *out)
{
    char why[1024] = "";
    struct model *model;
    struct model_options load = {
        .huge_pages = options->huge_pages,
        .n_context = OPS_KV_PAGE, /* nothing is computed: the least there is */
        .kv_type = OPS_KV_Q8_0,
        .image = out,
    };
    int r = model_load(&model, options->model, &load, pool, why, sizeof why);
    if (r < 0)
        return fail("pack", cmd_exit_of(r), *why ? why : strerror(-r));
    r = model_wait_for_image(model);
    if (r == 1)
        printf("%s is up to date\n", out);
    else if (r == 0)
        printf("%s: %s\n", out, model_image_notes(model));
    else
        fail("pack", CMD_OURS,
             model_image_notes(model) ? model_image_notes(model) : model_load_notes(model));
    model_free(model);
    return r < 0 ? CMD_OURS : CMD_OK;
}

int cmd_pack(int argc, char **argv)
{
    static const struct option long_options[] = {
        CMD_OPTIONS, {"help", no_argument, NULL, CMD_OPT_OWN}, {NULL, 0, NULL, 0}};
    struct cmd_options options = {.huge_pages = MM_HUGE_PREFER};
    for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        if (c == CMD_OPT_OWN) {
            fputs(pack_help, stdout);
            return CMD_OK;
        }
        int r = cmd_take_option(&options, "pack", c, optarg);
        if (r != 0)
            return r;
    }
    if (argc - optind != 2) {
        fputs(pack_help, stderr);
        return CMD_USAGE;
    }
    options.model = argv[optind];
    struct ops_pool *pool;
    int r = ops_pool_new(&pool, &(struct ops_pool_options){.n_threads = options.n_threads});
    if (r < 0)
        return fail("pack", CMD_OURS, strerror(-r));
    r = pack_with(pool, &options, argv[optind + 1]);
    ops_pool_free(pool);
    return r;
}

/* ---- verify --------------------------------------------------------------------------------- */

/* The model that an image is compared with. */
struct original {
    struct gguf *gguf;
    struct model_shape shape;
    struct model_weights weights;
    struct text_tokenizer *tokenizer;
};

static void original_close(struct original *original)
{
    text_tokenizer_free(original->tokenizer);
    model_weights_done(&original->weights);
    gguf_free(original->gguf);
}

static int original_open(struct original *ret, const char *path, char *why, size_t why_size)
{
    struct original o = {.weights.arena.fd = -1};
    int r = gguf_open(&o.gguf, path, why, why_size);
    if (r == 0)
        r = model_shape_read(&o.shape, o.gguf, why, why_size);
    if (r == 0)
        r = model_weights_plan(&o.weights, o.gguf, &o.shape, why, why_size);
    if (r == 0)
        r = model_vocab_read(&o.tokenizer, o.gguf, why, why_size);
    if (r < 0)
        original_close(&o);
    else
        *ret = o;
    return r;
}

/* The tables are whole, sound, and (where there is an original) those of its vocabulary. */
static int verify_tables(struct mm_image *image, uint64_t length, const struct original *original,
                         char *why, size_t why_size)
{
    struct text_tokenizer *tokenizer;
    size_t room = (length + TEXT_TABLES_ALIGNMENT - 1) / TEXT_TABLES_ALIGNMENT;
    void *block = length > MODEL_TABLES_BYTES_MAX
                      ? NULL
                      : aligned_alloc(TEXT_TABLES_ALIGNMENT, room * TEXT_TABLES_ALIGNMENT);
    void *wanted = NULL;
    if (!block) {
        snprintf(why, why_size, "no memory for %" PRIu64 " bytes of tables", length);
        return -ENOMEM;
    }
    int r = mm_image_read(image, MODEL_IMAGE_TABLES, block, NULL, NULL, why, why_size);
    if (r == 0)
        r = text_tables_open(&tokenizer, block, length, false, why, why_size);
    if (r == 0)
        text_tokenizer_free(tokenizer);
    if (r == -ENOENT)
        snprintf(why, why_size, "the section of the tokenizer holds no tables");
    if (r == 0 && original) {
        size_t bytes = original->tokenizer ? text_tables_bytes(original->tokenizer) : 0;
        wanted = malloc(bytes + 1);
        if (!wanted) {
            r = -ENOMEM;
        } else if (original->tokenizer) {
            text_tables_write(original->tokenizer, wanted);
        }
        if (r == 0 && (bytes != length || memcmp(wanted, block, bytes) != 0)) {
            snprintf(why, why_size, "the tokenizer is not that of the model file");
            r = -EBADMSG;
        }
    }
    free(wanted);
    free(block);
    return r;
}

static int verify_content(const struct mm_image_info *info, const struct original *original,
                          char *why, size_t why_size)
{
    uint64_t content[2];
    struct mm_image_key key;
    int r = model_residence_identify(&key, original->gguf, &original->weights);
    if (r < 0) {
        snprintf(why, why_size, "the model file cannot be opened: %s", strerror(-r));
        return r;
    }
    if (key.layout != info->layout) {
        snprintf(why, why_size, "it was made by another version of quern, or of another model");
        return -EBADMSG;
    }
    r = model_weights_hash(&original->weights, original->gguf, content, why, why_size);
    if (r == 0 && (content[0] != info->content[0] || content[1] != info->content[1])) {
        snprintf(why, why_size, "its weights are not those of the model file");
        r = -EBADMSG;
    }
    return r;
}

static int verify(struct mm_image *image, const struct original *original, char *why,
                  size_t why_size)
{
    struct mm_image_info info;
    mm_image_info(image, &info);
    bool weights = false;
    for (unsigned i = 0; i < info.n_sections; i++) {
        const char *name = mm_image_section_name(image, i);
        uint64_t length = 0;
        int r = mm_image_section(image, name, &length);
        weights = weights || !strcmp(name, MODEL_IMAGE_WEIGHTS);
        if (r == 0 && !strcmp(name, MODEL_IMAGE_TABLES))
            r = verify_tables(image, length, original, why, why_size);
        else if (r == 0)
            r = mm_image_read(image, name, NULL, NULL, NULL, why, why_size);
        if (r < 0)
            return r;
        printf("%-12s %12" PRIu64 " bytes, whole\n", name, length);
    }
    if (!weights) {
        snprintf(why, why_size, "it has no weights");
        return -EBADMSG;
    }
    return original ? verify_content(&info, original, why, why_size) : 0;
}

int cmd_verify(int argc, char **argv)
{
    if (argc < 2 || argc > 3 || argv[1][0] == '-') {
        bool asked = argc == 2 && !strcmp(argv[1], "--help");
        fputs(verify_help, asked ? stdout : stderr);
        return asked ? CMD_OK : CMD_USAGE;
    }
    struct mm_image *image;
    struct original original = {0};
    char why[1024] = "";
    int r = mm_image_open(&image, argv[1], NULL, NULL, why, sizeof why);
    if (r < 0)
        return fail("verify", r == -ESTALE ? CMD_BAD_DATA : cmd_exit_of(r), why);
    if (argc == 3)
        r = original_open(&original, argv[2], why, sizeof why);
    if (r == 0) {
        r = verify(image, argc == 3 ? &original : NULL, why, sizeof why);
        if (argc == 3)
            original_close(&original);
    }
    mm_image_free(image);
    if (r < 0)
        return fail("verify", cmd_exit_of(r), *why ? why : strerror(-r));
    printf("%s is good%s%s\n", argv[1], argc == 3 ? ", and holds what is in " : "",
           argc == 3 ? argv[2] : "");
    return CMD_OK;
}

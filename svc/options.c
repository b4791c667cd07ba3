/* The table of options, and their command line (see options.h). */
#include "svc/options.h"

#include "chat/text.h"

#include "svc/config.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char options_help[] =
    "quernd [--config FILE] [OPTION…]   serve a Qwen2 model through shared memory\n"
    "quernd VERB …   inspect, bench, logits, perplexity, quantize, pack, verify, pool\n"
    "  --config FILE|off         settings (/etc/quern/quern.conf; off with --model)\n"
    "  --check-config            say what is wrong with them, and end\n"
    "  --model [NAME=]FILE       GGUF; again: one more, whose values are NAME=VALUE\n"
    "  --socket PATH             where to listen (/run/quern/quern.sock)\n"
    "  --threads N               that compute (as many as there are cores)\n"
    "  --context N               positions of a sequence (8192 or the model's)\n"
    "  --sequences N             computed at once (16)\n"
    "  --kv f32|f16|q8_0  --kv-bytes SIZE      cached keys and values (f16)\n"
    "  --rope-scaling file|none|linear|yarn --rope-factor F --rope-original N\n"
    "  --huge-pages prefer|require|off         --huge-page-pool auto|off|SIZE\n"
    "  --image auto|off|FILE                   packed weights for the next start\n"
    "  --store auto|off|hugetlbfs|FOLDER       weights kept over a restart\n"
    "  --drop-weights            let go of what --store keeps, and end\n"
    "  --memory-limit SIZE       weights and cache (4G);  --numa interleave|NODE|off\n"
    "  --token-gap-ms N          what a prompt may add between others' tokens (100)\n"
    "  --queue N                 requests that may wait (1024)\n"
    "  --connections N  --connections-per-user N  --requests-per-user N\n"
    "  --policy FILE|off         limits of each user (/etc/quern/policy.conf)\n"
    "  --drain-s N  --exit-on-idle-s N         time at a stop (0); end unused\n"
    "  --share-prefixes          among users;  --metrics PATH|127.0.0.1:PORT  a page\n"
    "  -v, --verbose; --help, --version\n"
    "quernd(8) says more, and what the exit codes are; quern.conf(5) has the file.\n";

#define CONFIG_SYSTEM "/etc/quern/quern.conf"

static const struct option_word kv_words[] = {
    {"f32", OPS_KV_F32}, {"f16", OPS_KV_F16}, {"q8_0", OPS_KV_Q8_0}, {NULL, 0}};
static const struct option_word huge_words[] = {
    {"prefer", MM_HUGE_PREFER}, {"require", MM_HUGE_REQUIRE}, {"off", MM_HUGE_OFF}, {NULL, 0}};
static const struct option_word rope_words[] = {{"file", OPTIONS_ROPE_FILE},
                                                {"none", OPTIONS_ROPE_NONE},
                                                {"linear", OPTIONS_ROPE_LINEAR},
                                                {"yarn", OPTIONS_ROPE_YARN},
                                                {NULL, 0}};

static const struct option_word pool_words[] = {{"auto", 0}, {"off", -1}, {NULL, 0}};

#define FIELD(f) .offset = offsetof(struct options, f)
#define EACH(f)  .each = true, .offset = offsetof(struct options, each.f)
#define LIVE     .live = true

const struct option_row options_table[] = {
    {"model", "service", OPTION_MODEL, LIVE},
    {"socket", "service", OPTION_TEXT, FIELD(socket)},
    {"threads", "service", OPTION_NUMBER, .low = 1, .high = 1024, FIELD(threads)},
    {"policy", "service", OPTION_OFF, LIVE, FIELD(policy)},
    {"verbose", "service", OPTION_NUMBER, LIVE, .low = 0, .high = 2, FIELD(verbose)},
    {"metrics", "service", OPTION_OFF, FIELD(metrics)},
    {"drain-s", "service", OPTION_NUMBER, LIVE, .low = 0, .high = 3600, FIELD(drain_s)},
    {"exit-on-idle-s", "service", OPTION_NUMBER, LIVE, .low = 0, .high = 1u << 20,
     FIELD(exit_on_idle_s)},
    {"huge-pages", "memory", OPTION_WORD, .words = huge_words, FIELD(huge_pages)},
    {"numa", "memory", OPTION_OFF, FIELD(numa)},
    {"huge-page-pool", "memory", OPTION_SIZE, .words = pool_words, FIELD(huge_page_pool)},
    {"memory-limit", "memory", OPTION_SIZE, FIELD(memory_limit_bytes)},
    {"kv", "memory", OPTION_WORD, .words = kv_words, EACH(kv_type)},
    {"kv-bytes", "memory", OPTION_SIZE, EACH(kv_bytes)},
    {"image", "memory", OPTION_OFF, FIELD(image)},
    {"store", "memory", OPTION_OFF, FIELD(store)},
    {"rope-scaling", "requests", OPTION_WORD, .words = rope_words, EACH(rope_scaling)},
    {"rope-factor", "requests", OPTION_REAL, .low = 1, .high = 1024, EACH(rope_factor)},
    {"rope-original", "requests", OPTION_NUMBER, .low = 1, .high = 1u << 24, EACH(rope_original)},
    {"context", "requests", OPTION_NUMBER, .low = 64, .high = 1u << 20, EACH(context)},
    {"sequences", "requests", OPTION_NUMBER, .low = 1, .high = 256, EACH(sequences)},
    {"token-gap-ms", "requests", OPTION_NUMBER, LIVE, .low = 1, .high = 60000, FIELD(token_gap_ms)},
    {"queue", "requests", OPTION_NUMBER, .low = 1, .high = 1u << 20, FIELD(queue)},
    {"connections", "requests", OPTION_NUMBER, LIVE, .low = 1, .high = 1u << 16,
     FIELD(connections)},
    {"connections-per-user", "requests", OPTION_NUMBER, LIVE, .low = 1, .high = 1u << 16,
     FIELD(connections_per_user)},
    {"requests-per-user", "requests", OPTION_NUMBER, LIVE, .low = 1, .high = 1u << 20,
     FIELD(requests_per_user)},
    {"share-prefixes", "requests", OPTION_FLAG, LIVE, FIELD(share_prefixes)},
    {"config", NULL, OPTION_OFF, FIELD(config)},
    {"check-config", NULL, OPTION_FLAG, FIELD(check_config)},
    {"drop-weights", NULL, OPTION_FLAG, FIELD(drop_weights)},
    {"help", NULL, OPTION_FLAG, FIELD(help)},
    {"version", NULL, OPTION_FLAG, FIELD(version)},
    {0},
};

enum { N_OPTIONS = sizeof options_table / sizeof *options_table - 1 };
_Static_assert(N_OPTIONS <= 64, "a model's values have a bit each");

struct option_text {
    struct option_text *next;
    char text[];
};

/* ---- values -------------------------------------------------------------------------------- */

static int keep_text(struct options *o, const char **field, const char *text)
{
    size_t n = strlen(text) + 1;
    struct option_text *t = malloc(sizeof *t + n);
    if (!t)
        return -ENOMEM;
    memcpy(t->text, text, n);
    t->next = o->texts;
    o->texts = t;
    *field = t->text;
    return 0;
}

/* A whole decimal number from low to high. */
static int set_number(uint32_t *field, const struct option_row *row, const char *text, char *why,
                      size_t why_size)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < row->low || value > row->high) {
        snprintf(why, why_size, "takes a number from %u to %u, not \"%.40s\".", row->low, row->high,
                 text);
        return -EINVAL;
    }
    *field = (uint32_t)value;
    return 0;
}

static int set_real(double *field, const struct option_row *row, const char *text, char *why,
                    size_t why_size)
{
    char *end;
    double value = strtod(text, &end);
    if (text[0] < '0' || text[0] > '9' || *end || !(value >= row->low && value <= row->high)) {
        snprintf(why, why_size, "takes a number from %u to %u, such as 4.0, not \"%.40s\".",
                 row->low, row->high, text);
        return -EINVAL;
    }
    *field = value;
    return 0;
}

/* Bytes, with K, M, G or T for powers of 1,024. */
static int set_size(uint64_t *field, const struct option_row *row, const char *text, char *why,
                    size_t why_size)
{
    static const char suffixes[] = "KMGT";
    for (const struct option_word *w = row->words; w && w->word; w++)
        if (!strcmp(w->word, text)) {
            *field = (uint64_t)(int64_t)w->value;
            return 0;
        }
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;
    int shift = suffix ? 10 * (int)(suffix - suffixes + 1) : 0;
    if (text[0] < '0' || text[0] > '9' || errno || value == 0 || value > UINT64_MAX >> shift ||
        (*end && (!suffix || end[1]))) {
        snprintf(why, why_size, "takes a size such as 512M or 4G, not \"%.40s\".", text);
        return -EINVAL;
    }
    *field = value << shift;
    return 0;
}

_Static_assert(sizeof(enum ops_kv_type) == sizeof(int), "words are enums");

static int set_word(int *field, const struct option_row *row, const char *text, char *why,
                    size_t why_size)
{
    char known[80] = "";
    for (const struct option_word *w = row->words; w->word; w++) {
        if (!strcmp(w->word, text)) {
            *field = w->value;
            return 0;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", w->word);
    }
    snprintf(why, why_size, "takes one of %s, not \"%.40s\".", known, text);
    return -EINVAL;
}

static int set_flag(bool *field, const char *text, char *why, size_t why_size)
{
    if (!strcmp(text, "yes") || !strcmp(text, "no")) {
        *field = text[0] == 'y';
        return 0;
    }
    snprintf(why, why_size, "takes yes or no, not \"%.40s\".", text);
    return -EINVAL;
}

static size_t width_of(const struct option_row *row)
{
    return row->kind == OPTION_SIZE   ? sizeof(uint64_t)
           : row->kind == OPTION_REAL ? sizeof(double)
           : row->kind == OPTION_FLAG ? sizeof(bool)
                                      : sizeof(uint32_t);
}

/* ---- models -------------------------------------------------------------------------------- */

/* Where a row of `each` is in a model. */
static size_t offset_in_model(const struct option_row *row)
{
    return row->offset - offsetof(struct options, each);
}

static bool is_model_name(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-:", text[i]))
            return false;
    return n > 0 && n <= OPTIONS_MODEL_NAME_MAX;
}

static int no_name(const char *text, size_t n, char *why, size_t why_size)
{
    snprintf(why, why_size,
             "takes a name of up to %u letters, digits and . _ - : for a model, not \"%.*s\".",
             OPTIONS_MODEL_NAME_MAX, (int)(n < 60 ? n : 60), text);
    return -EINVAL;
}

/* The model of a name (n bytes; NULL: a new one that has none), added where there is none. */
static int model_of(struct options *o, const char *name, size_t n, struct options_model **ret,
                    char *why, size_t why_size)
{
    char copy[OPTIONS_MODEL_NAME_MAX + 1] = "";
    if (name && !is_model_name(name, n))
        return no_name(name, n, why, why_size);
    if (name)
        memcpy(copy, name, n);
    for (uint32_t i = 0; i < o->models.n && name; i++)
        if (o->models.all[i].name && !strcmp(o->models.all[i].name, copy)) {
            *ret = &o->models.all[i];
            return 0;
        }
    if (o->models.n == OPTIONS_MODELS_MAX) {
        snprintf(why, why_size, "is one too many: a service has up to %u models.",
                 OPTIONS_MODELS_MAX);
        return -EINVAL;
    }
    struct options_model m = {0};
    if (name && keep_text(o, &m.name, copy) < 0)
        return -ENOMEM;
    o->models.all[o->models.n] = m;
    *ret = &o->models.all[o->models.n++];
    return 0;
}

static void remove_model(struct options *o, const struct options_model *m)
{
    const uint32_t i = (uint32_t)(m - o->models.all);
    memmove(o->models.all + i, o->models.all + i + 1, (--o->models.n - i) * sizeof *o->models.all);
}

/* Moves a model forward to a place; the result is where it is now. */
static struct options_model *move_model(struct options *o, const struct options_model *m,
                                        uint32_t at)
{
    const struct options_model moved = *m;
    struct options_model *place = o->models.all + at;
    memmove(place + 1, place, (size_t)(m - place) * sizeof *place);
    *place = moved;
    return place;
}

/* Models stand in the order in which their files were named: *model moves with the first one. */
static int set_path(struct options *o, struct options_model **model, const char *text, char *why,
                    size_t why_size)
{
    if (!*text) {
        snprintf(why, why_size, "needs a value.");
        return -EINVAL;
    }
    struct options_model *m = *model;
    uint32_t at = 0;
    while (!m->path && &o->models.all[at] != m && o->models.all[at].path)
        at++;
    if (!m->path)
        *model = m = move_model(o, m, at);
    return keep_text(o, &m->path, text);
}

/* Splits "[NAME=]FILE": a name has no slash in it, so that "./a=b" is a file. */
static const char *split_name(const char *text, size_t *ret_n)
{
    const size_t n = strcspn(text, "=/");
    *ret_n = text[n] == '=' ? n : 0;
    return text[n] == '=' ? text : NULL;
}

/* "model" of the file: the first model, in place of one that an earlier file has named so. */
static int set_default_model(struct options *o, const char *text, char *why, size_t why_size)
{
    size_t n;
    const char *name = split_name(text, &n);
    for (uint32_t i = 0; i < o->models.n; i++) {
        struct options_model *m = &o->models.all[i];
        if (!m->is_default)
            continue;
        m->is_default = false;
        m->path = NULL;
        if (!m->name || !m->given)
            remove_model(o, m);
        break;
    }
    struct options_model *m;
    int r = model_of(o, name, n, &m, why, why_size);
    if (r == 0)
        r = set_path(o, &m, name ? text + n + 1 : text, why, why_size);
    if (r == 0)
        move_model(o, m, 0)->is_default = true;
    return r;
}

/* --model: a further one. */
static int add_model(struct options *o, const char *text, char *why, size_t why_size)
{
    size_t n;
    struct options_model *m;
    const char *name = split_name(text, &n);
    int r = model_of(o, name, n, &m, why, why_size);
    if (r == 0 && m->path) {
        snprintf(why, why_size, "was given twice for the name \"%s\".", m->name);
        r = -EINVAL;
    }
    return r < 0 ? r : set_path(o, &m, name ? text + n + 1 : text, why, why_size);
}

static int set_value(struct options *o, void *field, const struct option_row *row, const char *text,
                     char *why, size_t why_size);

int options_set_of(struct options *options, const char *name, const struct option_row *row,
                   const char *text, char *why, size_t why_size)
{
    struct options_model *m;
    int r = model_of(options, name, strlen(name), &m, why, why_size);
    if (r < 0)
        return r;
    if (!row)
        return set_path(options, &m, text, why, why_size);
    m->given |= UINT64_C(1) << (row - options_table);
    return set_value(options, (char *)m + offset_in_model(row), row, text, why, why_size);
}

/* Each model is a file of its own or has a name, and has a value in each row. */
static int complete_models(struct options *o, char *why, size_t why_size)
{
    for (uint32_t i = 0; i < o->models.n; i++) {
        struct options_model *m = &o->models.all[i];
        if (!m->path) {
            snprintf(why, why_size,
                     "No file is named for the model \"%s\"; give --model %s=FILE, or \"file\" in "
                     "[model %s].",
                     m->name, m->name, m->name);
            return -EINVAL;
        }
        for (uint32_t k = 0; k < i; k++)
            if (options_same_model(m, &o->models.all[k])) {
                snprintf(why, why_size, "--model %.200s is given twice; give it two names.",
                         m->path);
                return -EINVAL;
            }
        for (const struct option_row *row = options_table; row->name; row++)
            if (row->each && !(m->given >> (row - options_table) & 1))
                memcpy((char *)m + offset_in_model(row), (char *)o + row->offset, width_of(row));
    }
    return 0;
}

bool options_same_model(const struct options_model *a, const struct options_model *b)
{
    return !strcmp(a->path, b->path) && !a->name == !b->name &&
           (!a->name || !strcmp(a->name, b->name));
}

bool options_equal_of(const struct options_model *a, const struct options_model *b,
                      const struct option_row *row)
{
    const size_t offset = offset_in_model(row);
    return !memcmp((const char *)a + offset, (const char *)b + offset, width_of(row));
}

void options_copy_of(struct options_model *to, const struct options_model *from,
                     const struct option_row *row)
{
    const size_t offset = offset_in_model(row);
    memcpy((char *)to + offset, (const char *)from + offset, width_of(row));
}

/* ---- rows ---------------------------------------------------------------------------------- */

static int set_value(struct options *options, void *field, const struct option_row *row,
                     const char *text, char *why, size_t why_size)
{
    switch (row->kind) {
    case OPTION_MODEL:
        return set_default_model(options, text, why, why_size);
    case OPTION_TEXT:
        if (!*text) {
            snprintf(why, why_size, "needs a value.");
            return -EINVAL;
        }
        return keep_text(options, field, text);
    case OPTION_OFF:
        if (!strcmp(text, "off")) {
            *(const char **)field = NULL;
            return 0;
        }
        return keep_text(options, field, text);
    case OPTION_NUMBER:
        return set_number(field, row, text, why, why_size);
    case OPTION_REAL:
        return set_real(field, row, text, why, why_size);
    case OPTION_SIZE:
        return set_size(field, row, text, why, why_size);
    case OPTION_WORD:
        return set_word(field, row, text, why, why_size);
    case OPTION_FLAG:
        return set_flag(field, text, why, why_size);
    }
    return -EINVAL;
}

int options_set(struct options *options, const struct option_row *row, const char *text, char *why,
                size_t why_size)
{
    return set_value(options, (char *)options + row->offset, row, text, why, why_size);
}

static bool equal_models(const struct options *a, const struct options *b)
{
    bool equal = a->models.n == b->models.n;
    for (uint32_t i = 0; i < a->models.n && equal; i++)
        equal = options_same_model(&a->models.all[i], &b->models.all[i]);
    return equal;
}

bool options_equal(const struct options *a, const struct options *b, const struct option_row *row)
{
    if (row->kind == OPTION_MODEL)
        return equal_models(a, b);
    const void *x = (const char *)a + row->offset, *y = (const char *)b + row->offset;
    if (row->kind != OPTION_TEXT && row->kind != OPTION_OFF)
        return !memcmp(x, y, width_of(row));
    const char *s = *(const char *const *)x, *t = *(const char *const *)y;
    return s == t || (s && t && !strcmp(s, t));
}

static int copy_models(struct options *to, const struct options *from)
{
    struct options_model models[OPTIONS_MODELS_MAX];
    for (uint32_t i = 0; i < from->models.n; i++) {
        models[i] = from->models.all[i];
        if (keep_text(to, &models[i].path, models[i].path) < 0 ||
            (models[i].name && keep_text(to, &models[i].name, models[i].name) < 0))
            return -ENOMEM;
    }
    to->models.n = from->models.n;
    memcpy(to->models.all, models, from->models.n * sizeof *models);
    return 0;
}

int options_copy(struct options *to, const struct options *from, const struct option_row *row)
{
    if (row->kind == OPTION_MODEL)
        return copy_models(to, from);
    void *x = (char *)to + row->offset;
    const void *y = (const char *)from + row->offset;
    if (row->kind != OPTION_TEXT && row->kind != OPTION_OFF) {
        memcpy(x, y, width_of(row));
        return 0;
    }
    const char *text = *(const char *const *)y;
    if (text)
        return keep_text(to, x, text);
    *(const char **)x = NULL;
    return 0;
}

/* ---- names --------------------------------------------------------------------------------- */

const struct option_row *options_find(const char *name)
{
    for (const struct option_row *row = options_table; row->name; row++)
        if (!strcmp(row->name, name))
            return row;
    return NULL;
}

const char *options_nearest(const char *name, const char *section)
{
    const char *best = NULL;
    unsigned best_distance = UINT_MAX;
    for (const struct option_row *row = options_table; row->name; row++) {
        if (section && (!row->section || strcmp(row->section, section)))
            continue;
        unsigned distance = chat_word_distance(name, row->name);
        if (distance < best_distance) {
            best_distance = distance;
            best = row->name;
        }
    }
    return best && best_distance <= 1 + strlen(best) / 4 ? best : NULL;
}

/* ---- the command line ------------------------------------------------------------------------ */

/* getopt's table, made from ours; long options have numbers from 256. */
static void make_long_options(struct option *ret)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        ret[i] = (struct option){options_table[i].name,
                                 options_table[i].kind == OPTION_FLAG ? optional_argument
                                                                      : required_argument,
                                 NULL, 256 + (int)i};
    /* "--verbose" stands for "-v": once more each time; "--verbose=2" sets it. */
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (!strcmp(ret[i].name, "verbose"))
            ret[i].has_arg = optional_argument;
}

static int bad_option(int id, const char *word, char *why, size_t why_size)
{
    char name[64];
    if (id == ':') {
        snprintf(why, why_size, "\"%.60s\" needs a value; see quernd --help.", word);
        return -EINVAL;
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + strspn(word, "-"), "="),
             word + strspn(word, "-"));
    const char *nearest = options_find(name) ? NULL : options_nearest(name, NULL);
    snprintf(why, why_size, "\"%.60s\" is not an option of quernd%s%s%s; see quernd --help.", word,
             nearest ? ", did you mean \"--" : ", or takes no value", nearest ? nearest : "",
             nearest ? "\"" : "");
    return -EINVAL;
}

/* A word of the command line: values that each model may have for itself name it, "NAME=VALUE". */
static int set_argument(struct options *o, const struct option_row *row, const char *text,
                        char *why, size_t why_size)
{
    const char *value = strchr(text, '=');
    char name[OPTIONS_MODEL_NAME_MAX + 2];
    if (row->kind == OPTION_MODEL)
        return add_model(o, text, why, why_size);
    if (!row->each || !value)
        return options_set(o, row, text, why, why_size);
    snprintf(name, sizeof name, "%.*s", (int)(value - text), text);
    return options_set_of(o, name, row, value + 1, why, why_size);
}

/* Reads argv into *o; only what decides about the configuration where `first`. */
static int read_arguments(struct options *o, int argc, char **argv, bool first, char *why,
                          size_t why_size)
{
    struct option long_options[N_OPTIONS + 1] = {0};
    make_long_options(long_options);
    opterr = 0;
    optind = 0; /* glibc: start over: this is called twice */
    for (;;) {
        int at = optind ? optind : 1;
        int id = getopt_long(argc, argv, "+:v", long_options, NULL);
        if (id == -1)
            break;
        if (id == '?' || id == ':')
            return bad_option(id, argv[at], why, why_size);
        const struct option_row *row = id == 'v' ? NULL : &options_table[id - 256];
        if (first && (!row || (strcmp(row->name, "config") && strcmp(row->name, "model") &&
                               strcmp(row->name, "check-config"))))
            continue;
        if (!row || (!optarg && !strcmp(row->name, "verbose"))) {
            o->verbose++;
            continue;
        }
        int n = snprintf(why, why_size, "--%s ", row->name);
        int r = set_argument(o, row, optarg ? optarg : "yes", why + n, why_size - (size_t)n);
        if (r < 0)
            return r;
    }
    if (optind < argc) {
        snprintf(why, why_size,
                 "\"%.60s\" is neither an option nor a verb of quernd; see quernd --help.",
                 argv[optind]);
        return -EINVAL;
    }
    return 0;
}

/* The user's file, else the system's, where there is one; the system's is taken anyway where
 * `must`. */
static int find_config(struct options *o, bool must)
{
    char own[PATH_MAX];
    const char *folder = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n = folder && *folder ? snprintf(own, sizeof own, "%s/quern/quern.conf", folder)
            : home && *home   ? snprintf(own, sizeof own, "%s/.config/quern/quern.conf", home)
                              : -1;
    if (n > 0 && n < (int)sizeof own && access(own, F_OK) == 0)
        return keep_text(o, &o->config, own);
    if (must || access(CONFIG_SYSTEM, F_OK) == 0)
        o->config = CONFIG_SYSTEM;
    return 0;
}

/* Which file to read, from the words of the command line alone; *ret_models: models are named there,
 * in place of the file's. */
static int choose_config(struct options *o, int argc, char **argv, bool *ret_models, char *why,
                         size_t why_size)
{
    static const char unset[] = "";
    struct options words = {.config = unset};
    int r = read_arguments(&words, argc, argv, true, why, why_size);
    if (r == 0 && words.config != unset)
        r = options_copy(o, &words, options_find("config"));
    else if (r == 0 && (words.check_config || !words.models.n))
        r = find_config(o, words.check_config);
    o->check_config = words.check_config;
    *ret_models = words.models.n > 0;
    options_done(&words);
    return r;
}

/* A scaling needs its factor, and a factor its scaling. */
static int check_rope(const struct options_model *m, char *why, size_t why_size)
{
    const bool scales =
        m->rope_scaling == OPTIONS_ROPE_LINEAR || m->rope_scaling == OPTIONS_ROPE_YARN;
    if (scales && m->rope_factor == 0) {
        snprintf(why, why_size, "--rope-scaling needs --rope-factor, such as 4.");
        return -EINVAL;
    }
    if (!scales && (m->rope_factor > 0 || m->rope_original)) {
        snprintf(why, why_size, "--%s needs --rope-scaling yarn or linear.",
                 m->rope_factor > 0 ? "rope-factor" : "rope-original");
        return -EINVAL;
    }
    return 0;
}

int options_complete(struct options *options, char *why, size_t why_size)
{
    struct options *o = options;
    int r = complete_models(o, why, why_size);
    for (uint32_t i = 0; i < o->models.n && r == 0; i++)
        r = check_rope(&o->models.all[i], why, why_size);
    if (r == 0 && o->models.n > 1 && o->image && strcmp(o->image, "auto")) {
        snprintf(why, why_size, "--image %.60s is one model's; with several give auto or off.",
                 o->image);
        r = -EINVAL;
    }
    return r;
}

int options_parse(struct options *ret, int argc, char **argv, char *why, size_t why_size)
{
    struct options o = {
        .isa = getenv("QUERN_ISA"),
        .each = {.kv_type = OPS_KV_F16, .sequences = 16},
        .huge_pages = MM_HUGE_PREFER,
        .image = "auto",
        .cache_folder = getenv("CACHE_DIRECTORY"),
        .store = "auto",
        .policy = "auto",
        .token_gap_ms = 100,
        .queue = 1024,
        .connections = 1024,
        .connections_per_user = 256,
        .requests_per_user = 512,
    };
    if (o.isa && !*o.isa)
        o.isa = NULL;
    bool own_models = false;
    int r = choose_config(&o, argc, argv, &own_models, why, why_size);
    const char *config = o.config;
    if (r == 0 && config && !o.check_config)
        r = config_read(&o, config, NULL, NULL, why, why_size);
    if (own_models)
        o.models.n = 0;
    if (r == 0)
        r = read_arguments(&o, argc, argv, false, why, why_size);
    o.config = config;
    if (r == 0 && !o.models.n && !o.help && !o.version && !o.check_config && !o.drop_weights) {
        snprintf(why, why_size, "No model was named: start quernd with --model FILE%s.",
                 config ? ", or name one in the configuration" : "");
        r = -EINVAL;
    }
    if (r == 0)
        r = options_complete(&o, why, why_size);
    if (r < 0) {
        options_done(&o);
        return -EINVAL;
    }
    *ret = o;
    return 0;
}

void options_done(struct options *options)
{
    while (options->texts) {
        struct option_text *next = options->texts->next;
        free(options->texts);
        options->texts = next;
    }
}

int options_default_socket(char *ret, size_t size)
{
    const char *path = getenv("QUERN_SOCKET"), *folder;
    int n;
    if (path && *path)
        n = snprintf(ret, size, "%s", path);
    else if ((folder = getenv("RUNTIME_DIRECTORY")) && *folder)
        n = snprintf(ret, size, "%s/quern.sock", folder);
    else if ((folder = getenv("XDG_RUNTIME_DIR")) && *folder)
        n = snprintf(ret, size, "%s/quern/quern.sock", folder);
    else
        n = snprintf(ret, size, "/run/quern/quern.sock");
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

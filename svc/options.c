/* The table of options, and their command line (see options.h). */
#include "svc/options.h"

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
    "  --model FILE              GGUF, the first file of a split set\n"
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
#define LIVE     .live = true

const struct option_row options_table[] = {
    {"model", "service", OPTION_TEXT, LIVE, FIELD(model)},
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
    {"kv", "memory", OPTION_WORD, .words = kv_words, FIELD(kv_type)},
    {"kv-bytes", "memory", OPTION_SIZE, FIELD(kv_bytes)},
    {"image", "memory", OPTION_OFF, FIELD(image)},
    {"store", "memory", OPTION_OFF, FIELD(store)},
    {"rope-scaling", "requests", OPTION_WORD, .words = rope_words, FIELD(rope_scaling)},
    {"rope-factor", "requests", OPTION_REAL, .low = 1, .high = 1024, FIELD(rope_factor)},
    {"rope-original", "requests", OPTION_NUMBER, .low = 1, .high = 1u << 24, FIELD(rope_original)},
    {"context", "requests", OPTION_NUMBER, .low = 64, .high = 1u << 20, FIELD(context)},
    {"sequences", "requests", OPTION_NUMBER, .low = 1, .high = 256, FIELD(sequences)},
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

int options_set(struct options *options, const struct option_row *row, const char *text, char *why,
                size_t why_size)
{
    void *field = (char *)options + row->offset;
    switch (row->kind) {
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

static size_t width_of(const struct option_row *row)
{
    return row->kind == OPTION_SIZE   ? sizeof(uint64_t)
           : row->kind == OPTION_REAL ? sizeof(double)
           : row->kind == OPTION_FLAG ? sizeof(bool)
                                      : sizeof(uint32_t);
}

bool options_equal(const struct options *a, const struct options *b, const struct option_row *row)
{
    const void *x = (const char *)a + row->offset, *y = (const char *)b + row->offset;
    if (row->kind != OPTION_TEXT && row->kind != OPTION_OFF)
        return !memcmp(x, y, width_of(row));
    const char *s = *(const char *const *)x, *t = *(const char *const *)y;
    return s == t || (s && t && !strcmp(s, t));
}

int options_copy(struct options *to, const struct options *from, const struct option_row *row)
{
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
        unsigned distance = config_distance(name, row->name);
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
        int r = options_set(o, row, optarg ? optarg : "yes", why + n, why_size - (size_t)n);
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

/* Which file to read, from the words of the command line alone. */
static int choose_config(struct options *o, int argc, char **argv, char *why, size_t why_size)
{
    static const char unset[] = "";
    struct options words = {.config = unset};
    int r = read_arguments(&words, argc, argv, true, why, why_size);
    if (r == 0 && words.config != unset)
        r = options_copy(o, &words, options_find("config"));
    else if (r == 0 && (words.check_config || !words.model))
        r = find_config(o, words.check_config);
    o->check_config = words.check_config;
    options_done(&words);
    return r;
}

/* A scaling needs its factor, and a factor its scaling. */
static int check_rope(const struct options *o, char *why, size_t why_size)
{
    const bool scales =
        o->rope_scaling == OPTIONS_ROPE_LINEAR || o->rope_scaling == OPTIONS_ROPE_YARN;
    if (scales && o->rope_factor == 0) {
        snprintf(why, why_size, "--rope-scaling needs --rope-factor, such as 4.");
        return -EINVAL;
    }
    if (!scales && (o->rope_factor > 0 || o->rope_original)) {
        snprintf(why, why_size, "--%s needs --rope-scaling yarn or linear.",
                 o->rope_factor > 0 ? "rope-factor" : "rope-original");
        return -EINVAL;
    }
    return 0;
}

int options_parse(struct options *ret, int argc, char **argv, char *why, size_t why_size)
{
    struct options o = {
        .isa = getenv("QUERN_ISA"),
        .kv_type = OPS_KV_F16,
        .huge_pages = MM_HUGE_PREFER,
        .image = "auto",
        .cache_folder = getenv("CACHE_DIRECTORY"),
        .store = "auto",
        .policy = "auto",
        .sequences = 16,
        .token_gap_ms = 100,
        .queue = 1024,
        .connections = 1024,
        .connections_per_user = 256,
        .requests_per_user = 512,
    };
    if (o.isa && !*o.isa)
        o.isa = NULL;
    int r = choose_config(&o, argc, argv, why, why_size);
    const char *config = o.config;
    if (r == 0 && config && !o.check_config)
        r = config_read(&o, config, NULL, NULL, why, why_size);
    if (r == 0)
        r = read_arguments(&o, argc, argv, false, why, why_size);
    o.config = config;
    if (r == 0 && !o.model && !o.help && !o.version && !o.check_config && !o.drop_weights) {
        snprintf(why, why_size, "No model was named: start quernd with --model FILE%s.",
                 config ? ", or name one in the configuration" : "");
        r = -EINVAL;
    }
    if (r == 0)
        r = check_rope(&o, why, why_size);
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

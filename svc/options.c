/* Command line and environment of quernd (see options.h). */
#include "svc/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char options_help[] =
    "quernd: serve a Qwen2 model to the programs of this machine through shared memory\n"
    "\n"
    "usage: quernd --model FILE [option …]     serve\n"
    "       quernd VERB [option …]             bench, logits, inspect, quantize, perplexity\n"
    "\n"
    "  --model FILE             the model, GGUF (the first file of a split set)\n"
    "  --socket PATH            where to listen (default /run/quern/quern.sock, or the user's)\n"
    "  --threads N              threads that compute (default: what affinity and cgroup allow)\n"
    "  --context N              positions that a sequence may have (default 8192 or the model's)\n"
    "  --kv f32|f16|q8_0        type of cached keys and values (default f16)\n"
    "  --kv-bytes SIZE          memory for them (default four contexts, at most a quarter of "
    "memory)\n"
    "  --sequences N            requests computed at once (default 16)\n"
    "  --huge-pages prefer|require|off\n"
    "  --image auto|off|FILE    packed weights for the next start (default auto: beside the "
    "model,\n"
    "                           else in $CACHE_DIRECTORY; models above 64 MiB)\n"
    "  --store auto|off|hugetlbfs|FOLDER\n"
    "                           keep loaded weights over a restart (default auto: with systemd)\n"
    "  --memory-limit SIZE      what weights and cache may take together (K, M, G)\n"
    "  --token-gap-ms N         what a prompt may add between two tokens of others (default 100)\n"
    "  --queue N                requests that may wait (default 1024)\n"
    "  --connections N          clients at once (default 1024)\n"
    "  --connections-per-user N clients of one user at once (default 256)\n"
    "  --requests-per-user N    requests of one user at once (default 512)\n"
    "  --share-prefixes         users share cached prompts (timing then shows what others asked)\n"
    "  -v, --verbose            say more\n"
    "  --help, --version\n"
    "\n"
    "SIGTERM ends the service cleanly. Exit codes: 0, 64 usage, 65 model damaged or of a kind not\n"
    "served, 66 model cannot be opened, 70 our own error, 71 the machine refuses (memory, "
    "socket).\n"
    "QUERN_ISA=scalar|avx2|avx512|avx512vnni|amx chooses a lower instruction set than the best.\n";

enum option_id {
    OPT_MODEL = 256,
    OPT_SOCKET,
    OPT_THREADS,
    OPT_CONTEXT,
    OPT_KV,
    OPT_KV_BYTES,
    OPT_SEQUENCES,
    OPT_HUGE_PAGES,
    OPT_IMAGE,
    OPT_STORE,
    OPT_MEMORY_LIMIT,
    OPT_TOKEN_GAP,
    OPT_QUEUE,
    OPT_CONNECTIONS,
    OPT_CONNECTIONS_PER_USER,
    OPT_REQUESTS_PER_USER,
    OPT_SHARE_PREFIXES,
    OPT_HELP,
    OPT_VERSION,
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, OPT_MODEL},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"context", required_argument, NULL, OPT_CONTEXT},
    {"kv", required_argument, NULL, OPT_KV},
    {"kv-bytes", required_argument, NULL, OPT_KV_BYTES},
    {"sequences", required_argument, NULL, OPT_SEQUENCES},
    {"huge-pages", required_argument, NULL, OPT_HUGE_PAGES},
    {"image", required_argument, NULL, OPT_IMAGE},
    {"store", required_argument, NULL, OPT_STORE},
    {"memory-limit", required_argument, NULL, OPT_MEMORY_LIMIT},
    {"token-gap-ms", required_argument, NULL, OPT_TOKEN_GAP},
    {"queue", required_argument, NULL, OPT_QUEUE},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"connections-per-user", required_argument, NULL, OPT_CONNECTIONS_PER_USER},
    {"requests-per-user", required_argument, NULL, OPT_REQUESTS_PER_USER},
    {"share-prefixes", no_argument, NULL, OPT_SHARE_PREFIXES},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

static const struct {
    enum option_id id;
    const char *word;
    int value;
} words[] = {
    {OPT_KV, "f32", OPS_KV_F32},
    {OPT_KV, "f16", OPS_KV_F16},
    {OPT_KV, "q8_0", OPS_KV_Q8_0},
    {OPT_HUGE_PAGES, "prefer", MM_HUGE_PREFER},
    {OPT_HUGE_PAGES, "require", MM_HUGE_REQUIRE},
    {OPT_HUGE_PAGES, "off", MM_HUGE_OFF},
};

static const char *option_name(int id)
{
    for (const struct option *o = long_options; o->name; o++)
        if (o->val == id)
            return o->name;
    return "?";
}

/* A whole decimal number from low to high. */
static int parse_number(int id, const char *text, uint32_t low, uint32_t high, uint32_t *ret,
                        char *why, size_t why_size)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < low || value > high) {
        snprintf(why, why_size, "--%s takes a number from %u to %u, not \"%.40s\".",
                 option_name(id), low, high, text);
        return -EINVAL;
    }
    *ret = (uint32_t)value;
    return 0;
}

/* Bytes, with K, M, G or T for powers of 1,024. */
static int parse_size(int id, const char *text, uint64_t *ret, char *why, size_t why_size)
{
    static const char suffixes[] = "KMGT";
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    const char *suffix = *end ? strchr(suffixes, *end) : NULL;
    int shift = suffix ? 10 * (int)(suffix - suffixes + 1) : 0;
    if (text[0] < '0' || text[0] > '9' || errno || value == 0 || value > UINT64_MAX >> shift ||
        (*end && (!suffix || end[1]))) {
        snprintf(why, why_size, "--%s takes a size such as 512M or 4G, not \"%.40s\".",
                 option_name(id), text);
        return -EINVAL;
    }
    *ret = value << shift;
    return 0;
}

static int parse_word(int id, const char *text, int *ret, char *why, size_t why_size)
{
    char known[80] = "";
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if ((int)words[i].id != id)
            continue;
        if (!strcmp(words[i].word, text)) {
            *ret = words[i].value;
            return 0;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", words[i].word);
    }
    snprintf(why, why_size, "--%s takes one of %s, not \"%.40s\".", option_name(id), known, text);
    return -EINVAL;
}

static int parse_one(struct options *o, int id, const char *text, char *why, size_t why_size)
{
    int word = 0, r = 0;
    switch (id) {
    case OPT_MODEL:
        o->model = text;
        break;
    case OPT_SOCKET:
        o->socket = text;
        break;
    case OPT_THREADS:
        return parse_number(id, text, 1, 1024, &o->threads, why, why_size);
    case OPT_CONTEXT:
        return parse_number(id, text, 64, 1u << 20, &o->context, why, why_size);
    case OPT_KV:
        r = parse_word(id, text, &word, why, why_size);
        if (r == 0)
            o->kv_type = (enum ops_kv_type)word;
        break;
    case OPT_KV_BYTES:
        return parse_size(id, text, &o->kv_bytes, why, why_size);
    case OPT_SEQUENCES:
        return parse_number(id, text, 1, 256, &o->sequences, why, why_size);
    case OPT_HUGE_PAGES:
        r = parse_word(id, text, &word, why, why_size);
        if (r == 0)
            o->huge_pages = (enum mm_huge_policy)word;
        break;
    case OPT_IMAGE:
        o->image = strcmp(text, "off") ? text : NULL;
        break;
    case OPT_STORE:
        o->store = strcmp(text, "off") ? text : NULL;
        break;
    case OPT_MEMORY_LIMIT:
        return parse_size(id, text, &o->memory_limit_bytes, why, why_size);
    case OPT_TOKEN_GAP:
        return parse_number(id, text, 1, 60000, &o->token_gap_ms, why, why_size);
    case OPT_QUEUE:
        return parse_number(id, text, 1, 1u << 20, &o->queue, why, why_size);
    case OPT_CONNECTIONS:
        return parse_number(id, text, 1, 1u << 16, &o->connections, why, why_size);
    case OPT_CONNECTIONS_PER_USER:
        return parse_number(id, text, 1, 1u << 16, &o->connections_per_user, why, why_size);
    case OPT_REQUESTS_PER_USER:
        return parse_number(id, text, 1, 1u << 20, &o->requests_per_user, why, why_size);
    case OPT_SHARE_PREFIXES:
        o->share_prefixes = true;
        break;
    case 'v':
        o->verbose++;
        break;
    case OPT_HELP:
        o->help = true;
        break;
    case OPT_VERSION:
        o->version = true;
        break;
    }
    return r;
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
        .sequences = 16,
        .token_gap_ms = 100,
        .queue = 1024,
        .connections = 1024,
        .connections_per_user = 256,
        .requests_per_user = 512,
    };
    if (o.isa && !*o.isa)
        o.isa = NULL;
    opterr = 0;
    optind = 0; /* glibc: start over, so that a test may call this more than once */
    for (;;) {
        int at = optind ? optind : 1;
        int id = getopt_long(argc, argv, "+:v", long_options, NULL);
        if (id == -1)
            break;
        if (id == '?' || id == ':') {
            const char *problem =
                id == ':' ? "needs a value" : "is not an option of quernd, or takes no value";
            snprintf(why, why_size, "\"%.60s\" %s; see quernd --help.", argv[at], problem);
            return -EINVAL;
        }
        int r = parse_one(&o, id, optarg, why, why_size);
        if (r < 0)
            return r;
    }
    if (optind < argc) {
        snprintf(why, why_size,
                 "\"%.60s\" is neither an option nor a verb of quernd; see quernd --help.",
                 argv[optind]);
        return -EINVAL;
    }
    if (!o.model && !o.help && !o.version) {
        snprintf(why, why_size, "No model was named: start quernd with --model FILE.");
        return -EINVAL;
    }
    *ret = o;
    return 0;
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

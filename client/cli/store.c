/* Where models lie, what they are called, what their bytes are (see store.h).
 *
 * The short names are those of the official files; store_short_name says how they are put together. */
#include "client/cli/store.h"

#include "client/cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYSTEM_FOLDER "/var/lib/quern/models"

/* The types that are one file each: of a repository that has all nine, and of one without fp16. */
#define ALL_TYPES "q2_k q3_k_m q4_0 q4_k_m q5_0 q5_k_m q6_k q8_0 fp16"
#define QUANTIZED "q2_k q3_k_m q4_0 q4_k_m q5_0 q5_k_m q6_k q8_0"

/* Official repositories of the organisation Qwen (huggingface.co/Qwen), how their files begin, and the
 * types that they have; "q4_0/2" is a set of two files, -00001-of-00002 and -00002-of-00002, as gguf-split
 * makes them. The names are upstream's, with its own spelling: Qwen1.5 and Qwen2 write 0_5b where Qwen2.5
 * writes 0.5b. Read off listings of the repositories that others keep, September 2026: all of Qwen2 7B and of
 * Qwen2.5, at revisions 9217f5db (0.5B), 91cad511 (1.5B), 7dabda4d (3B), bb5d59e0 (7B), 13fb94bf (Coder
 * 7B). Of the other repositories single files are linked from elsewhere (q4_k_m of each, and of 57B-A14B
 * q8_0 in two); the rest of their rows follows the same pattern. A file that is not there is an answer 404,
 * which pull shows. */
static const struct {
    const char *name, *repository, *file, *types;
} models[] = {
    {"qwen2:0.5b-instruct", "Qwen2-0.5B-Instruct-GGUF", "qwen2-0_5b-instruct", ALL_TYPES},
    {"qwen2:1.5b-instruct", "Qwen2-1.5B-Instruct-GGUF", "qwen2-1_5b-instruct", ALL_TYPES},
    {"qwen2:7b-instruct", "Qwen2-7B-Instruct-GGUF", "qwen2-7b-instruct", ALL_TYPES},
    {"qwen2:57b-a14b-instruct", "Qwen2-57B-A14B-Instruct-GGUF", "qwen2-57b-a14b-instruct",
     "q3_k_m q4_k_m q8_0/2"},
    {"qwen2.5:0.5b-instruct", "Qwen2.5-0.5B-Instruct-GGUF", "qwen2.5-0.5b-instruct", ALL_TYPES},
    {"qwen2.5:1.5b-instruct", "Qwen2.5-1.5B-Instruct-GGUF", "qwen2.5-1.5b-instruct", ALL_TYPES},
    {"qwen2.5:3b-instruct", "Qwen2.5-3B-Instruct-GGUF", "qwen2.5-3b-instruct", QUANTIZED " fp16/2"},
    {"qwen2.5:7b-instruct", "Qwen2.5-7B-Instruct-GGUF", "qwen2.5-7b-instruct",
     "q2_k q3_k_m q4_0/2 q4_k_m/2 q5_0/2 q5_k_m/2 q6_k/2 q8_0/3 fp16/4"},
    {"qwen2.5-coder:7b-instruct", "Qwen2.5-Coder-7B-Instruct-GGUF", "qwen2.5-coder-7b-instruct",
     "q2_k q3_k_m q4_0 q4_k_m q5_0/2 q5_k_m q6_k q8_0 fp16"},
    {"qwen1.5:0.5b-chat", "Qwen1.5-0.5B-Chat-GGUF", "qwen1_5-0_5b-chat", QUANTIZED},
    {"qwen1.5:1.8b-chat", "Qwen1.5-1.8B-Chat-GGUF", "qwen1_5-1_8b-chat", QUANTIZED},
    {"qwen1.5:4b-chat", "Qwen1.5-4B-Chat-GGUF", "qwen1_5-4b-chat", QUANTIZED},
    {"qwen1.5:7b-chat", "Qwen1.5-7B-Chat-GGUF", "qwen1_5-7b-chat", QUANTIZED},
};
#define N_MODELS (sizeof models / sizeof *models)

/* ---- names and folders -------------------------------------------------------------------------- */

int store_path(char ret[PATH_MAX], const char *folder, const char *name, const char *suffix)
{
    if (snprintf(ret, PATH_MAX, "%s/%s%s", folder, name, suffix) >= PATH_MAX)
        return cli_fail(CLI_USAGE, "%s/%s: the name is too long", folder, name);
    return 0;
}

static int make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = 0;
        int rc = mkdir(path, 0755) < 0 && errno != EEXIST ? errno : 0;
        if (slash)
            *slash = '/';
        if (rc && !slash)
            return cli_fail(CLI_OURS, "%s: %s; --folder names another one", path, strerror(rc));
        if (!slash)
            return 0;
    }
}

int store_folder(const char *given, char ret[PATH_MAX])
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n;
    if (given)
        n = snprintf(ret, PATH_MAX, "%s", given);
    else if (access(SYSTEM_FOLDER, W_OK) == 0)
        n = snprintf(ret, PATH_MAX, "%s", SYSTEM_FOLDER);
    else if (data && *data == '/')
        n = snprintf(ret, PATH_MAX, "%s/quern/models", data);
    else if (home && *home == '/')
        n = snprintf(ret, PATH_MAX, "%s/.local/share/quern/models", home);
    else
        return cli_fail(CLI_USAGE, "there is no $HOME; --folder says where models go");
    if (n >= PATH_MAX)
        return cli_fail(CLI_USAGE, "the name of the folder of models is too long");
    return make_folders(ret);
}

int store_name_is_good(const char *name)
{
    size_t n = strlen(name);
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            return 0;
    return n > 5 && n < 200 && name[0] != '.' && !strcmp(name + n - 5, ".gguf");
}

int store_parts(const char *name, unsigned *ret_part)
{
    unsigned part, parts;
    size_t n = strlen(name);
    int end = 0;
    if (n <= 20 || sscanf(name + n - 20, "-%5u-of-%5u.gguf%n", &part, &parts, &end) != 2 ||
        end != 20 || part < 1 || part > parts)
        return 1;
    *ret_part = part;
    return (int)parts;
}

void store_part_name(char *name, unsigned part)
{
    char digits[6];
    snprintf(digits, sizeof digits, "%05u", part % 100000);
    memcpy(name + strlen(name) - 19, digits, 5);
}

/* In how many files `list` has `type`; 0: it has not. */
static int parts_of(const char *list, const char *type)
{
    size_t n = strlen(type);
    for (const char *p = list; n && (p = strstr(p, type)); p += n) {
        if ((p != list && p[-1] != ' ') || !strchr(" /", p[n]))
            continue;
        return p[n] == '/' ? atoi(p + n + 1) : 1;
    }
    return 0;
}

int store_short_name(const char *word, int part, char *ret, size_t ret_size)
{
    const char *hub = getenv("HF_ENDPOINT");
    char set[24] = "";
    for (size_t i = 0; i < N_MODELS; i++) {
        size_t n = strlen(models[i].name);
        int parts = strncmp(word, models[i].name, n) || word[n] != '-' || strpbrk(word, " /")
                        ? 0
                        : parts_of(models[i].types, word + n + 1);
        if (!parts)
            continue;
        if (parts > 1)
            snprintf(set, sizeof set, "-%05d-of-%05d", part, parts);
        int size = snprintf(ret, ret_size, "%s/Qwen/%s/resolve/main/%s-%s%s.gguf",
                            hub && *hub ? hub : "https://huggingface.co", models[i].repository,
                            models[i].file, word + n + 1, set);
        return (size_t)size < ret_size ? parts : 0;
    }
    return 0;
}

void store_list_short_names(void)
{
    for (size_t i = 0; i < N_MODELS; i++) {
        printf("%s-…  ", models[i].name);
        for (const char *c = models[i].types; *c; c++)
            if (*c == '/') /* how many files it is matters to nobody who pulls it */
                c++;
            else
                putchar(*c);
        putchar('\n');
    }
}

/* ---- digests ------------------------------------------------------------------------------------ */

int store_digest(const char *path, char ret[STORE_DIGEST])
{
    static uint8_t buffer[1 << 20];
    uint8_t digest[SHA256_DIGEST_SIZE];
    struct sha256_ctx sha;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    sha256_init(&sha);
    while ((n = read(fd, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            sha256_update(&sha, (size_t)n, buffer);
    int r = n < 0 ? -errno : 0;
    close(fd);
    if (r < 0)
        return r;
    sha256_digest(&sha, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
    return 0;
}

int store_read_noted(const char *path, char ret[STORE_DIGEST])
{
    char digest[STORE_DIGEST] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    int n = fscanf(f, "%64[0-9a-f]", digest);
    fclose(f);
    if (n != 1 || strlen(digest) != STORE_DIGEST - 1)
        return -EINVAL;
    memcpy(ret, digest, STORE_DIGEST);
    return 0;
}

int store_note(const char *path, const char *digest, const char *name)
{
    FILE *f = fopen(path, "we");
    if (!f)
        return -errno;
    fprintf(f, "%s  %s\n", digest, name);
    return fclose(f) == 0 ? 0 : -errno;
}

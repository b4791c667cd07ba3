/* quern models: what lies in the folder of models: list, verify, pack, remove. */
#define _GNU_SOURCE /* scandir */
#include "client/cli/cli.h"
#include "client/cli/store.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int is_model(const struct dirent *entry)
{
    return store_name_is_good(entry->d_name);
}

/* Size of folder/name + suffix; -1 where there is none. */
static long long size_of(const char *folder, const char *name, const char *suffix)
{
    char path[PATH_MAX];
    struct stat file;
    if (snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix) >= (int)sizeof path ||
        stat(path, &file) < 0)
        return -1;
    return file.st_size;
}

static int list(const char *folder, enum cli_output output)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, is_model, alphasort);
    if (n < 0)
        return cli_fail(CLI_OURS, "%s: %s", folder, strerror(errno));
    json_t *all = json_array();
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        long long size = size_of(folder, name, ""), image = size_of(folder, name, ".quern");
        bool noted = size_of(folder, name, ".sha256") > 0;
        if (output == CLI_OUTPUT_JSON)
            json_array_append_new(all, json_pack("{s:s, s:I, s:b, s:b}", "name", name, "bytes",
                                                 (json_int_t)size, "packed", image >= 0,
                                                 "digest_known", noted));
        else
            printf("%-52s %9.1f MB%s%s\n", name, (double)size / 1e6, image >= 0 ? ", packed" : "",
                   noted ? "" : ", no digest known");
        free(entries[i]);
    }
    free(entries);
    if (output == CLI_OUTPUT_JSON) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (n == 0) {
        printf("no models in %s\n", folder);
    }
    json_decref(all);
    return CLI_OK;
}

/* Runs quernd with two words and paths; its exit code, or one of ours after a sentence. */
static int run_service(const char *verb, const char *one, const char *two)
{
    char *argv[] = {(char *)"quernd", (char *)verb, (char *)one, (char *)two, NULL};
    const char *program = getenv("QUERND");
    pid_t pid;
    int status;
    argv[0] = (char *)(program && *program ? program : "quernd");
    int rc = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
    if (rc)
        return cli_fail(CLI_OURS, "quernd could not be run: %s", strerror(rc));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return cli_fail(CLI_OURS, "quernd: %s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : CLI_OURS;
}

static int verify(const char *folder, const char *name)
{
    char path[PATH_MAX], noted_path[PATH_MAX], image[PATH_MAX];
    char noted[STORE_DIGEST], digest[STORE_DIGEST];
    int rc = store_path(path, folder, name, "");
    if (!rc)
        rc = store_path(noted_path, folder, name, ".sha256");
    if (!rc)
        rc = store_path(image, folder, name, ".quern");
    if (rc)
        return rc;
    int r = store_digest(path, digest);
    if (r < 0)
        return cli_fail(CLI_OURS, "%s: %s", path, strerror(-r));
    if (store_read_noted(noted_path, noted) < 0)
        printf("%s: SHA-256 %s, nothing to compare it with\n", name, digest);
    else if (!strcmp(noted, digest))
        printf("%s: SHA-256 is right\n", name);
    else
        return cli_fail(CLI_OURS, "%s: SHA-256 is %s, not %s; remove it and pull it again", name,
                        digest, noted);
    return access(image, F_OK) == 0 ? run_service("verify", image, path) : CLI_OK;
}

static int pack(const char *folder, const char *name)
{
    char path[PATH_MAX], image[PATH_MAX];
    int rc = store_path(path, folder, name, "");
    if (!rc)
        rc = store_path(image, folder, name, ".quern");
    return rc ? rc : run_service("pack", path, image);
}

static int remove_model(const char *folder, const char *name)
{
    static const char *const suffixes[] = {".quern", ".sha256", ".part", ".part.tag", ""};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        int rc = store_path(path, folder, name, suffixes[i]);
        if (rc)
            return rc;
        if (unlink(path) < 0 && errno != ENOENT)
            return cli_fail(CLI_OURS, "%s: %s", path, strerror(errno));
    }
    printf("%s removed\n", name);
    return CLI_OK;
}

/* Runs an action on a model; the first file of a set is a name for all of it. */
static int run_on(const char *folder, const char *name, int (*run)(const char *, const char *),
                  bool each_file)
{
    char file[NAME_MAX + 1];
    unsigned part = 0;
    if (!store_name_is_good(name) || size_of(folder, name, "") < 0)
        return cli_fail(CLI_USAGE, "there is no model %s in %s", name, folder);
    fflush(stdout);
    int parts = store_parts(name, &part);
    int rc = run(folder, name);
    snprintf(file, sizeof file, "%s", name);
    for (int i = 2; each_file && part == 1 && i <= parts; i++) {
        store_part_name(file, (unsigned)i);
        int one = run(folder, file);
        rc = one ? one : rc;
    }
    return rc;
}

int cli_models(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const char *folder, const char *name);
        bool each_file; /* of a set; else the first one stands for it */
    } actions[] = {{"verify", verify, true}, {"pack", pack, false}, {"remove", remove_model, true}};
    struct cli_options o;
    char folder[PATH_MAX];
    int rc = cli_options_read(&o, "models", "folder output json", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    rc = store_folder(o.folder, folder);
    if (rc)
        return rc;
    if (o.n_words == 0 || (o.n_words == 1 && !strcmp(o.words[0], "list")))
        return list(folder, o.output);
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        if (strcmp(o.words[0], actions[i].name) || o.n_words < 2)
            continue;
        for (int j = 1; j < o.n_words; j++) {
            int one = run_on(folder, o.words[j], actions[i].run, actions[i].each_file);
            rc = one ? one : rc;
        }
        return rc;
    }
    return cli_fail(CLI_USAGE, "models takes list, or verify, pack or remove and names of models");
}

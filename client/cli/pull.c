/* quern pull: models from an address, a file or a short name into the folder of models. A model appears
 * under its name only when all of it is there and its bytes are those that were promised. */
#include "client/cli/cli.h"
#include "client/cli/fetch.h"
#include "client/cli/store.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct pull {
    const char *folder;
    const char *name;
    char path[PATH_MAX], part[PATH_MAX], tag[PATH_MAX], noted[PATH_MAX];
};

/* The address of a word: a short name's (of a set, that of this part), itself, or that of a file. Freed by
 * curl_free. */
static char *address_of(const char *word, int part)
{
    char text[PATH_MAX + 256], absolute[PATH_MAX];
    char *ret = NULL;
    CURLU *url = curl_url();
    if (!url)
        return NULL;
    if (store_short_name(word, part, text, sizeof text))
        curl_url_set(url, CURLUPART_URL, text, 0);
    else if (strstr(word, "://"))
        curl_url_set(url, CURLUPART_URL, word, 0);
    else if (realpath(word, absolute) && !curl_url_set(url, CURLUPART_SCHEME, "file", 0))
        curl_url_set(url, CURLUPART_PATH, absolute, CURLU_URLENCODE);
    if (curl_url_get(url, CURLUPART_URL, &ret, 0))
        ret = NULL;
    curl_url_cleanup(url);
    return ret;
}

/* The file name at the end of an address. Freed by the caller; NULL where it may not be one. */
static char *name_of_address(const char *address)
{
    char *path = NULL, *name = NULL;
    CURLU *url = curl_url();
    if (url && !curl_url_set(url, CURLUPART_URL, address, 0) &&
        !curl_url_get(url, CURLUPART_PATH, &path, CURLU_URLDECODE)) {
        const char *last = strrchr(path, '/');
        name = strdup(last ? last + 1 : path);
    }
    curl_free(path);
    curl_url_cleanup(url);
    if (name && !store_name_is_good(name)) {
        free(name);
        name = NULL;
    }
    return name;
}

static int open_part(const struct pull *p)
{
    int fd = open(p->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return cli_fail(-CLI_OURS, "%s: %s", p->part, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        return cli_fail(-CLI_BUSY, "%s is being fetched already; wait for that one", p->name);
    }
    return fd;
}

/* Whether the bytes are a model's and those of `want` ("": nobody said). Wrong ones are removed. */
static int check_bytes(const struct pull *p, int fd, const char *want, char digest[STORE_DIGEST])
{
    char magic[4] = "";
    int r = store_digest(p->part, digest);
    if (r < 0)
        return cli_fail(CLI_OURS, "%s: %s", p->part, strerror(-r));
    bool is_model = pread(fd, magic, sizeof magic, 0) == sizeof magic && !memcmp(magic, "GGUF", 4);
    if (is_model && (!want[0] || !strcmp(want, digest)))
        return 0;
    unlink(p->part);
    unlink(p->tag);
    if (!is_model)
        return cli_fail(CLI_OURS, "%s: what came is no GGUF file (a page that says why?); removed",
                        p->name);
    return cli_fail(CLI_OURS, "%s: its SHA-256 is %s, not %s; removed", p->name, digest, want);
}

/* The finished file under its name, also after a power cut. */
static int put_in_place(const struct pull *p, int fd)
{
    int folder = open(p->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool done =
        folder >= 0 && fsync(fd) == 0 && rename(p->part, p->path) == 0 && fsync(folder) == 0;
    int error = errno;
    if (folder >= 0)
        close(folder);
    return done ? 0 : cli_fail(CLI_OURS, "%s: %s", p->path, strerror(error));
}

static int fetch_and_check(const struct pull *p, const char *address, const char *sha256)
{
    char stated[STORE_DIGEST] = "", digest[STORE_DIGEST];
    int fd = open_part(p);
    if (fd < 0)
        return -fd;
    int rc = fetch(address, fd, p->tag, stated);
    const char *want = sha256 ? sha256 : stated;
    if (!rc)
        rc = check_bytes(p, fd, want, digest);
    if (!rc)
        rc = put_in_place(p, fd);
    close(fd);
    if (rc)
        return rc;
    unlink(p->tag);
    int r = store_note(p->noted, digest, p->name);
    if (r < 0)
        return cli_fail(CLI_OURS, "%s: %s", p->noted, strerror(-r));
    printf("%s\n  SHA-256 %s, %s\n", p->path, digest,
           sha256      ? "as asked for"
           : stated[0] ? "as the server states"
                       : "which nobody stated: compare it");
    return 0;
}

static int pull_one(const char *folder, const char *word, int part, const char *sha256)
{
    struct pull p = {.folder = folder};
    char *address = address_of(word, part);
    char *name = address ? name_of_address(address) : NULL;
    int rc = 0;
    if (!address)
        rc = cli_fail(CLI_USAGE,
                      "\"%s\" is no address, no file and no short name (quern pull lists those)",
                      word);
    else if (!name)
        rc = cli_fail(CLI_USAGE, "%s does not end with the name of a GGUF file", word);
    p.name = name;
    if (!rc)
        rc = store_path(p.path, folder, name, "");
    if (!rc)
        rc = store_path(p.part, folder, name, ".part");
    if (!rc)
        rc = store_path(p.tag, folder, name, ".part.tag");
    if (!rc)
        rc = store_path(p.noted, folder, name, ".sha256");
    if (!rc && access(p.path, F_OK) == 0)
        printf("%s is there already; quern models verify checks it\n", p.path);
    else if (!rc)
        rc = fetch_and_check(&p, address, sha256);
    free(name);
    curl_free(address);
    return rc;
}

/* All files of what a word names. */
static int pull_word(const char *folder, const char *word, const char *sha256)
{
    char address[PATH_MAX];
    int parts = store_short_name(word, 1, address, sizeof address);
    if (parts > 1 && sha256)
        return cli_fail(CLI_USAGE, "%s is %d files; --sha256 is for one", word, parts);
    int rc = pull_one(folder, word, 1, sha256);
    for (int part = 2; part <= parts && !rc; part++)
        rc = pull_one(folder, word, part, sha256);
    if (parts > 1 && !rc)
        printf("%s is these %d files; the first one is the model's name\n", word, parts);
    return rc;
}

static bool is_digest(const char *text)
{
    return strlen(text) == STORE_DIGEST - 1 && strspn(text, "0123456789abcdef") == STORE_DIGEST - 1;
}

int cli_pull(int argc, char **argv)
{
    struct cli_options o;
    char folder[PATH_MAX];
    int rc = cli_options_read(&o, "pull", "folder sha256", argc, argv);
    if (rc)
        return rc < 0 ? CLI_OK : rc;
    if (o.sha256 && (o.n_words != 1 || !is_digest(o.sha256)))
        return cli_fail(CLI_USAGE, "--sha256 takes 64 digits 0-9a-f, for one file");
    if (!o.n_words) {
        store_list_short_names();
        return CLI_OK;
    }
    rc = store_folder(o.folder, folder);
    if (rc)
        return rc;
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        return cli_fail(CLI_OURS, "libcurl could not start");
    for (int i = 0; i < o.n_words; i++) {
        int one = pull_word(folder, o.words[i], o.sha256);
        rc = one ? one : rc;
    }
    curl_global_cleanup();
    return rc;
}

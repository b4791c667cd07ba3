/* One file by libcurl, resumed and bounded (see fetch.h).
 *
 * A server is a stranger: what it says of ranges, lengths and room is compared with what it does. Bytes
 * of two versions of a file are never mixed: a range is asked for only together with the tag that the
 * first bytes had. */
#include "client/cli/fetch.h"

#include "client/cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define TRIES_WITHOUT_BYTES 5
#define TRIES_MAX           200
#define TAG_MAX             200

struct transfer {
    CURL *curl;
    int fd;
    const char *tag_path;
    int64_t have;       /* bytes in the file */
    int64_t from;       /* where this try began */
    int64_t range_from; /* where the server says that its bytes begin; -1: not said */
    int64_t stated;     /* the whole size that the server stated beforehand; 0: not said */
    char tag[TAG_MAX];
    char digest[STORE_DIGEST];
    bool begun; /* bytes of this try have come */
    bool shown; /* the progress bar is on the screen */
    bool terminal;
    char why[256]; /* why we ended it */
};

/* ---- what the server says ----------------------------------------------------------------------- */

/* The value of a header line if it has this name, without spaces, quotes and end. */
static bool header_value(const char *line, size_t n, const char *name, char *ret, size_t ret_size)
{
    size_t n_name = strlen(name), at = n_name + 1, size = 0;
    if (n <= n_name || strncasecmp(line, name, n_name) || line[n_name] != ':')
        return false;
    while (at < n && (line[at] == ' ' || line[at] == '\t'))
        at++;
    while (n > at && strchr(" \r\n", line[n - 1]))
        n--;
    for (; at < n && size + 1 < ret_size; at++)
        ret[size++] = line[at];
    ret[size] = 0;
    return true;
}

static size_t on_header(char *line, size_t one, size_t n, void *arg)
{
    struct transfer *t = arg;
    char value[TAG_MAX];
    n *= one;
    if (n > 5 && !strncmp(line, "HTTP/", 5)) { /* another answer: of a redirect, or the last one */
        t->tag[0] = 0;
        t->range_from = -1;
    } else if (header_value(line, n, "etag", value, sizeof value)) {
        bool is_strong = value[0] == '"' && strlen(value) < TAG_MAX - 1;
        snprintf(t->tag, sizeof t->tag, "%s", is_strong ? value : "");
    } else if (header_value(line, n, "content-range", value, sizeof value)) {
        if (sscanf(value, "bytes %" SCNd64, &t->range_from) != 1)
            t->range_from = -1;
    } else if (header_value(line, n, "x-linked-etag", value, sizeof value)) {
        char digest[STORE_DIGEST]; /* the hub states the SHA-256 of large files so */
        if (sscanf(value, "\"%64[0-9a-f]\"", digest) == 1 && strlen(digest) == STORE_DIGEST - 1)
            memcpy(t->digest, digest, sizeof digest);
    } else if (header_value(line, n, "x-linked-size", value, sizeof value)) {
        t->stated = strtoll(value, NULL, 10);
    }
    return n;
}

static void keep_tag(const struct transfer *t)
{
    FILE *f = fopen(t->tag_path, "we");
    if (f) {
        fputs(t->tag, f);
        fclose(f);
    }
}

static void read_tag(const char *path, char ret[TAG_MAX])
{
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(ret, 1, TAG_MAX - 1, f) : 0;
    if (f)
        fclose(f);
    ret[n] = 0;
    if (n == 0 || ret[0] != '"' || strpbrk(ret, "\r\n"))
        ret[0] = 0;
}

/* ---- bytes -------------------------------------------------------------------------------------- */

static bool begin(struct transfer *t)
{
    long code = 0;
    curl_off_t length = -1;
    struct statvfs disk;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_getinfo(t->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    t->begun = true;
    if (code != 206)
        t->from = 0; /* the whole file: what there was is of no use */
    if (ftruncate(t->fd, t->from) < 0) {
        snprintf(t->why, sizeof t->why, "the file cannot be shortened: %s", strerror(errno));
        return false;
    }
    t->have = t->from;
    if (code == 206 && t->range_from != t->from) {
        ftruncate(t->fd, 0) == 0 ? (void)(t->have = 0) : (void)0;
        snprintf(t->why, sizeof t->why,
                 "the server sends bytes from %" PRId64 ", not from %" PRId64, t->range_from,
                 t->from);
        return false;
    }
    if (length >= 0 && t->stated > 0 && t->from + length != t->stated) {
        snprintf(t->why, sizeof t->why, "the server states %" PRId64 " bytes and sends %" PRId64,
                 t->stated, t->from + (int64_t)length);
        return false;
    }
    if (length > 0 && fstatvfs(t->fd, &disk) == 0 &&
        (uint64_t)length > (uint64_t)disk.f_bavail * disk.f_frsize) {
        snprintf(
            t->why, sizeof t->why,
            "%.1f MB more are needed, and %.1f MB are free: make room, or give another --folder",
            (double)length / 1e6, (double)disk.f_bavail * (double)disk.f_frsize / 1e6);
        return false;
    }
    keep_tag(t);
    return true;
}

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg)
{
    struct transfer *t = arg;
    n *= one;
    if (!t->begun && !begin(t))
        return 0;
    for (size_t done = 0; done < n;) {
        ssize_t r = pwrite(t->fd, bytes + done, n - done, t->have);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            snprintf(t->why, sizeof t->why,
                     "%s after %.1f MB, which are kept: make room and ask again",
                     r < 0 ? strerror(errno) : "nothing could be written", (double)t->have / 1e6);
            return 0;
        }
        done += (size_t)r;
        t->have += r;
    }
    return n;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up)
{
    struct transfer *t = arg;
    const int width = 30;
    (void)up_total, (void)up;
    if (!t->terminal || total <= 0 || !t->begun)
        return 0;
    double part = (double)(t->from + now) / (double)(t->from + total);
    curl_off_t rate = 0;
    curl_easy_getinfo(t->curl, CURLINFO_SPEED_DOWNLOAD_T, &rate);
    int done = (int)(part * width);
    fprintf(stderr, "\r\033[K[%.*s%.*s] %3d %% of %.1f MB, %.1f MB/s", done,
            "##############################", width - done, "..............................",
            (int)(part * 100), (double)(t->from + total) / 1e6, (double)rate / 1e6);
    t->shown = true;
    return 0;
}

/* ---- tries -------------------------------------------------------------------------------------- */

static bool is_passing(CURLcode rc, long code)
{
    switch (rc) {
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
        return true;
    case CURLE_HTTP_RETURNED_ERROR:
        return code == 429 || code >= 500;
    default:
        return false;
    }
}

static void set_options(struct transfer *t, const char *url, char *error)
{
    CURL *c = t->curl;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "https,http,file");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR,
                     strncasecmp(url, "https:", 6) ? "https,http" : "https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 10L);
    curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 20L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, 30L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "quern");
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
}

/* One try from where the file ends, or from the beginning. *ret_more: another one may help. */
static int try_once(struct transfer *t, char *error, bool *ret_more)
{
    char tag[TAG_MAX], line[TAG_MAX + 16], range[32];
    struct curl_slist *headers = NULL;
    long code = 0;
    t->begun = false;
    t->range_from = -1;
    t->why[0] = 0;
    error[0] = 0;
    read_tag(t->tag_path, tag);
    t->from = tag[0] ? t->have : 0;
    curl_easy_setopt(t->curl, CURLOPT_RANGE, NULL);
    if (t->from > 0) {
        snprintf(range, sizeof range, "%" PRId64 "-", t->from);
        snprintf(line, sizeof line, "If-Range: %s", tag);
        curl_easy_setopt(t->curl, CURLOPT_RANGE, range);
        headers = curl_slist_append(NULL, line);
    }
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, headers);
    CURLcode rc = curl_easy_perform(t->curl);
    curl_slist_free_all(headers);
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &code);
    if (rc == CURLE_HTTP_RETURNED_ERROR && code == 416 && t->stated == t->have && t->have > 0)
        return 0; /* nothing lies behind what we have */
    if (rc == CURLE_HTTP_RETURNED_ERROR && code == 416) {
        unlink(t->tag_path); /* from the beginning */
        *ret_more = true;
    } else {
        *ret_more =
            is_passing(rc, code) || (rc == CURLE_WRITE_ERROR && t->have == 0 && t->from > 0);
    }
    if (rc == CURLE_OK && !t->begun)
        snprintf(t->why, sizeof t->why, "the server sent nothing");
    if (rc == CURLE_OK && t->begun)
        return 0;
    if (!t->why[0])
        snprintf(t->why, sizeof t->why, "%s", error[0] ? error : curl_easy_strerror(rc));
    return CLI_OURS;
}

int fetch(const char *url, int fd, const char *tag_path, char digest[STORE_DIGEST])
{
    char error[CURL_ERROR_SIZE];
    struct stat file;
    struct transfer t = {.fd = fd, .tag_path = tag_path, .terminal = isatty(STDERR_FILENO)};
    if (fstat(fd, &file) < 0)
        return cli_fail(CLI_OURS, "the partial file cannot be read: %s", strerror(errno));
    t.have = file.st_size;
    t.curl = curl_easy_init();
    if (!t.curl)
        return cli_fail(CLI_OURS, "libcurl could not start");
    set_options(&t, url, error);
    int rc = CLI_OURS, n_idle = 0;
    for (int i = 0; i < TRIES_MAX && rc; i++) {
        bool more = false;
        int64_t before = t.have;
        rc = try_once(&t, error, &more);
        n_idle = t.have > before ? 0 : n_idle + 1;
        if (!rc || !more || n_idle == TRIES_WITHOUT_BYTES)
            break;
        long ms = 100L << n_idle;
        nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    }
    if (t.shown)
        fputs("\r\033[K", stderr);
    curl_easy_cleanup(t.curl);
    if (rc)
        return cli_fail(rc, "%s: %s", url, t.why);
    memcpy(digest, t.digest, STORE_DIGEST);
    return 0;
}

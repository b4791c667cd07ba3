/* Where the text of a request comes from: words, pipes, lists of ids. */
#include "client/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int cli_read_all(int fd, char **ret, size_t *ret_size)
{
    size_t size = 0, capacity = 1 << 16;
    char *text = malloc(capacity);
    if (!text)
        return cli_fail(CLI_OURS, "out of memory");
    for (;;) {
        if (size + 1 == capacity) {
            char *larger = capacity > SIZE_MAX / 2 ? NULL : realloc(text, capacity * 2);
            if (!larger) {
                free(text);
                return cli_fail(CLI_OURS, "out of memory reading standard input");
            }
            text = larger;
            capacity *= 2;
        }
        ssize_t n = read(fd, text + size, capacity - size - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            free(text);
            return cli_fail(CLI_OURS, "reading standard input failed: %m");
        }
        if (n == 0)
            break;
        size += (size_t)n;
    }
    text[size] = 0;
    *ret = text;
    *ret_size = size;
    return 0;
}

int cli_input(const struct cli_options *o, char **ret, size_t *ret_size)
{
    if (o->n_words == 0 || (o->n_words == 1 && !strcmp(o->words[0], "-")))
        return cli_read_all(STDIN_FILENO, ret, ret_size);
    size_t size = 0;
    for (int i = 0; i < o->n_words; i++)
        size += strlen(o->words[i]) + 1;
    char *text = malloc(size);
    if (!text)
        return cli_fail(CLI_OURS, "out of memory");
    char *at = text;
    for (int i = 0; i < o->n_words; i++) {
        if (i)
            *at++ = ' ';
        at = stpcpy(at, o->words[i]);
    }
    *ret = text;
    *ret_size = (size_t)(at - text);
    return 0;
}

bool cli_has_piped_input(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode));
}

int cli_parse_ids(const char *text, uint32_t **ret, size_t *ret_n)
{
    size_t n = 0;
    uint32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof *ids);
    if (!ids)
        return cli_fail(CLI_OURS, "out of memory");
    for (const char *p = text;;) {
        p += strspn(p, " ,\t\r\n");
        if (!*p)
            break;
        char *end;
        errno = 0;
        unsigned long long id = strtoull(p, &end, 10);
        if (*p < '0' || *p > '9' || errno || id > UINT32_MAX ||
            (*end && !strchr(" ,\t\r\n", *end))) {
            int length = (int)strcspn(p, " ,\t\r\n");
            cli_fail(CLI_USAGE, "\"%.*s\" is no token id", length < 40 ? length : 40, p);
            free(ids);
            return CLI_USAGE;
        }
        ids[n++] = (uint32_t)id;
        p = end;
    }
    *ret = ids;
    *ret_n = n;
    return 0;
}

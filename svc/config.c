/* Reading quern.conf (see config.h). */
#include "svc/config.h"

#include "chat/text.h"

#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_ROWS_MAX = 64, SECTION_MAX = 40 };

#define MODEL     "model " /* [model NAME] */
#define MODEL_LEN (sizeof MODEL - 1)
#define FILE_KEY  "file" /* in it: no row of the table */

struct reading {
    struct options *options;
    config_problem_fn *fn;
    void *arg;
    char *why; /* the first problem */
    size_t why_size;
    unsigned n_problems;
    /* of the file under way */
    const char *path;
    FILE *file;
    int line;             /* that was read last */
    int seen[N_ROWS_MAX]; /* line of each row of options_table; 0: not yet */
    struct {
        char name[OPTIONS_MODEL_NAME_MAX + 1]; /* "": none yet */
        int seen[N_ROWS_MAX + 1];              /* the last one: of its file */
    } models[OPTIONS_MODELS_MAX];
    char *buffer; /* getline's */
    size_t buffer_size;
    char unknown[SECTION_MAX]; /* section whose problem was told already */
};

__attribute__((format(printf, 2, 3))) static void problem(struct reading *r, const char *format,
                                                          ...)
{
    char sentence[320], whole[PATH_MAX + 400];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    snprintf(whole, sizeof whole, "%s:%d: %s", r->path, r->line, sentence);
    if (r->n_problems++ == 0)
        snprintf(r->why, r->why_size, "%s", whole);
    if (r->fn)
        r->fn(r->arg, whole);
}

/* ---- lines --------------------------------------------------------------------------------- */

/* libinih's reader: counts the lines, refuses what it would cut in two or take for the end of a
 * string, and takes indentation away, which libinih would read as a continued value. */
static char *read_line(char *ret, int size, void *arg)
{
    struct reading *r = arg;
    ssize_t n = getline(&r->buffer, &r->buffer_size, r->file);
    if (n < 0)
        return NULL;
    r->line++;
    const char *text = r->buffer + strspn(r->buffer, " \t");
    if (memchr(r->buffer, 0, (size_t)n))
        problem(r, "The line has a zero byte; this is no text file.");
    else if (strlen(text) >= (size_t)size - 1)
        problem(r, "The line has more than %d bytes; use a shorter path.", size - 2);
    else
        return strcpy(ret, text);
    return strcpy(ret, "\n");
}

static const char *nearest_section(const char *name)
{
    const char *best = NULL;
    unsigned best_distance = UINT_MAX;
    for (const struct option_row *row = options_table; row->name; row++) {
        unsigned distance = row->section ? chat_word_distance(name, row->section) : UINT_MAX;
        if (distance < best_distance) {
            best_distance = distance;
            best = row->section;
        }
    }
    return best && best_distance <= 2 ? best : NULL;
}

static bool is_section(const char *name)
{
    for (const struct option_row *row = options_table; row->name; row++)
        if (row->section && !strcmp(row->section, name))
            return true;
    return false;
}

static void unknown_section(struct reading *r, const char *section)
{
    if (!strncmp(r->unknown, section, sizeof r->unknown - 1))
        return; /* once for all its keys */
    snprintf(r->unknown, sizeof r->unknown, "%s", section);
    const char *nearest = nearest_section(section);
    problem(r, "There is no section [%.40s]%s%s%s", section, nearest ? ", did you mean [" : "",
            nearest ? nearest : "", nearest ? "]?" : ".");
}

/* Where the lines of a model's section are noted; NULL where there is no room: it is refused then. */
static int *seen_of(struct reading *r, const char *name)
{
    for (uint32_t i = 0; i < OPTIONS_MODELS_MAX; i++) {
        if (!*r->models[i].name)
            snprintf(r->models[i].name, sizeof r->models[i].name, "%s", name);
        if (!strcmp(r->models[i].name, name))
            return r->models[i].seen;
    }
    return NULL;
}

/* A key in [model NAME]: its file, or a value that each model may have for itself. */
static void take_of_model(struct reading *r, const char *model, const char *name, const char *value)
{
    char why[200] = "";
    const bool is_file = !strcmp(name, FILE_KEY);
    const struct option_row *row = is_file ? NULL : options_find(name);
    if (!is_file && (!row || !row->each)) {
        problem(r,
                "There is no key \"%.40s\" for one model; there are file, context, sequences, kv, "
                "kv-bytes, rope-scaling, rope-factor and rope-original.",
                name);
        return;
    }
    int *seen = seen_of(r, model);
    if (seen) {
        int *line = &seen[is_file ? N_ROWS_MAX : row - options_table];
        if (*line)
            problem(r, "\"%s\" was given in line %d already.", name, *line);
        *line = r->line;
    }
    int rc = options_set_of(r->options, model, row, value, why, sizeof why);
    if (rc < 0)
        problem(r, "%s %s", name, rc == -ENOMEM ? "found no memory." : why);
}

static int take(void *arg, const char *section, const char *name, const char *value)
{
    struct reading *r = arg;
    char why[200] = "";
    const struct option_row *row = options_find(name);
    if (!strncmp(section, MODEL, MODEL_LEN)) {
        take_of_model(r, section + MODEL_LEN, name, value);
        return 1;
    }
    if (*section && !is_section(section)) {
        unknown_section(r, section);
        return 1;
    }
    if (!row || !row->section) {
        const char *nearest = options_nearest(name, *section ? section : NULL);
        if (!nearest)
            nearest = options_nearest(name, NULL);
        problem(r, "There is no key \"%.40s\"%s%s%s", name, nearest ? ", did you mean \"" : "",
                nearest ? nearest : "", nearest ? "\"?" : ".");
        return 1;
    }
    if (strcmp(row->section, section)) {
        problem(r, "\"%s\" belongs in the section [%s].", name, row->section);
        return 1;
    }
    int *seen = &r->seen[row - options_table];
    if (*seen)
        problem(r, "\"%s\" was given in line %d already.", name, *seen);
    *seen = r->line;
    int rc = options_set(r->options, row, value, why, sizeof why);
    if (rc < 0)
        problem(r, "%s %s", name, rc == -ENOMEM ? "found no memory." : why);
    return 1;
}

/* ---- files --------------------------------------------------------------------------------- */

static int read_file(struct reading *r, const char *path)
{
    r->path = path;
    r->line = 0;
    memset(r->seen, 0, sizeof r->seen);
    memset(r->models, 0, sizeof r->models);
    r->unknown[0] = 0;
    r->file = fopen(path, "re");
    if (!r->file) {
        int error = -errno;
        snprintf(r->why, r->why_size, "%s cannot be read: %s.", path, strerror(-error));
        return error;
    }
    int at = ini_parse_stream(read_line, r, take, r);
    int error = ferror(r->file) ? -EIO : at < 0 ? -ENOMEM : 0;
    fclose(r->file);
    if (error < 0) {
        snprintf(r->why, r->why_size, "%s cannot be read: %s.", path, strerror(-error));
        return error;
    }
    if (at > 0) {
        r->line = at;
        problem(r, "This is neither \"key = value\" nor \"[section]\" nor a comment.");
    }
    return 0;
}

static int is_drop_in(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] != '.' && n > 5 && !strcmp(entry->d_name + n - 5, ".conf");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

int config_read(struct options *options, const char *path, config_problem_fn *fn, void *arg,
                char *why, size_t why_size)
{
    struct reading r = {.options = options, .fn = fn, .arg = arg, .why = why, .why_size = why_size};
    char folder[PATH_MAX], file[PATH_MAX + NAME_MAX + 2];
    struct dirent **entries = NULL;
    int rc = read_file(&r, path), n = 0;
    if (rc == 0 && snprintf(folder, sizeof folder, "%s.d", path) < (int)sizeof folder)
        n = scandir(folder, &entries, is_drop_in, by_name);
    if (n < 0 && errno != ENOENT) {
        rc = -errno;
        snprintf(why, why_size, "%s cannot be read: %s.", folder, strerror(-rc));
    }
    for (int i = 0; i < n; i++) {
        snprintf(file, sizeof file, "%s/%s", folder, entries[i]->d_name);
        if (rc == 0)
            rc = read_file(&r, file);
        free(entries[i]);
    }
    free(entries);
    free(r.buffer);
    if (rc < 0)
        return rc;
    if (r.n_problems > 1 && !fn) {
        size_t used = strlen(why);
        snprintf(why + used, why_size - used, " (%u more; quernd --check-config lists them)",
                 r.n_problems - 1);
    }
    return r.n_problems ? -EINVAL : 0;
}

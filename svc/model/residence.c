/* Owns: the choice of the source of the weights, and the thread that writes the image. */
#define _GNU_SOURCE /* asprintf */
#include "svc/model/residence.h"

#include "mm/why.h"
#include "svc/model/vocab.h"
#include "svc/text/tables.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TABLES_PAGE    4096 /* they begin at a multiple: read without a copy */
#define SUFFIX         ".quern"
#define AUTO_BYTES_MIN (64ull << 20) /* smaller models pack faster than an image is worth */
#define WAIT_POLLS_MAX 6000          /* of a tenth of a second, for another service that packs */

struct model_image_job {
    pthread_t thread;
    struct mm_image_writer *writer;
    struct mm_image_key key;
    uint64_t content[2];
    struct mm_image_part parts[2]; /* of the arena: read-only, and mapped until the job has ended */
    unsigned n_parts;
    void (*done_fn)(int error, const char *sentence);
    bool joined; /* the owner's */
    int error;   /* what writing returned; once joined */
    int stop;    /* atomic: set by the owner */
    int done;    /* atomic: notes are complete */
    char notes[PATH_MAX + 256];
};

struct waiting { /* for another service that writes the same image */
    const struct model_options *options;
    uint64_t total;
    unsigned n_polls;
    int cancelled; /* what the caller's progress returned */
};

struct packing { /* progress of packing */
    const struct model_residence *residence;
    const struct model_options *options;
    const struct model_vocab_job *vocab;
};

struct reading { /* progress of reading an image */
    const struct model_residence *residence;
    const struct model_options *options;
    uint64_t total;
};

static void open_image(struct model_residence *residence, const struct model_weights *weights,
                       char *path, char *notes, size_t notes_size);
static void close_image(struct model_residence *residence);
static int read_image(struct model_residence *residence, struct model_weights *weights,
                      const struct model_options *options, char *notes, size_t notes_size);
static int pack(struct model_residence *residence, struct model_weights *weights,
                struct text_tokenizer **tokenizer, const struct gguf *gguf,
                const struct model_options *options, struct ops_pool *pool,
                struct mm_image_writer *writer, char *notes, size_t notes_size, char *why,
                size_t why_size);
static int end_vocab(struct model_residence *residence, struct text_tokenizer **tokenizer,
                     char *why, size_t why_size);
static int take_tables(const struct model_residence *residence, const struct model_weights *weights,
                       struct text_tokenizer **tokenizer, const struct gguf *gguf, bool own,
                       char *notes, size_t notes_size, char *why, size_t why_size);
static char *image_path(const struct gguf *gguf, const struct model_options *options,
                        const struct model_weights *weights, bool in_cache);
static int begin_image(struct mm_image_writer **ret, const char *path,
                       const struct model_options *options, const struct model_weights *weights,
                       char *notes, size_t notes_size);
static void start_job(struct model_residence *residence, const struct model_weights *weights,
                      const struct model_options *options, struct mm_image_writer *writer,
                      const uint64_t content[2], char *notes, size_t notes_size);

static size_t tables_offset(const struct model_weights *weights)
{
    return (weights->arena_bytes + TABLES_PAGE - 1) / TABLES_PAGE * TABLES_PAGE;
}

size_t model_residence_bytes(const struct model_residence *residence,
                             const struct model_weights *weights)
{
    return tables_offset(weights) + residence->tables_bytes;
}

static void find_in_store(struct model_residence *residence, struct model_weights *weights,
                          const struct model_options *options, char *notes, size_t notes_size)
{
    char sentence[512], key[MM_STORE_KEY_BYTES + 1];
    snprintf(key, sizeof key, "%016" PRIx64 "-%016" PRIx64, residence->key.source[0],
             residence->key.layout);
    const char *folder = strcmp(options->store, "auto") == 0        ? NULL
                         : strcmp(options->store, "hugetlbfs") == 0 ? ""
                                                                    : options->store;
    if (mm_store_init(&residence->store, key, folder, sentence, sizeof sentence) < 0 || sentence[0])
        mm_why_add(notes, notes_size, "%s", sentence);
    residence->adopted = mm_store_adopt(&weights->arena, &residence->store, weights->arena_bytes,
                                        sentence, sizeof sentence) == 0;
    residence->kept = residence->adopted;
    if (sentence[0])
        mm_why_add(notes, notes_size, "%s", sentence);
}

void model_residence_find(struct model_residence *ret, struct model_weights *weights,
                          const struct gguf *gguf, const struct model_options *options, char *notes,
                          size_t notes_size)
{
    *ret = (struct model_residence){.store.place = MM_STORE_NONE};
    mm_why_set(notes, notes_size, "%s", "");
    if ((!options->image && !options->store) ||
        model_residence_identify(&ret->key, gguf, weights) < 0)
        return;
    ret->known = true;
    if (options->store)
        find_in_store(ret, weights, options, notes, notes_size);
    for (int in_cache = 0; in_cache < 2 && !ret->adopted && !ret->image; in_cache++)
        open_image(ret, weights, image_path(gguf, options, weights, in_cache), notes, notes_size);
}

void model_residence_sweep(const struct model_residence *const *residences, size_t n, char *notes,
                           size_t notes_size)
{
    const struct mm_store **stores = calloc(n ? n : 1, sizeof *stores);
    size_t n_stores = 0;
    for (size_t i = 0; stores && i < n; i++)
        if (residences[i]->store.place != MM_STORE_NONE)
            stores[n_stores++] = &residences[i]->store;
    if (n_stores > 0)
        mm_store_sweep(stores, n_stores, notes, notes_size);
    free(stores);
}

/* Becomes the writer of the image that this start will pack, unless somebody else finishes it
 * meanwhile: then it is opened. `failed`: there is one, and it could not be read. 0 or -ECANCELED. */
static int begin_or_open(struct model_residence *residence, struct mm_image_writer **ret,
                         bool failed, const struct model_weights *weights, const struct gguf *gguf,
                         const struct model_options *options, char *notes, size_t notes_size)
{
    for (int in_cache = 0; in_cache < 2 && !*ret && !residence->image; in_cache++) {
        char again[PATH_MAX + 1024] = "", *path = image_path(gguf, options, weights, in_cache);
        if (!path)
            continue;
        int r = begin_image(ret, path, options, weights, notes, notes_size);
        if ((r == 0 && !failed) || r == -EEXIST)
            open_image(residence, weights, path, again, sizeof again);
        else
            free(path);
        if (r == -ECANCELED)
            return r;
    }
    return 0;
}

int model_residence_load(struct model_residence *residence, struct model_weights *weights,
                         struct text_tokenizer **tokenizer, const struct gguf *gguf,
                         const struct model_options *options, struct ops_pool *pool, char *notes,
                         size_t notes_size, char *why, size_t why_size)
{
    struct mm_image_writer *writer = NULL;
    bool own = true; /* nobody else wrote the tables */
    bool failed = residence->image != NULL;
    int r = residence->adopted ? 0 : -ENOENT;
    if (residence->adopted) {
        mm_why_add(notes, notes_size, "Weights kept from the process before, on %s.",
                   mm_page_kind_name(weights->arena.kind));
    } else if (residence->image) {
        own = residence->own_image;
        r = read_image(residence, weights, options, notes, notes_size);
    }
    if (r == -ENOENT && residence->known) {
        r = begin_or_open(residence, &writer, failed, weights, gguf, options, notes, notes_size);
        own = residence->own_image;
        if (r == 0)
            r = residence->image ? read_image(residence, weights, options, notes, notes_size)
                                 : -ENOENT;
    }
    if (r == -ENOENT && !residence->vocab) { /* the image with its tables failed us */
        r = model_vocab_read(tokenizer, gguf, why, why_size);
        residence->tables_bytes = *tokenizer ? text_tables_bytes(*tokenizer) : 0;
        r = r == 0 ? -ENOENT : r;
    }
    if (r == -ENOENT) {
        own = true;
        r = pack(residence, weights, tokenizer, gguf, options, pool, writer, notes, notes_size, why,
                 why_size);
    } else {
        mm_image_writer_free(writer);
    }
    close_image(residence);
    if (r == -ECANCELED)
        mm_why_set(why, why_size, "Loading was cancelled.");
    if (r == 0) /* packing has ended it; an image that another service finished has left it */
        r = end_vocab(residence, tokenizer, why, why_size);
    if (r < 0)
        return r;
    model_weights_point(weights);
    return take_tables(residence, weights, tokenizer, gguf, own, notes, notes_size, why, why_size);
}

const char *model_residence_image_notes(const struct model_residence *residence)
{
    const struct model_image_job *job = residence->job;
    return job && __atomic_load_n(&job->done, __ATOMIC_ACQUIRE) ? job->notes : NULL;
}

int model_residence_wait(struct model_residence *residence)
{
    struct model_image_job *job = residence->job;
    if (!job)
        return residence->was_read ? 1 : -ENOENT;
    if (!job->joined)
        pthread_join(job->thread, NULL);
    job->joined = true;
    return job->error;
}

void model_residence_done(struct model_residence *residence)
{
    struct model_image_job *job = residence->job;
    if (job) {
        __atomic_store_n(&job->stop, 1, __ATOMIC_RELAXED);
        if (!job->joined)
            pthread_join(job->thread, NULL);
        free(job);
    }
    char why[1];
    struct text_tokenizer *tokenizer = NULL;
    if (end_vocab(residence, &tokenizer, why, sizeof why) == 0)
        text_tokenizer_free(tokenizer);
    close_image(residence);
    *residence = (struct model_residence){.store.place = MM_STORE_NONE};
}

int model_residence_identify(struct mm_image_key *ret, const struct gguf *gguf,
                             const struct model_weights *weights)
{
    struct mm_image_key key = {.layout = model_weights_layout(weights) ^ text_tables_version()};
    unsigned n = gguf_n_files(gguf), n_open = 0;
    int *fds = calloc(n, sizeof *fds);
    int r = fds ? 0 : -ENOMEM;
    for (; r == 0 && n_open < n; n_open++) {
        fds[n_open] = open(gguf_path(gguf, n_open), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fds[n_open] < 0) {
            r = -errno;
            break;
        }
    }
    if (r == 0)
        r = mm_image_identify(&key, fds, n);
    while (n_open > 0)
        close(fds[--n_open]);
    free(fds);
    if (r == 0)
        *ret = key;
    return r;
}

/* Beside the model, else (in_cache) in the cache folder under a name that tells the folders of two
 * models of one name apart. NULL: no such place. The caller frees it. */
static char *image_path(const struct gguf *gguf, const struct model_options *options,
                        const struct model_weights *weights, bool in_cache)
{
    const char *model = gguf_path(gguf, 0);
    char *path = NULL;
    if (!options->image)
        return NULL;
    if (strcmp(options->image, "auto") != 0)
        return in_cache ? NULL : strdup(options->image);
    if (weights->arena_bytes < AUTO_BYTES_MIN)
        return NULL;
    if (!in_cache)
        return asprintf(&path, "%s" SUFFIX, model) < 0 ? NULL : path;
    const char *slash = strrchr(model, '/');
    struct stat st;
    if (!options->cache_folder || stat(model, &st) < 0 ||
        asprintf(&path, "%s/%s-%" PRIx64 SUFFIX, options->cache_folder, slash ? slash + 1 : model,
                 (uint64_t)st.st_ino) < 0)
        return NULL;
    return path;
}

static void say_under_way(const struct model_residence *residence)
{
    if (residence->under_way)
        residence->under_way(residence->under_way_arg);
}

/* ---- an image ------------------------------------------------------------------------------ */

static int image_progress(void *arg, uint64_t done)
{
    const struct reading *reading = arg;
    const struct model_options *o = reading->options;
    say_under_way(reading->residence);
    return o->progress ? o->progress(o->progress_arg, done, reading->total) : 0;
}

static int finish_and_keep(struct model_residence *residence, struct model_weights *weights,
                           char *notes, size_t notes_size)
{
    char sentence[512] = "";
    int r = mm_arena_finish(&weights->arena, sentence, sizeof sentence);
    if (sentence[0])
        mm_why_add(notes, notes_size, "%s", sentence);
    if (r < 0)
        return r;
    if (residence->store.place == MM_STORE_NONE)
        return mm_arena_seal(&weights->arena);
    residence->kept =
        mm_store_keep(&weights->arena, &residence->store, sentence, sizeof sentence) == 0;
    if (!residence->kept)
        mm_why_add(notes, notes_size, "%s", sentence);
    return 0;
}

/* Keeps open the image at `path`, which it takes, if it is there and fits. */
static void open_image(struct model_residence *residence, const struct model_weights *weights,
                       char *path, char *notes, size_t notes_size)
{
    struct mm_image *image;
    struct mm_image_info info;
    uint64_t weights_bytes = 0, tables_bytes = 0;
    char sentence[PATH_MAX + 512] = "";
    if (!path)
        return;
    int r = mm_image_open(&image, path, &residence->key, NULL, sentence, sizeof sentence);
    if (r < 0) {
        if (r != -ENOENT)
            mm_why_add(notes, notes_size, "%s", sentence);
        free(path);
        return;
    }
    mm_image_section(image, MODEL_IMAGE_TABLES,
                     &tables_bytes); /* a model without a tokenizer has none */
    if (mm_image_section(image, MODEL_IMAGE_WEIGHTS, &weights_bytes) < 0 ||
        weights_bytes != weights->arena_bytes || tables_bytes > MODEL_TABLES_BYTES_MAX) {
        mm_why_add(notes, notes_size, "%s holds other weights.", path);
        mm_image_free(image);
        free(path);
        return;
    }
    mm_image_info(image, &info);
    residence->image = image;
    residence->image_path = path;
    residence->own_image = info.own;
    residence->tables_bytes = tables_bytes;
}

static void close_image(struct model_residence *residence)
{
    mm_image_free(residence->image);
    free(residence->image_path);
    residence->image = NULL;
    residence->image_path = NULL;
}

/* Reads the open image. -ENOENT: it cannot be used, which was said, and is closed. Other errors end
 * the load. */
static int read_image(struct model_residence *residence, struct model_weights *weights,
                      const struct model_options *options, char *notes, size_t notes_size)
{
    struct reading reading = {residence, options, weights->arena_bytes + residence->tables_bytes};
    char sentence[PATH_MAX + 512] = "";
    size_t bytes = model_residence_bytes(residence, weights);
    int r = mm_store_begin(&weights->arena, &residence->store, bytes, options->huge_pages, sentence,
                           sizeof sentence);
    if (sentence[0])
        mm_why_add(notes, notes_size, "%s", sentence);
    if (r < 0) { /* packing will find no memory either, and says so */
        close_image(residence);
        return -ENOENT;
    }
    const struct mm_image_place places[] = {
        {MODEL_IMAGE_WEIGHTS, weights->arena.base},
        {MODEL_IMAGE_TABLES, weights->arena.base + tables_offset(weights)}};
    r = mm_image_read_all(residence->image, places, residence->tables_bytes > 0 ? 2 : 1,
                          image_progress, &reading, sentence, sizeof sentence);
    if (r == 0)
        r = finish_and_keep(residence, weights, notes, notes_size);
    else if (r == -EBADMSG || r == -EIO || r == -ENODATA || r == -EFAULT)
        mm_why_add(notes, notes_size, "%s", sentence);
    if (r == 0) {
        mm_why_add(notes, notes_size, "Weights read from %s by %s, on %s.", residence->image_path,
                   mm_image_mode(residence->image), mm_page_kind_name(weights->arena.kind));
        residence->was_read = true;
        return 0;
    }
    mm_arena_unmap(&weights->arena);
    close_image(residence);
    return r == -EBADMSG || r == -EIO || r == -ENODATA || r == -EFAULT ? -ENOENT : r;
}

static int wait_for_other(void *arg)
{
    struct waiting *waiting = arg;
    const struct model_options *o = waiting->options;
    if (o->progress)
        waiting->cancelled = o->progress(o->progress_arg, 0, waiting->total);
    return waiting->cancelled < 0 || ++waiting->n_polls > WAIT_POLLS_MAX ? -1 : 0;
}

/* An image of its own accord leaves a quarter of its size free on the disk. */
static bool has_room(const char *path, const struct model_options *options,
                     const struct model_weights *weights)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    struct statvfs fs;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    if (strcmp(options->image, "auto") != 0 || statvfs(folder, &fs) < 0)
        return true;
    return (uint64_t)fs.f_bavail * fs.f_frsize / 5 * 4 >= weights->arena_bytes;
}

static int begin_image(struct mm_image_writer **ret, const char *path,
                       const struct model_options *options, const struct model_weights *weights,
                       char *notes, size_t notes_size)
{
    char sentence[PATH_MAX + 256] = "";
    struct waiting waiting = {.options = options, .total = weights->file_bytes};
    if (!has_room(path, options, weights)) {
        mm_why_add(notes, notes_size, "No image was written: the disk of %s is too full.", path);
        return -ENOSPC;
    }
    int r = mm_image_writer_new(ret, path, wait_for_other, &waiting, sentence, sizeof sentence);
    if (waiting.cancelled < 0)
        return -ECANCELED;
    if (r < 0 && r != -EEXIST)
        mm_why_add(notes, notes_size, "%s", sentence);
    return r;
}

/* ---- packing, and writing the image --------------------------------------------------------- */

/* Reading goes on until the tokenizer turns out not to be one. */
static int packing_progress(void *arg, uint64_t done, uint64_t total)
{
    const struct packing *packing = arg;
    const struct model_options *o = packing->options;
    say_under_way(packing->residence);
    if (model_vocab_has_failed(packing->vocab))
        return -EBADMSG;
    return o->progress ? o->progress(o->progress_arg, done, total) : 0;
}

/* The tokenizer that is being built, if one is. */
static int end_vocab(struct model_residence *residence, struct text_tokenizer **tokenizer,
                     char *why, size_t why_size)
{
    struct model_vocab_job *job = residence->vocab;
    residence->vocab = NULL;
    return job ? model_vocab_end(job, tokenizer, why, why_size) : 0;
}

/* Reads and packs the weights while the tokenizer is built, and puts its tables behind them. */
static int fill_arena(struct model_residence *residence, struct model_weights *weights,
                      struct text_tokenizer **tokenizer, const struct gguf *gguf,
                      const struct model_options *options, struct ops_pool *pool,
                      uint64_t content[2], char *mode, size_t mode_size, char *why, size_t why_size)
{
    const size_t room = residence->tables_bytes;
    struct packing packing = {residence, options, residence->vocab};
    struct model_options watched = *options;
    watched.progress = packing_progress;
    watched.progress_arg = &packing;
    int r = model_weights_pack(weights, gguf, &watched, pool, residence->vocab, content, mode,
                               mode_size, why, why_size);
    if (r < 0 && !model_vocab_has_failed(residence->vocab))
        return r;
    r = end_vocab(residence, tokenizer, why, why_size);
    if (r < 0)
        return r;
    residence->tables_bytes = *tokenizer ? text_tables_bytes(*tokenizer) : 0;
    if (residence->tables_bytes > room) /* a vocabulary made up for that: built at each start */
        residence->tables_bytes = 0;
    r = mm_arena_await(&weights->arena, weights->arena.size);
    if (r < 0)
        snprintf(why, why_size, "no memory for %zu MiB of weights: %s",
                 (weights->arena_bytes >> 20) + 1, strerror(-r));
    else if (residence->tables_bytes > 0)
        text_tables_write(*tokenizer, weights->arena.base + tables_offset(weights));
    return r;
}

/* Takes the writer, which may be NULL. */
static int pack(struct model_residence *residence, struct model_weights *weights,
                struct text_tokenizer **tokenizer, const struct gguf *gguf,
                const struct model_options *options, struct ops_pool *pool,
                struct mm_image_writer *writer, char *notes, size_t notes_size, char *why,
                size_t why_size)
{
    char steps[768] = "", mode[96] = "";
    uint64_t content[2] = {0}; /* of the image, if one is to be written */
    int r = mm_store_begin(&weights->arena, &residence->store,
                           model_residence_bytes(residence, weights), options->huge_pages, steps,
                           sizeof steps);
    if (r < 0) {
        snprintf(why, why_size, "no memory for %zu MiB of weights: %s",
                 (weights->arena_bytes >> 20) + 1, *steps ? steps : strerror(-r));
        goto free_writer;
    }
    r = fill_arena(residence, weights, tokenizer, gguf, options, pool, writer ? content : NULL,
                   mode, sizeof mode, why, why_size);
    if (r < 0)
        goto free_writer;
    /* A file that was changed while it was read may have given anything: it is not kept. */
    struct mm_image_key after;
    if (residence->known && (model_residence_identify(&after, gguf, weights) < 0 ||
                             after.source[0] != residence->key.source[0] ||
                             after.source[1] != residence->key.source[1])) {
        snprintf(why, why_size, "%s changed while it was read; start again", gguf_path(gguf, 0));
        r = -ESTALE;
        goto free_writer;
    }
    if (steps[0])
        mm_why_add(notes, notes_size, "%s", steps);
    r = finish_and_keep(residence, weights, notes, notes_size);
    if (r < 0) {
        snprintf(why, why_size, "no memory for %zu MiB of weights: %s",
                 (weights->arena_bytes >> 20) + 1, strerror(-r));
        goto free_writer;
    }
    mm_why_add(notes, notes_size, "Weights packed from the model file, read by %s, on %s.", mode,
               mm_page_kind_name(weights->arena.kind));
    if (writer)
        start_job(residence, weights, options, writer, content, notes, notes_size);
    return 0;

free_writer:
    mm_image_writer_free(writer);
    return r;
}

/* The tokenizer moves to the tables in the arena, where they are good. */
static int take_tables(const struct model_residence *residence, const struct model_weights *weights,
                       struct text_tokenizer **tokenizer, const struct gguf *gguf, bool own,
                       char *notes, size_t notes_size, char *why, size_t why_size)
{
    struct text_tokenizer *found;
    size_t offset = tables_offset(weights);
    char sentence[256] = "";
    int r = -ENOENT;
    if (offset < weights->arena.size && (residence->adopted || residence->tables_bytes > 0))
        r = text_tables_open(&found, weights->arena.base + offset, weights->arena.size - offset,
                             own, sentence, sizeof sentence);
    if (r == 0) {
        text_tokenizer_free(*tokenizer);
        *tokenizer = found;
        return 0;
    }
    if (sentence[0])
        mm_why_add(notes, notes_size, "The tokenizer was built again: %s.", sentence);
    return *tokenizer ? 0 : model_vocab_read(tokenizer, gguf, why, why_size);
}

static void *write_image(void *arg)
{
    struct model_image_job *job = arg;
    int r = mm_image_write(job->writer, &job->key, job->content, job->parts, job->n_parts,
                           &job->stop, job->notes, sizeof job->notes);
    if (r == 0)
        snprintf(job->notes, sizeof job->notes,
                 "The packed image is written (%" PRIu64 " MiB): the next start needs no packing.",
                 job->parts[0].length >> 20);
    mm_image_writer_free(job->writer);
    job->error = r;
    if (job->done_fn && r != -ECANCELED)
        job->done_fn(r, job->notes);
    __atomic_store_n(&job->done, 1, __ATOMIC_RELEASE); /* pairs with the load in _image_notes */
    return NULL;
}

/* Takes the writer. */
static void start_job(struct model_residence *residence, const struct model_weights *weights,
                      const struct model_options *options, struct mm_image_writer *writer,
                      const uint64_t content[2], char *notes, size_t notes_size)
{
    struct model_image_job *job = calloc(1, sizeof *job);
    int r = job ? 0 : -ENOMEM;
    if (job) {
        job->writer = writer;
        job->done_fn = options->image_done;
        job->key = residence->key;
        job->content[0] = content[0];
        job->content[1] = content[1];
        job->parts[0] =
            (struct mm_image_part){MODEL_IMAGE_WEIGHTS, weights->arena.base, weights->arena_bytes};
        job->parts[1] =
            (struct mm_image_part){MODEL_IMAGE_TABLES, weights->arena.base + tables_offset(weights),
                                   residence->tables_bytes};
        job->n_parts = residence->tables_bytes > 0 ? 2 : 1;
        sigset_t all, old; /* signals are for the service's own threads */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = -pthread_create(&job->thread, NULL, write_image, job);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (r < 0) {
        mm_why_add(notes, notes_size, "No image was written: %s.", strerror(-r));
        mm_image_writer_free(writer);
        free(job);
        return;
    }
    residence->job = job;
}

/* Where the bytes of the weights, and of the tokenizer's tables, come from at a start, and where
 * they stay.
 *
 * From the warm store, if the process before left them there; else from the packed image, if there
 * is one of this file and this layout; else from the model file, packed on the way, and then the
 * image is written on a thread of its own. Loaded weights are read-only from then on, and handed to
 * the store. The bytes are the same from wherever they came. */
#ifndef QUERN_SVC_MODEL_RESIDENCE_H
#define QUERN_SVC_MODEL_RESIDENCE_H

#include "mm/image.h"
#include "mm/store.h"
#include "svc/model/vocab.h"
#include "svc/model/weights.h"

/* Sections of an image. */
#define MODEL_IMAGE_WEIGHTS    "weights"
#define MODEL_IMAGE_TABLES     "tokenizer"
#define MODEL_TABLES_BYTES_MAX (1ull << 30)

struct model_image_job; /* the thread that writes the image */

struct model_residence {
    struct mm_image_key key;
    bool known; /* the key could be made: images and the store can be used */
    struct mm_store store;
    bool adopted;                  /* the arena was in the store */
    bool kept;                     /* it is there now */
    struct mm_image *image;        /* else: the one that _load will read, or NULL */
    char *image_path;              /* of it */
    bool own_image;                /* nobody else wrote it */
    bool was_read;                 /* the weights came from an image */
    size_t tables_bytes;           /* of the tables in that image; while they are built: at most */
    struct model_vocab_job *vocab; /* builds the tokenizer, or NULL; ended by _load or _done */
    /* Or NULL. Called by _load, many times, once the weights have their memory and reads are under way:
     * what else is needed may be taken now. Not where nothing is read. */
    void (*under_way)(void *arg);
    void *under_way_arg;
    struct model_image_job *job;
};

/* Identifies the files, and adopts the arena if the store has it, else opens the image if there is
 * one. Never fails: `notes` says what was found. Where neither was found the caller begins to build the tokenizer, and sets
 * `vocab` and `tables_bytes`. */
void model_residence_find(struct model_residence *ret, struct model_weights *weights,
                          const struct gguf *gguf, const struct model_options *options, char *notes,
                          size_t notes_size);

/* Drops from the store what none of these residences (n, all found) has a use for, before memory is
 * taken. Adds to `notes` what that was. */
void model_residence_sweep(const struct model_residence *const *residences, size_t n, char *notes,
                           size_t notes_size);

/* Bytes of the arena: the weights, then (from a page of its own on) the tables. */
size_t model_residence_bytes(const struct model_residence *residence,
                             const struct model_weights *weights);

/* Fills weights->arena, if it was not adopted, and points the matrices into it. *tokenizer, NULL
 * before, reads the tables in the arena where these are good, and is built from the file where they
 * are not. `notes` gets what was used, and each thing that
 * could not be. 0 or -errno with a sentence. */
int model_residence_load(struct model_residence *residence, struct model_weights *weights,
                         struct text_tokenizer **tokenizer, const struct gguf *gguf,
                         const struct model_options *options, struct ops_pool *pool, char *notes,
                         size_t notes_size, char *why, size_t why_size);

/* The image that belongs to these files and this code. 0 or -errno. */
int model_residence_identify(struct mm_image_key *ret, const struct gguf *gguf,
                             const struct model_weights *weights);

/* Waits for the end of the writing: 0: the image is there; 1: it was there before; -errno: none. */
int model_residence_wait(struct model_residence *residence);

/* What became of the image that is being written: NULL while it is (or none is), then a sentence.
 * From any thread. */
const char *model_residence_image_notes(const struct model_residence *residence);

/* Stops the writing, if it is still going on. Before the weights go. */
void model_residence_done(struct model_residence *residence);

#endif

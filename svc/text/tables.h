/* A tokenizer's tables as one block of bytes without pointers, so that a later process has them
 * without building them again (a vocabulary of 152,000 tokens takes 0.2 s): the packed image has
 * such a block, and so has the arena that survives a restart.
 *
 * A block is read where it lies. Its checksum finds damage. Who wrote it may be a stranger all the
 * same, so a block that is not known to be our own is proven, table by table, to be what building
 * from its tokens and merges would give. */
#ifndef QUERN_SVC_TEXT_TABLES_H
#define QUERN_SVC_TEXT_TABLES_H

#include "svc/text/tokenizer.h"

#define TEXT_TABLES_ALIGNMENT 64 /* of a block's first byte */

/* Bytes that text_tables_write writes. */
size_t text_tables_bytes(const struct text_tokenizer *tokenizer);
void text_tables_write(const struct text_tokenizer *tokenizer, void *into);

/* Bytes that the tables of this vocabulary will have at most, for who must take memory before they
 * are built. Vocabularies can be made up whose tables are larger all the same: look again then. 0 for
 * one that building will refuse. */
size_t text_tables_bytes_max(const struct text_vocab_source *source);

/* A tokenizer that reads a block of at most `size` bytes, which must outlive it. `own`: the block
 * cannot come from anybody but us, and the checksum will do. 0; -ENOENT: no block begins here;
 * -EBADMSG with a sentence: damaged; -ENOMEM. */
int text_tables_open(struct text_tokenizer **ret, const void *block, size_t size, bool own,
                     char *why, size_t why_size);

/* A number that changes with the format of a block, and with what building puts into one. */
uint64_t text_tables_version(void);

#endif

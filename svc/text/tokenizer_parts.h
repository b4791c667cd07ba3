/* What a tokenizer is made of. Private to tokenizer.c, which builds it, and tables.c, which keeps
 * its tables for a later process. */
#ifndef QUERN_SVC_TEXT_TOKENIZER_PARTS_H
#define QUERN_SVC_TEXT_TOKENIZER_PARTS_H

#include "svc/text/bpe.h"
#include "svc/text/vocab.h"

struct text_tokenizer {
    struct vocab vocab;
    struct bpe bpe;
    struct trie specials; /* control and added tokens by their text */
    char *chat_template;
    size_t chat_template_len;
    bool borrowed; /* every table lies in a block of somebody else's */
};

#endif

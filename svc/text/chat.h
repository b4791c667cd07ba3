/* Chat prompts: messages to the ids that the model was trained on (ChatML).
 *
 * A prompt is a list of segments, control tokens and texts. Control tokens come from the template
 * alone; the text of a message is encoded with special tokens off, so that no message can end its
 * own turn or begin another's, whatever it holds. */
#ifndef QUERN_SVC_TEXT_CHAT_H
#define QUERN_SVC_TEXT_CHAT_H

#include "svc/text/tokenizer.h"

/* Which template: they differ in the system message that stands in where a conversation brings none
 * ("You are a helpful assistant." for Qwen2), and at the end of the prompt. */
enum text_chat_family {
    TEXT_CHAT_QWEN2,
    TEXT_CHAT_QWEN1_5,
    TEXT_CHAT_QWEN1_5_EARLY, /* ends the last turn only where the assistant is to speak after it */
    TEXT_CHAT_QWEN2_5,       /* shows what a tool said as part of a user's turn */
};

/* The family whose template the file carries; *ret_known (may be NULL) is false where the text is
 * none that we know, and then the answer is the closest built-in one. */
enum text_chat_family text_chat_family(const struct text_tokenizer *tokenizer, bool *ret_known);

const char *text_chat_family_name(enum text_chat_family family); /* "qwen2", "qwen1.5" ... */

/* The system message of a conversation that has none. */
const char *text_chat_default_system(enum text_chat_family family);

struct text_message {
    struct text_span role; /* "system", "user", "assistant", "tool" */
    struct text_span content;
};

/* Encodes a conversation. With default_system one that does not begin with a system message gets the
 * family's; with add_generation_prompt it ends where the assistant is to speak.
 * 0, -ENOSPC, -EILSEQ (*ret_n is the index of the message), -ENOMEM as text_encode; -EINVAL: an
 * unknown role, or no message (*ret_n is the index); -ENOTSUP: the vocabulary lacks <|im_start|> or
 * <|im_end|>. `why` (may be NULL with size 0) holds a sentence on failure. */
int text_chat_encode(const struct text_tokenizer *tokenizer, enum text_chat_family family,
                     const struct text_message *messages, size_t n, bool default_system,
                     bool add_generation_prompt, uint32_t *ids, size_t max, size_t *ret_n,
                     char *why, size_t why_size);

#endif

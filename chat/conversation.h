/* Conversations and tools as JSON, in the form that Hugging Face's apply_chat_template takes:
 *
 *   messages  [{"role": "user", "content": "…"}, {"role": "assistant", "tool_calls": [{"type":
 *             "function", "function": {"name": "…", "arguments": {…}}}]}, {"role": "tool", …}]
 *   tools     [{"type": "function", "function": {"name": "…", "description": "…",
 *             "parameters": {…}}}]
 *
 * Keys that no template shows are left alone. */
#ifndef QUERN_CHAT_CONVERSATION_H
#define QUERN_CHAT_CONVERSATION_H

#include "chat/render.h"

#include <jansson.h>

/* A conversation that owns what its spans point to. */
struct chat_document;

/* Reads messages and, where `tools` is not NULL, tools; the values are referred to until
 * chat_document_free and must not be changed meanwhile. 0, -ENOMEM, or -EINVAL with a sentence. */
int chat_document_new(struct chat_document **ret, json_t *messages, json_t *tools, char *why,
                      size_t why_size);
void chat_document_free(struct chat_document *document);

/* Valid as long as the document. */
const struct chat_conversation *chat_document_conversation(const struct chat_document *document);

#endif

/*
 * The parsers of what strangers send: handshake packets, request records with their bytes. Input:
 * one byte choosing the parser, then its bytes.
 */
#include "ipc/handshake.h"
#include "ipc/request.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* keeps the reads */

static void read_part(const struct ipc_part *part)
{
    for (uint32_t i = 0; i < part->length; i++)
        sink += part->bytes[i];
}

static void try_request(const uint8_t *data, size_t size)
{
    struct ipc_request_record r;
    struct ipc_part part;
    char why[IPC_SENTENCE_MAX];
    uint32_t cursor = 0, n = 0;

    if (size < sizeof(r))
        return;
    memcpy(&r, data, sizeof(r));
    data += sizeof(r);
    size -= sizeof(r);
    /* As in the ring: lengths that the span has not are a violation before this is called. */
    if ((uint64_t)r.input_bytes + r.stop_bytes + r.model_bytes + r.bias_bytes + r.stop_id_bytes >
        size)
        return;
    uint8_t *span = malloc(size + 1); /* its own block, so that a read past the end shows */
    if (span == NULL)
        return;
    memcpy(span, data, size);
    if (ipc_request_check(&r, span, why, sizeof(why)) == 0) {
        struct ipc_chat_cursor chat = {0, 0};

        bool parts = r.input == IPC_INPUT_CHAT || r.input == IPC_INPUT_SEGMENTS ||
                     r.input == IPC_INPUT_TEXTS;

        while (parts && ipc_chat_next(span, r.input_bytes, &chat, &part) > 0) {
            read_part(&part);
            n++;
        }
        if (parts && n != ipc_chat_count(span, r.input_bytes))
            abort();
        while (ipc_stop_next(span + r.input_bytes, r.stop_bytes, &cursor, &part) > 0)
            read_part(&part);
        if (cursor != r.stop_bytes)
            abort();
    } else if (memchr(why, 0, sizeof(why)) == NULL || why[0] == 0) {
        abort();
    }
    free(span);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ipc_hello hello;
    struct ipc_welcome welcome;
    struct ipc_refusal refusal;
    struct ipc_sizes sizes;
    char why[IPC_SENTENCE_MAX];

    if (size == 0)
        return 0;
    switch (data[0] % 4) {
    case 0:
        try_request(data + 1, size - 1);
        break;
    case 1:
        if (ipc_hello_check(data + 1, size - 1, &hello, why, sizeof(why)) == 0) {
            /* Whatever it wants, the plan is one that a careful client accepts. */
            ipc_plan_sizes(&hello, &ipc_limits_default, &sizes);
            ipc_plan_welcome(&sizes, ipc_limits_default.requests_max, 1, 0, 0, &welcome);
            if (ipc_welcome_check(&welcome, sizeof(welcome), &welcome, why, sizeof(why)) < 0)
                abort();
        }
        break;
    case 2:
        if (ipc_welcome_check(data + 1, size - 1, &welcome, why, sizeof(why)) == 0 &&
            (welcome.request_offset + welcome.request_bytes > welcome.request_size ||
             welcome.reply_offset + welcome.reply_bytes > welcome.reply_size))
            abort();
        break;
    default:
        if (ipc_refusal_check(data + 1, size - 1, &refusal) == 0)
            sink += strlen(refusal.sentence);
        break;
    }
    return 0;
}

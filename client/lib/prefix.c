/* Pinned prefixes: three requests with an answer of one number or none. */
#include "client/lib/handle.h"
#include <errno.h>
#include <string.h>

static int take_handle(void *arg, const struct quern_event *event)
{
    if (event->type == QUERN_EVENT_DATA && event->u.data.kind == QUERN_DATA_HANDLE &&
        event->data_size == sizeof(uint64_t))
        memcpy(arg, event->data, sizeof(uint64_t));
    return 0;
}

QUERN_API int quern_prefix_fork(quern *q, uint64_t prefix, const struct quern_request *r,
                                uint64_t *ret_prefix, struct quern_result *ret)
{
    struct quern_request request = *r;
    struct quern_result result;
    uint64_t handle = 0;

    request.op = QUERN_OP_PIN;
    request.prefix = prefix;
    int error = quern_generate(q, &request, take_handle, &handle, &result);
    if (error < 0)
        return error;
    if (ret != NULL)
        *ret = result;
    if (result.final_.code != QUERN_CODE_OK)
        return ret != NULL ? 0 : quern_fail(q, -EBUSY, "%s", result.sentence);
    if (handle == 0)
        return quern_fail(q, -EPROTO, "The service pinned a prefix and gave no handle.");
    *ret_prefix = handle;
    return 0;
}

QUERN_API int quern_prefix_pin(quern *q, const struct quern_request *r, uint64_t *ret_prefix,
                               struct quern_result *ret)
{
    return quern_prefix_fork(q, r->prefix, r, ret_prefix, ret);
}

QUERN_API int quern_prefix_unpin(quern *q, uint64_t prefix)
{
    struct quern_request request;
    struct quern_result result;

    quern_request_init(&request);
    request.op = QUERN_OP_UNPIN;
    request.prefix = prefix;
    int error = quern_generate(q, &request, NULL, NULL, &result);
    if (error == 0 && result.final_.code != QUERN_CODE_OK)
        return quern_fail(q, -ENOENT, "%s", result.sentence);
    return error;
}

/* The easy way: one request from submit to its final event, in one call. */
#include "client/lib/handle.h"
#include "ipc/request.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

QUERN_API int quern_generate(quern *q, const struct quern_request *r, quern_event_fn *fn, void *arg,
                             struct quern_result *ret)
{
    struct quern_event event = QUERN_EVENT_INIT;
    bool stop = false, cancelled = false;
    uint64_t id;
    int result = quern_submit_waiting(q, r, &id);

    while (result == 0) {
        /* A cancel that found no room is tried again after each event. */
        if (stop && !cancelled)
            cancelled = quern_cancel(q, id) == 0;
        result = quern_next(q, id, &event, -1);
        if (result < 0 || event.type == QUERN_EVENT_FINAL)
            break;
        if (!stop && fn != NULL && fn(arg, &event) != 0)
            stop = true;
    }
    if (result == 0) {
        ret->final_ = event.u.final_;
        snprintf(ret->sentence, sizeof(ret->sentence), "%.*s", (int)event.data_size, event.data);
    }
    quern_event_done(&event);
    return result;
}

QUERN_API const char *quern_reason_name(enum quern_reason reason)
{
    return ipc_reason_name((unsigned)reason);
}

QUERN_API const char *quern_code_name(enum quern_code code)
{
    return ipc_code_name((unsigned)code);
}

/* The handshake packets: see handshake.h. */
#include "ipc/handshake.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const struct ipc_limits ipc_limits_default = {
    .preset = {64, 512, 1 << 20, 1 << 20},
    .max = {4096, 65536, 16 << 20, 16 << 20},
    .requests_max = 64,
};

static bool is_zero(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    for (size_t i = 0; i < n; i++)
        if (p[i] != 0)
            return false;
    return true;
}

int ipc_hello_check(const void *packet, size_t n, struct ipc_hello *ret, char *why, size_t why_size)
{
    struct ipc_hello hello;

    if (n != sizeof(hello)) {
        snprintf(why, why_size, "The hello has %zu bytes instead of %zu.", n, sizeof(hello));
        return -EPROTO;
    }
    memcpy(&hello, packet, sizeof(hello));
    if (hello.magic != IPC_MAGIC || hello.type != IPC_PACKET_HELLO) {
        snprintf(why, why_size, "The first packet is no hello of this protocol.");
        return -EPROTO;
    }
    if (hello.version_min == 0 || hello.version_min > hello.version_max) {
        snprintf(why, why_size, "The hello's version range %u to %u is empty.", hello.version_min,
                 hello.version_max);
        return -EPROTO;
    }
    if (hello.reserved0 != 0 || !is_zero(hello.reserved, sizeof(hello.reserved))) {
        snprintf(why, why_size, "Reserved bytes of the hello are not zero.");
        return -EPROTO;
    }
    *ret = hello;
    return 0;
}

uint16_t ipc_hello_version(const struct ipc_hello *hello)
{
    if (hello->version_min > IPC_VERSION_MAX || hello->version_max < IPC_VERSION_MIN)
        return 0;
    return hello->version_max < IPC_VERSION_MAX ? hello->version_max : IPC_VERSION_MAX;
}

/* The wanted count, or the preset where 0 is wanted, as a power of two between min and max. */
static uint32_t plan_entries(uint32_t wanted, uint32_t preset, uint32_t limit, uint32_t min,
                             uint32_t max)
{
    uint32_t entries = min;

    if (wanted == 0)
        wanted = preset;
    if (limit > max)
        limit = max;
    while (entries < wanted && entries * 2 <= limit)
        entries *= 2;
    return entries;
}

static uint32_t plan_bytes(uint32_t wanted, uint32_t preset, uint32_t limit)
{
    uint64_t bytes = wanted == 0 ? preset : wanted;

    if (limit > IPC_BYTES_MAX)
        limit = IPC_BYTES_MAX;
    if (bytes > limit)
        bytes = limit;
    if (bytes < IPC_BYTES_MIN)
        bytes = IPC_BYTES_MIN;
    return (uint32_t)((bytes + IPC_PAGE - 1) / IPC_PAGE * IPC_PAGE);
}

void ipc_plan_sizes(const struct ipc_hello *hello, const struct ipc_limits *limits,
                    struct ipc_sizes *ret)
{
    const struct ipc_sizes *preset = &limits->preset, *max = &limits->max;

    ret->submit_entries =
        plan_entries(hello->submit_entries, preset->submit_entries, max->submit_entries,
                     IPC_SUBMIT_ENTRIES_MIN, IPC_SUBMIT_ENTRIES_MAX);
    ret->event_entries =
        plan_entries(hello->event_entries, preset->event_entries, max->event_entries,
                     IPC_EVENT_ENTRIES_MIN, IPC_EVENT_ENTRIES_MAX);
    ret->request_bytes =
        plan_bytes(hello->request_bytes, preset->request_bytes, max->request_bytes);
    ret->reply_bytes = plan_bytes(hello->reply_bytes, preset->reply_bytes, max->reply_bytes);
}

static uint64_t round_to_page(uint64_t n)
{
    return (n + IPC_PAGE - 1) / IPC_PAGE * IPC_PAGE;
}

void ipc_plan_welcome(const struct ipc_sizes *sizes, uint32_t requests_max, uint16_t version,
                      uint64_t features, uint64_t session_id, struct ipc_welcome *ret)
{
    /* A slot and a sentence are kept back for the final event of every request in flight; half of
     * the ring and of the bytes at least stay for everything else. */
    uint32_t most = sizes->event_entries / 2;

    if (most > sizes->reply_bytes / 2 / IPC_SENTENCE_MAX)
        most = sizes->reply_bytes / 2 / IPC_SENTENCE_MAX;
    if (requests_max > most)
        requests_max = most;
    if (requests_max == 0)
        requests_max = 1;

    memset(ret, 0, sizeof(*ret));
    ret->magic = IPC_MAGIC;
    ret->type = IPC_PACKET_WELCOME;
    ret->version = version;
    ret->features = features;
    ret->session_id = session_id;
    ret->submit_entries = sizes->submit_entries;
    ret->event_entries = sizes->event_entries;
    ret->request_bytes = sizes->request_bytes;
    ret->reply_bytes = sizes->reply_bytes;
    ret->submit_stride = sizeof(struct ipc_request_record);
    ret->event_stride = sizeof(struct ipc_event_record);
    ret->requests_max = requests_max;
    ret->submit_offset = IPC_PAGE;
    ret->request_offset =
        IPC_PAGE + round_to_page((uint64_t)sizes->submit_entries * ret->submit_stride);
    ret->request_size = ret->request_offset + sizes->request_bytes;
    ret->event_offset = IPC_PAGE;
    ret->reply_offset =
        IPC_PAGE + round_to_page((uint64_t)sizes->event_entries * ret->event_stride);
    ret->reply_size = ret->reply_offset + sizes->reply_bytes;
}

void ipc_plan_refusal(enum ipc_code code, const char *sentence, struct ipc_refusal *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->magic = IPC_MAGIC;
    ret->type = IPC_PACKET_REFUSAL;
    ret->code = (uint16_t)code;
    ret->version_min = IPC_VERSION_MIN;
    ret->version_max = IPC_VERSION_MAX;
    snprintf(ret->sentence, sizeof(ret->sentence), "%s", sentence);
}

void ipc_plan_hello(const struct ipc_sizes *wanted, struct ipc_hello *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->magic = IPC_MAGIC;
    ret->type = IPC_PACKET_HELLO;
    ret->version_min = IPC_VERSION_MIN;
    ret->version_max = IPC_VERSION_MAX;
    ret->features = IPC_FEATURES;
    ret->submit_entries = wanted->submit_entries;
    ret->event_entries = wanted->event_entries;
    ret->request_bytes = wanted->request_bytes;
    ret->reply_bytes = wanted->reply_bytes;
}

static bool is_entries(uint32_t n, uint32_t min, uint32_t max)
{
    return n >= min && n <= max && (n & (n - 1)) == 0;
}

static bool is_bytes(uint32_t n)
{
    return n >= IPC_BYTES_MIN && n <= IPC_BYTES_MAX && n % IPC_PAGE == 0;
}

/* Do the words, then a ring, then bytes lie one after the other inside a region, on page borders?
 * Every number is checked before it is added to anything. */
static bool is_region(uint64_t size, uint64_t ring_offset, uint64_t ring_size,
                      uint64_t bytes_offset, uint32_t bytes)
{
    const uint64_t most = UINT64_C(1) << 40;

    return size <= most && ring_offset <= size && bytes_offset <= size &&
           ring_offset % IPC_PAGE == 0 && bytes_offset % IPC_PAGE == 0 && size % IPC_PAGE == 0 &&
           ring_offset >= IPC_PAGE && ring_offset + ring_size <= bytes_offset &&
           bytes_offset + bytes <= size;
}

int ipc_welcome_check(const void *packet, size_t n, struct ipc_welcome *ret, char *why,
                      size_t why_size)
{
    struct ipc_welcome w;
    const char *what = NULL;

    if (n != sizeof(w)) {
        snprintf(why, why_size, "The welcome has %zu bytes instead of %zu.", n, sizeof(w));
        return -EPROTO;
    }
    memcpy(&w, packet, sizeof(w));
    if (w.magic != IPC_MAGIC || w.type != IPC_PACKET_WELCOME)
        what = "magic or type";
    else if (w.version < IPC_VERSION_MIN || w.version > IPC_VERSION_MAX)
        what = "version";
    else if ((w.features & ~IPC_FEATURES) != 0)
        what = "feature bits";
    else if (w.reserved0 != 0 || w.reserved1 != 0 || !is_zero(w.reserved, sizeof(w.reserved)))
        what = "reserved bytes";
    else if (!is_entries(w.submit_entries, IPC_SUBMIT_ENTRIES_MIN, IPC_SUBMIT_ENTRIES_MAX) ||
             !is_entries(w.event_entries, IPC_EVENT_ENTRIES_MIN, IPC_EVENT_ENTRIES_MAX))
        what = "number of ring entries";
    else if (w.submit_stride != sizeof(struct ipc_request_record) ||
             w.event_stride != sizeof(struct ipc_event_record))
        what = "size of a ring entry";
    else if (!is_bytes(w.request_bytes) || !is_bytes(w.reply_bytes))
        what = "number of request or reply bytes";
    else if (w.requests_max == 0 || w.requests_max > w.event_entries)
        what = "number of requests in flight";
    else if (!is_region(w.request_size, w.submit_offset,
                        (uint64_t)w.submit_entries * w.submit_stride, w.request_offset,
                        w.request_bytes))
        what = "layout of the request region";
    else if (!is_region(w.reply_size, w.event_offset, (uint64_t)w.event_entries * w.event_stride,
                        w.reply_offset, w.reply_bytes))
        what = "layout of the reply region";
    if (what != NULL) {
        snprintf(why, why_size, "The service's welcome is out of bounds: %s.", what);
        return -EPROTO;
    }
    *ret = w;
    return 0;
}

int ipc_refusal_check(const void *packet, size_t n, struct ipc_refusal *ret)
{
    struct ipc_refusal refusal;

    if (n != sizeof(refusal))
        return -EPROTO;
    memcpy(&refusal, packet, sizeof(refusal));
    if (refusal.magic != IPC_MAGIC || refusal.type != IPC_PACKET_REFUSAL ||
        refusal.code == IPC_CODE_OK || refusal.code > IPC_CODE_LAST)
        return -EPROTO;
    refusal.sentence[sizeof(refusal.sentence) - 1] = 0;
    *ret = refusal;
    return 0;
}

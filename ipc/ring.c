/*
 * The rings: see ring.h for the rules. Every access to shared memory in the project goes through
 * the loads, stores and copies at the top of this file.
 */
#include "ipc/ring.h"
#include <errno.h>
#include <string.h>

static uint64_t load_acquire_u64(const volatile uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store_release_u64(volatile uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* Relaxed atomic accesses through a volatile pointer: the compiler can neither repeat nor merge
 * them, and ThreadSanitizer knows that the peer may write at the same time. */
void ipc_copy_from_shared(void *to, const volatile void *from, size_t n)
{
    uint8_t *d = to;
    const volatile uint8_t *s = from;

    for (; n > 0 && ((uintptr_t)s & 7) != 0; n--)
        *d++ = __atomic_load_n(s++, __ATOMIC_RELAXED);
    for (; n >= 8; n -= 8, d += 8, s += 8) {
        uint64_t word = __atomic_load_n((const volatile uint64_t *)s, __ATOMIC_RELAXED);

        memcpy(d, &word, 8);
    }
    for (; n > 0; n--)
        *d++ = __atomic_load_n(s++, __ATOMIC_RELAXED);
}

void ipc_copy_to_shared(volatile void *to, const void *from, size_t n)
{
    volatile uint8_t *d = to;
    const uint8_t *s = from;

    for (; n > 0 && ((uintptr_t)d & 7) != 0; n--)
        __atomic_store_n(d++, *s++, __ATOMIC_RELAXED);
    for (; n >= 8; n -= 8, d += 8, s += 8) {
        uint64_t word;

        memcpy(&word, s, 8);
        __atomic_store_n((volatile uint64_t *)d, word, __ATOMIC_RELAXED);
    }
    for (; n > 0; n--)
        __atomic_store_n(d++, *s++, __ATOMIC_RELAXED);
}

void ipc_full_fence(void)
{
#ifdef __SANITIZE_THREAD__
    /* gcc's ThreadSanitizer knows no fences: a sequentially consistent exchange is one on x86. */
    static uint32_t anything;
    __atomic_fetch_add(&anything, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* ---- Records ---------------------------------------------------------------------------------- */

/* Looks at a head: between what the peer had read and what we wrote, both at full width. */
static int look_at_head(const volatile uint64_t *word, uint64_t *consumed, uint64_t written)
{
    uint64_t head = load_acquire_u64(word);

    if (head - *consumed > written - *consumed)
        return -EPROTO;
    *consumed = head;
    return 0;
}

int ipc_out_has_room(struct ipc_out *out, uint64_t n)
{
    if (n <= out->entries - (out->written - out->consumed))
        return 1;
    /* Acquire: pairs with the release in ipc_in_release. Our next stores into those slots come
     * after the peer's copies out of them. */
    int r = look_at_head(out->head, &out->consumed, out->written);

    return r < 0 ? r : n <= out->entries - (out->written - out->consumed);
}

void ipc_out_put(struct ipc_out *out, const void *record, size_t n)
{
    size_t slot = (size_t)(out->written & (out->entries - 1));

    ipc_copy_to_shared(out->slots + slot * out->stride, record, n);
    out->written++;
}

void ipc_out_publish(struct ipc_out *out)
{
    /* Release: pairs with the acquire in ipc_in_waiting. */
    store_release_u64(out->tail, out->written);
}

int64_t ipc_in_waiting(struct ipc_in *in)
{
    /* Acquire: pairs with the release in ipc_out_publish. */
    uint64_t tail = load_acquire_u64(in->tail);

    /* It never goes back, and never gets further ahead than the ring is long. */
    if (tail - in->produced > in->read + in->entries - in->produced)
        return -EPROTO;
    in->produced = tail;
    return (int64_t)(tail - in->read);
}

int ipc_in_peek(struct ipc_in *in, void *ret, size_t n)
{
    if (in->produced == in->read) {
        int64_t waiting = ipc_in_waiting(in);

        if (waiting <= 0)
            return (int)waiting;
    }
    ipc_copy_from_shared(ret, in->slots + (size_t)(in->read & (in->entries - 1)) * in->stride, n);
    return 1;
}

void ipc_in_next(struct ipc_in *in)
{
    in->read++;
}

void ipc_in_release(struct ipc_in *in)
{
    /* Release: pairs with the acquire in ipc_out_has_room. */
    store_release_u64(in->head, in->read);
}

/* ---- Bytes ------------------------------------------------------------------------------------ */

int ipc_bytes_out_has_room(struct ipc_bytes_out *out, uint64_t n)
{
    if (n <= out->size - (out->written - out->consumed))
        return 1;
    /* Acquire: pairs with the release in ipc_bytes_in_release. */
    int r = look_at_head(out->head, &out->consumed, out->written);

    return r < 0 ? r : n <= out->size - (out->written - out->consumed);
}

uint64_t ipc_bytes_out_put(struct ipc_bytes_out *out, const void *data, uint32_t n)
{
    uint64_t pos = out->written;
    uint32_t at = (uint32_t)(pos % out->size);
    uint32_t first = n < out->size - at ? n : out->size - at;

    ipc_copy_to_shared(out->base + at, data, first);
    ipc_copy_to_shared(out->base, (const uint8_t *)data + first, n - first);
    out->written += n;
    return pos;
}

int ipc_bytes_in_get(struct ipc_bytes_in *in, uint64_t pos, uint32_t n, void *ret)
{
    uint32_t at = (uint32_t)(in->read % in->size);

    if (pos != in->read || n > in->size)
        return -EPROTO;
    uint32_t first = n < in->size - at ? n : in->size - at;
    ipc_copy_from_shared(ret, in->base + at, first);
    ipc_copy_from_shared((uint8_t *)ret + first, in->base, n - first);
    in->read += n;
    return 0;
}

void ipc_bytes_in_release(struct ipc_bytes_in *in)
{
    /* Release: pairs with the acquire in ipc_bytes_out_has_room. */
    store_release_u64(in->head, in->read);
}

/* ---- Sleep and wake --------------------------------------------------------------------------- */

void ipc_want_arm(struct ipc_want *want, uint64_t reasons)
{
    want->value = ((want->value & ~IPC_WANT_MASK) + IPC_WANT_STEP) | reasons;
    __atomic_store_n(want->word, want->value, __ATOMIC_RELAXED);
    /* Full fence A: our word before our second look at the peer's index. Its other half is fence B
     * in ipc_bell_due. Without either, both sides may read the old value: we sleep, and it does not
     * ring. */
    ipc_full_fence();
}

void ipc_want_disarm(struct ipc_want *want)
{
    if ((want->value & IPC_WANT_MASK) == 0)
        return;
    want->value &= ~IPC_WANT_MASK;
    __atomic_store_n(want->word, want->value, __ATOMIC_RELAXED);
}

void ipc_bell_moved(struct ipc_bell *bell, uint64_t what)
{
    bell->moved |= what;
}

bool ipc_bell_due(struct ipc_bell *bell)
{
    if (bell->moved == 0)
        return false;
    /* Full fence B: the index we published before our look at the peer's word. Its other half is
     * fence A in ipc_want_arm. */
    ipc_full_fence();
    uint64_t word = __atomic_load_n(bell->word, __ATOMIC_RELAXED);
    uint64_t moved = bell->moved;

    bell->moved = 0;
    if ((word & moved) == 0 || word == bell->rung)
        return false;
    bell->rung = word;
    return true;
}

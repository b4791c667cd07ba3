/* Pinned prefixes (see pins.h). */
#include "svc/pins.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct page_pins {
    uint32_t n;              /* pins that hold the page */
    struct account *account; /* charged for it: the first who pinned it */
};

struct pins {
    struct mm_kv *kv;
    struct pin *first;
    struct page_pins *pages; /* (pages of kv) */
    uint32_t n_pages, n_pages_max;
    uint32_t slot;
    uint64_t *last_handle;
};

int pins_new(struct pins **ret, struct mm_kv *kv, uint32_t n_pages_max, uint32_t slot,
             uint64_t *last_handle)
{
    struct pins *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->kv = kv;
    p->n_pages_max = n_pages_max;
    p->slot = slot;
    p->last_handle = last_handle;
    p->pages = calloc(mm_kv_n_pages(kv), sizeof *p->pages);
    if (!p->pages) {
        free(p);
        return -ENOMEM;
    }
    *ret = p;
    return 0;
}

static void drop(struct pins *p, struct pin **link)
{
    struct pin *pin = *link;
    for (uint32_t i = 0; i < pin->n_pages; i++) {
        struct page_pins *page = &p->pages[pin->pages[i]];
        if (--page->n == 0) {
            page->account->n_pinned_pages[p->slot]--;
            p->n_pages--;
        }
        mm_kv_drop(p->kv, pin->pages[i]);
    }
    pin->account->n_pins--;
    *link = pin->next;
    free(pin->pages);
    free(pin->chat);
    free(pin);
}

void pins_free(struct pins *pins)
{
    if (!pins)
        return;
    while (pins->first)
        drop(pins, &pins->first);
    free(pins->pages);
    free(pins);
}

const struct pin *pins_find(const struct pins *pins, uint64_t handle, const struct account *account)
{
    for (const struct pin *pin = pins->first; pin; pin = pin->next)
        if (pin->handle == handle)
            return pin->account == account ? pin : NULL;
    return NULL;
}

/* Whether so many more pages may be pinned; else -EBUSY with the numbers. */
static int check_limits(const struct pins *p, const struct account *account, uint32_t n_new,
                        char *why, size_t why_size)
{
    if (account->n_pins >= PINS_PER_USER_MAX)
        snprintf(why, why_size,
                 "User %u has %u pinned prefixes, as many as one user may; unpin "
                 "some.",
                 (unsigned)account->uid, account->n_pins);
    else if (n_new > pins_user_max(p) ||
             account->n_pinned_pages[p->slot] > pins_user_max(p) - n_new)
        snprintf(why, why_size,
                 "The prefix takes %u more pages of the cache, but one user may pin %u and has "
                 "%u; unpin some or start quernd with a larger --kv-bytes.",
                 n_new, pins_user_max(p), account->n_pinned_pages[p->slot]);
    else if (n_new > p->n_pages_max - p->n_pages)
        snprintf(why, why_size,
                 "The prefix takes %u more pages of the cache, but of the %u that may be pinned "
                 "%u are; try later or start quernd with a larger --kv-bytes.",
                 n_new, p->n_pages_max, p->n_pages);
    else
        return 0;
    return -EBUSY;
}

int pins_add(struct pins *pins, struct account *account, const struct client *client,
             const uint32_t *tokens, uint32_t n_tokens, const uint32_t *pages, uint32_t n_pages,
             uint8_t *chat, uint32_t chat_bytes, uint64_t *ret_handle, char *why, size_t why_size)
{
    uint32_t n_new = 0;
    for (uint32_t i = 0; i < n_pages; i++)
        n_new += pins->pages[pages[i]].n == 0;
    int r = check_limits(pins, account, n_new, why, why_size);
    if (r < 0)
        return r;
    struct pin *pin = malloc(sizeof *pin + n_tokens * sizeof *tokens);
    uint32_t *own_pages = malloc(n_pages ? n_pages * sizeof *own_pages : 1);
    if (!pin || !own_pages) {
        free(pin);
        free(own_pages);
        snprintf(why, why_size, "No memory was left for a prefix of %u tokens.", n_tokens);
        return -ENOMEM;
    }
    *pin = (struct pin){.next = pins->first,
                        .handle = ++*pins->last_handle,
                        .account = account,
                        .client = client,
                        .n_tokens = n_tokens,
                        .n_pages = n_pages,
                        .pages = own_pages,
                        .chat = chat,
                        .chat_bytes = chat_bytes};
    memcpy(pin->tokens, tokens, n_tokens * sizeof *tokens);
    for (uint32_t i = 0; i < n_pages; i++) {
        struct page_pins *page = &pins->pages[pages[i]];
        if (page->n++ == 0) {
            page->account = account;
            account->n_pinned_pages[pins->slot]++;
            pins->n_pages++;
        }
        mm_kv_ref(pins->kv, pages[i]);
        own_pages[i] = pages[i];
    }
    account->n_pins++;
    pins->first = pin;
    *ret_handle = pin->handle;
    return 0;
}

int pins_drop(struct pins *pins, uint64_t handle, const struct account *account)
{
    for (struct pin **link = &pins->first; *link; link = &(*link)->next)
        if ((*link)->handle == handle && (*link)->account == account) {
            drop(pins, link);
            return 0;
        }
    return -ENOENT;
}

void pins_drop_client(struct pins *pins, const struct client *client)
{
    for (struct pin **link = &pins->first; *link;)
        if ((*link)->client == client)
            drop(pins, link);
        else
            link = &(*link)->next;
}

uint32_t pins_n_pages(const struct pins *pins)
{
    return pins->n_pages;
}

uint32_t pins_user_max(const struct pins *pins)
{
    return (pins->n_pages_max + 1) / 2;
}

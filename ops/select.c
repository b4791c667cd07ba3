/* Top-k by the maxima of blocks: the k-th greatest maximum is a floor under the k-th greatest
 * value, so only blocks that reach it are looked into, and only their values that reach it compete
 * for the k places, which are a heap with the least at its root. */
#include "ops/select.h"

#include "ops/arch/vector_kernels.h"

#include <math.h>
#include <string.h>

#define N_BLOCKS  2048 /* at most: their maxima lie on the stack */
#define BLOCK_MIN 64

/* Whether the value at a is chosen before the value at b. */
static int before(const float *x, uint32_t a, uint32_t b)
{
    return x[a] > x[b] || (x[a] == x[b] && a < b);
}

/* Moves the entry at `at` down until neither child is chosen after it. */
static void sift_down(const float *x, uint32_t *heap, size_t n, size_t at)
{
    const uint32_t moved = heap[at];

    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && before(x, heap[child], heap[child + 1]))
            child++;
        if (!before(x, moved, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void sift_up(const float *x, uint32_t *heap, size_t at)
{
    const uint32_t moved = heap[at];

    for (; at > 0 && before(x, heap[(at - 1) / 2], moved); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = moved;
}

/* The k-th greatest of n values without NaN, k ≥ 1 (Hoare's quickselect; reorders them). */
static float kth_greatest(float *value, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;

    while (low < high) {
        const float pivot = value[low + (high - low) / 2];
        size_t i = low, j = high;
        for (;;) {
            while (value[i] > pivot)
                i++;
            while (value[j] < pivot)
                j--;
            if (i >= j)
                break;
            const float swapped = value[i];
            value[i++] = value[j];
            value[j--] = swapped;
        }
        /* Now low … j hold the greater part, and j + 1 … high the rest. */
        if (value[j] < pivot)
            j--;
        if (k - 1 <= j)
            high = j;
        else
            low = j + 1;
    }
    return value[low];
}

size_t ops_top_k(const float *x, size_t n, size_t k, uint32_t *idx)
{
    float max[N_BLOCKS], ordered[N_BLOCKS], floor = -INFINITY;
    size_t block = BLOCK_MIN, n_chosen = 0;

    if (k == 0 || n == 0)
        return 0;
    while ((n - 1) / block + 1 > N_BLOCKS)
        block *= 2;
    const size_t n_blocks = (n - 1) / block + 1;
    ops_vector_kernels()->block_max(x, n, block, max);
    if (k <= n_blocks) {
        memcpy(ordered, max, n_blocks * sizeof(float));
        floor = kth_greatest(ordered, n_blocks, k);
    }
    for (size_t b = 0; b < n_blocks; b++) {
        if (max[b] < floor)
            continue;
        const size_t end = (b + 1) * block < n ? (b + 1) * block : n;
        for (size_t i = b * block; i < end; i++) {
            if (!(x[i] >= floor)) /* also NaN */
                continue;
            if (n_chosen < k) {
                idx[n_chosen] = (uint32_t)i;
                sift_up(x, idx, n_chosen++);
            } else if (before(x, (uint32_t)i, idx[0])) {
                idx[0] = (uint32_t)i;
                sift_down(x, idx, k, 0);
                floor = x[idx[0]];
            }
        }
    }
    /* Heap sort: the least goes to the end. */
    for (size_t left = n_chosen; left > 1; left--) {
        const uint32_t least = idx[0];
        idx[0] = idx[left - 1];
        idx[left - 1] = least;
        sift_down(x, idx, left - 1, 0);
    }
    return n_chosen;
}

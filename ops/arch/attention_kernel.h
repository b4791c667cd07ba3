/* Attention over paged keys and values, written once against ops/arch/vec.h.
 *
 * Both products are the same small matrix kernel: rows of A (queries, or powers of scores) are
 * broadcast, vectors of B (16 positions of keys, or 16 dimensions of values) are loaded once for
 * all rows, and each accumulator is one chain of fma in the order of the contract. So a tile's
 * height and width change speed, never bits.
 *
 * A tile of one token (decode) converts B in registers, as it uses each vector once. A taller one
 * converts a block of 128 positions to float32 first and multiplies wide tiles from that. */
#include "ops/arch/attention_kernels.h"
#include "ops/arch/exp.h"
#include "ops/arch/half.h"

#include <stdbool.h>

/* Register tiles: rows × vectors of 16. AVX-512 has 32 registers and wants 8 chains or more; AVX2
 * has 16 of half the width; plain C has none to fill. */
#if defined(__AVX512F__)
#define NARROW_ROWS 8
#define NARROW_VECS 2
#define WIDE_ROWS   6
#define WIDE_VECS   4
#elif defined(__AVX2__)
#define NARROW_ROWS 6
#define NARROW_VECS 1
#define WIDE_ROWS   6
#define WIDE_VECS   1
#else
#define NARROW_ROWS 1
#define NARROW_VECS 1
#define WIDE_ROWS   1
#define WIDE_VECS   1
#endif

#define BLOCK       OPS_ATTENTION_BLOCK
#define PAGE_VECS   (OPS_KV_PAGE / 16)
#define LANES       32 /* positions or dimensions that lie side by side: a line of float16 */
#define BLOCK_PAGES OPS_ATTENTION_BLOCK_PAGES
#define SCALE_LEN   32 /* values that share a scale of Q8_0 */

OPS_INLINE size_t element_bytes(const enum ops_kv_type type)
{
    return type == OPS_KV_F32 ? 4 : type == OPS_KV_F16 ? 2 : 1;
}

/* Parts of a page's KV head: keys, values, and for Q8_0 the scales of both, (head_dim / 32, page)
 * float16 each. */
OPS_INLINE const uint8_t *values_of(const enum ops_kv_type type, uint32_t head_dim,
                                    const uint8_t *head)
{
    return head + (size_t)OPS_KV_PAGE * head_dim * element_bytes(type);
}
OPS_INLINE const uint16_t *key_scales_of(uint32_t head_dim, const uint8_t *head)
{
    return (const uint16_t *)(head + (size_t)2 * OPS_KV_PAGE * head_dim);
}
OPS_INLINE const uint16_t *value_scales_of(uint32_t head_dim, const uint8_t *head)
{
    return key_scales_of(head_dim, head) + (size_t)head_dim / SCALE_LEN * OPS_KV_PAGE;
}

/* 16 elements, exact in float32; Q8_0 still lacks its scale. */
OPS_INLINE vec_f32 load_elements(const enum ops_kv_type type, const uint8_t *base, size_t i)
{
    if (type == OPS_KV_F32)
        return vf_load((const float *)base + i);
    if (type == OPS_KV_F16)
        return vf_load_f16((const uint16_t *)base + i);
    return vf_load_i8((const int8_t *)base + i);
}

/* A block is read in quarters: the keys of its two pages, then their values. What is read some
 * quarters later (256 bytes for each dimension of a head, which the L1 cache holds beside what is
 * worked on) is fetched meanwhile into that cache, row by row in the order in which it will be read, so
 * that the processor's own prefetcher runs ahead of it. */
#define QUARTERS (2 * BLOCK_PAGES)

OPS_INLINE uint32_t quarters_ahead(const enum ops_kv_type type)
{
    return QUARTERS / (uint32_t)element_bytes(type);
}

OPS_INLINE void fetch_row(const enum ops_kv_type type, const uint8_t *fetch, size_t i)
{
    const uint8_t *row = fetch + i * LANES * element_bytes(type);

    __builtin_prefetch(row);
    if (type == OPS_KV_F32)
        __builtin_prefetch(row + 64);
}

/* ---- scores: s[r][j * 16 + lane] = Σ q[r][d] key[d][lane], d ascending --------------------- */

struct scores_job {
    const float *q;         /* (rows, head_dim) */
    const uint8_t *keys;    /* at the first position: (…, head_dim, LANES) */
    const uint16_t *scales; /* Q8_0: of the first position of `keys` */
    float *scores;          /* row stride BLOCK */
    const uint8_t *fetch;   /* as `keys`, some quarters later */
    uint32_t head_dim;
};

OPS_INLINE void scores_tile(const enum ops_kv_type type, const int rows, const int vecs,
                            const int fetch, const struct scores_job *job)
{
    const size_t head_dim = job->head_dim;
    const size_t step = type == OPS_KV_Q8_0 ? SCALE_LEN : head_dim;
    const float *q = job->q;
    vec_f32 acc[NARROW_ROWS][WIDE_VECS > NARROW_VECS ? WIDE_VECS : NARROW_VECS];
    vec_f32 scale[WIDE_VECS > NARROW_VECS ? WIDE_VECS : NARROW_VECS];

    OPS_UNROLL
    for (int r = 0; r < rows; r++) {
        OPS_UNROLL
        for (int j = 0; j < vecs; j++)
            acc[r][j] = vf_zero();
    }
    for (size_t begin = 0; begin < head_dim; begin += step) {
        if (type == OPS_KV_Q8_0) {
            OPS_UNROLL
            for (int j = 0; j < vecs; j++)
                scale[j] = vf_load_f16(job->scales + begin / SCALE_LEN * OPS_KV_PAGE + 16 * j);
        }
        for (size_t d = begin; d < begin + step; d++) {
            vec_f32 key[WIDE_VECS > NARROW_VECS ? WIDE_VECS : NARROW_VECS];
            OPS_UNROLL
            for (int j = 0; j < vecs; j++) {
                key[j] =
                    load_elements(type, job->keys, (j / 2 * head_dim + d) * LANES + j % 2 * 16);
                if (type == OPS_KV_Q8_0)
                    key[j] = vf_mul(key[j], scale[j]);
            }
            if (fetch)
                fetch_row(type, job->fetch, d);
            OPS_UNROLL
            for (int r = 0; r < rows; r++) {
                const vec_f32 a = vf_set1(q[r * head_dim + d]);
                OPS_UNROLL
                for (int j = 0; j < vecs; j++)
                    acc[r][j] = vf_fma(a, key[j], acc[r][j]);
            }
        }
    }
    OPS_UNROLL
    for (int r = 0; r < rows; r++) {
        OPS_UNROLL
        for (int j = 0; j < vecs; j++)
            vf_store(job->scores + r * BLOCK + 16 * j, acc[r][j]);
    }
}

/* ---- values: o[r][j * 16 + lane] += Σ p[r][i] value[i][lane], i ascending ------------------ */

struct values_job {
    const float *p;        /* (rows, BLOCK), at the page's first position */
    const uint8_t *values; /* of a page, at the first dimension: (…, page, lanes) */
    const float *scales;   /* Q8_0: (page) of the tile's 32 dimensions */
    const float *shrink;   /* (rows): what `out` is multiplied by first; NULL for 1 */
    float *out;            /* row stride head_dim, at the first dimension */
    const uint8_t *fetch;  /* as `values`, some quarters later */
    uint32_t head_dim;
    uint32_t lanes;      /* LANES, or 16 where the last dimensions are half as many */
    uint32_t begin, end; /* positions of the page */
};

OPS_INLINE void values_tile(const enum ops_kv_type type, const int rows, const int vecs,
                            const int fetch, const struct values_job *job)
{
    const size_t head_dim = job->head_dim, lanes = job->lanes;
    vec_f32 acc[NARROW_ROWS][WIDE_VECS > NARROW_VECS ? WIDE_VECS : NARROW_VECS];

    OPS_UNROLL
    for (int r = 0; r < rows; r++) {
        OPS_UNROLL
        for (int j = 0; j < vecs; j++)
            acc[r][j] = vf_load(job->out + r * head_dim + 16 * j);
    }
    if (job->shrink) {
        OPS_UNROLL
        for (int r = 0; r < rows; r++) {
            OPS_UNROLL
            for (int j = 0; j < vecs; j++)
                acc[r][j] = vf_mul(acc[r][j], vf_set1(job->shrink[r]));
        }
    }
    for (size_t i = job->begin; i < job->end; i++) {
        vec_f32 value[WIDE_VECS > NARROW_VECS ? WIDE_VECS : NARROW_VECS];
        OPS_UNROLL
        for (int j = 0; j < vecs; j++) {
            value[j] = load_elements(type, job->values,
                                     j / 2 * OPS_KV_PAGE * LANES + i * lanes + j % 2 * 16);
            if (type == OPS_KV_Q8_0)
                value[j] = vf_mul(value[j], vf_set1(job->scales[i]));
        }
        if (fetch)
            fetch_row(type, job->fetch, i);
        OPS_UNROLL
        for (int r = 0; r < rows; r++) {
            const vec_f32 a = vf_set1(job->p[r * BLOCK + i]);
            OPS_UNROLL
            for (int j = 0; j < vecs; j++)
                acc[r][j] = vf_fma(a, value[j], acc[r][j]);
        }
    }
    OPS_UNROLL
    for (int r = 0; r < rows; r++) {
        OPS_UNROLL
        for (int j = 0; j < vecs; j++)
            vf_store(job->out + r * head_dim + 16 * j, acc[r][j]);
    }
}

/* One function per type and width, with a loop for each height. */
#define TILE_CASE(tile, type, rows, vecs)                                                          \
    case rows:                                                                                     \
        tile(type, rows, vecs, FETCH, job);                                                        \
        break;
#define TILE_FUNCTION(name, tile, type, vecs)                                                      \
    static void name(uint32_t rows, const struct tile##_job *job)                                  \
    {                                                                                              \
        switch (rows) {                                                                            \
            TILE_CASE(tile##_tile, type, 1, vecs)                                                  \
            TILE_TO_6(tile##_tile, type, vecs)                                                     \
            TILE_TO_8(tile##_tile, type, vecs)                                                     \
        }                                                                                          \
    }

#define FETCH 1
#if NARROW_ROWS >= 6
#define TILE_TO_6(tile, type, vecs)                                                                \
    TILE_CASE(tile, type, 2, vecs)                                                                 \
    TILE_CASE(tile, type, 3, vecs)                                                                 \
    TILE_CASE(tile, type, 4, vecs)                                                                 \
    TILE_CASE(tile, type, 5, vecs)                                                                 \
    TILE_CASE(tile, type, 6, vecs)
#else
#define TILE_TO_6(tile, type, vecs)
#endif
#if NARROW_ROWS >= 8
#define TILE_TO_8(tile, type, vecs) TILE_CASE(tile, type, 7, vecs) TILE_CASE(tile, type, 8, vecs)
#else
#define TILE_TO_8(tile, type, vecs)
#endif
TILE_FUNCTION(scores_f32, scores, OPS_KV_F32, NARROW_VECS)
TILE_FUNCTION(scores_f16, scores, OPS_KV_F16, NARROW_VECS)
TILE_FUNCTION(scores_q8_0, scores, OPS_KV_Q8_0, NARROW_VECS)
TILE_FUNCTION(values_f32, values, OPS_KV_F32, NARROW_VECS)
TILE_FUNCTION(values_f16, values, OPS_KV_F16, NARROW_VECS)
TILE_FUNCTION(values_q8_0, values, OPS_KV_Q8_0, NARROW_VECS)
#if NARROW_VECS > 1
TILE_FUNCTION(values_one_f32, values, OPS_KV_F32, 1)
TILE_FUNCTION(values_one_f16, values, OPS_KV_F16, 1)
#else
#define values_one_f32 values_f32
#define values_one_f16 values_f16
#endif
#undef TILE_TO_8
#undef FETCH
#define FETCH 0 /* from scratch, which lies in the cache */
#define TILE_TO_8(tile, type, vecs)
#if WIDE_VECS > NARROW_VECS
TILE_FUNCTION(scores_wide, scores, OPS_KV_F32, WIDE_VECS)
TILE_FUNCTION(values_wide, values, OPS_KV_F32, WIDE_VECS)
#else
#define scores_wide scores_f32
#define values_wide values_f32
#endif

typedef void scores_fn(uint32_t rows, const struct scores_job *job);
typedef void values_fn(uint32_t rows, const struct values_job *job);

/* The height of the next tile when `left` rows remain: even heights in place of a thin last one. */
OPS_INLINE uint32_t tile_rows(uint32_t left, uint32_t most)
{
    const uint32_t n_tiles = (left + most - 1) / most;
    return (left + n_tiles - 1) / n_tiles;
}

/* Scores of `rows` rows against one page (n_vecs vectors of it), `vecs` at a time. */
OPS_INLINE void page_scores(scores_fn *fn, const enum ops_kv_type type, uint32_t vecs,
                            uint32_t most_rows, uint32_t rows, uint32_t n_vecs,
                            const struct scores_job *page)
{
    const size_t bytes = element_bytes(type);

    for (uint32_t v = 0; v < n_vecs; v += vecs) {
        struct scores_job job = *page;
        job.keys += ((size_t)v / 2 * page->head_dim * LANES + v % 2 * 16) * bytes;
        job.scales += 16 * v;
        job.scores += 16 * v;
        job.fetch += (size_t)v / 2 * page->head_dim * LANES * bytes;
        for (uint32_t left = rows, height; left; left -= height) {
            height = tile_rows(left, most_rows);
            fn(height, &job);
            job.q += (size_t)height * page->head_dim;
            job.scores += (size_t)height * BLOCK;
        }
    }
}

/* Adds the positions page->begin … page->end - 1 of a page for `rows` rows, `vecs` vectors of
 * dimensions at a time from dimension `first` on; returns the first dimension not done. */
OPS_INLINE uint32_t page_values(values_fn *fn, const enum ops_kv_type type, uint32_t vecs,
                                uint32_t most_rows, uint32_t rows, uint32_t first,
                                const struct values_job *page)
{
    const size_t bytes = element_bytes(type);
    uint32_t dim = first;

    for (; dim + 16 * vecs <= page->head_dim; dim += 16 * vecs) {
        const size_t tile = dim / LANES;
        struct values_job job = *page;
        job.values += (tile * OPS_KV_PAGE * LANES + dim % LANES) * bytes;
        job.lanes = (tile + 1) * LANES <= page->head_dim ? LANES : 16;
        job.scales += tile * BLOCK;
        job.out += dim;
        job.fetch += tile * OPS_KV_PAGE * LANES * bytes;
        for (uint32_t left = rows, height; left; left -= height) {
            height = tile_rows(left, most_rows);
            fn(height, &job);
            job.p += (size_t)height * BLOCK;
            if (job.shrink)
                job.shrink += height;
            job.out += (size_t)height * page->head_dim;
        }
    }
    return dim;
}

/* ---- softmax ------------------------------------------------------------------------------- */

/* Lanes below n. */
OPS_INLINE vec_mask lanes_below(uint32_t n)
{
    static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

    return vf_lt(vf_load(lane), vf_set1((float)n));
}

OPS_INLINE float exp2_negative(float x)
{
    float lanes[16];

    vf_store(lanes, vf_exp2_negative(vf_set1(x)));
    return lanes[0];
}

/* The greatest of n_vecs vectors of scores, and of -infinity. */
OPS_INLINE float greatest(uint32_t n_vecs, const float *scores)
{
    vec_f32 top = vf_set1(-__builtin_inff());

    for (uint32_t j = 0; j < n_vecs; j++)
        top = vf_max(vf_load(scores + 16 * j), top);
    return vf_hmax(top);
}

/* Scores become powers, which are added to `sum`. */
OPS_INLINE vec_f32 powers(uint32_t n_vecs, float *scores, float max, vec_f32 sum)
{
    const vec_f32 top = vf_set1(max);

    for (uint32_t j = 0; j < n_vecs; j++) {
        const vec_f32 p = vf_exp2_negative(vf_sub(vf_load(scores + 16 * j), top));
        vf_store(scores + 16 * j, p);
        sum = vf_add(sum, p);
    }
    return sum;
}

/* A step of the online softmax for `rows` rows that see a block's first n positions: their scores
 * become powers, and `shrink` what the outputs so far are to be multiplied by. That is 1 where the
 * maximum stays, and is multiplied then, too: a branch would be guessed wrongly. In two passes for 16 rows,
 * so that no row waits for the end of another's reduction. */
static void softmax_rows(uint32_t rows, uint32_t n, float *scores, float *max, float *shrink,
                         float *lanes)
{
    const uint32_t n_vecs = n == BLOCK ? BLOCK / 16 : (n + 15) / 16;

    for (uint32_t r = 0; n % 16 && r < rows; r++) {
        float *last = scores + (size_t)r * BLOCK + n / 16 * 16;
        const vec_f32 least = vf_set1(-__builtin_inff());
        vf_store(last, vf_select(lanes_below(n % 16), vf_load(last), least));
    }
    for (uint32_t begin = 0; begin < rows; begin += 16) {
        const uint32_t end = rows - begin < 16 ? rows : begin + 16;
        float change[16] = {0};
        for (uint32_t r = begin; r < end; r++) {
            const float block_max = greatest(n_vecs, scores + (size_t)r * BLOCK);
            const float new_max = block_max > max[r] ? block_max : max[r];
            change[r - begin] = max[r] - new_max;
            max[r] = new_max;
        }
        vf_store(change, vf_exp2_negative(vf_load(change)));
        for (uint32_t r = begin; r < end; r++) {
            float *row_lanes = lanes + (size_t)r * 16;
            shrink[r] = change[r - begin];
            const vec_f32 before = vf_mul(vf_load(row_lanes), vf_set1(shrink[r]));
            vf_store(row_lanes, powers(n_vecs, scores + (size_t)r * BLOCK, max[r], before));
        }
    }
}

/* ---- one split ----------------------------------------------------------------------------- */

/* What of a block of 128 positions the rows of a tile see. */
struct block {
    uint32_t base;        /* its first position */
    uint32_t first_token; /* the first token of the tile that sees any of it */
    uint32_t n_least;     /* positions that this one sees */
    uint32_t n_most;      /* positions that the tile's last token sees */
    const uint8_t *heads[BLOCK_PAGES];
};

static uint32_t positions_seen(const struct ops_attention_tile *tile, uint32_t token, uint32_t base)
{
    const uint32_t n = tile->first_position + token + 1 - base;

    return n < BLOCK ? n : BLOCK;
}

static struct block block_at(const struct ops_attention_tile *tile, uint32_t base)
{
    struct block block = {.base = base};

    if (base > tile->first_position)
        block.first_token = base - tile->first_position;
    block.n_least = positions_seen(tile, block.first_token, base);
    block.n_most = positions_seen(tile, tile->n_tokens - 1, base);
    for (uint32_t i = 0; i < BLOCK_PAGES; i++) {
        /* A page past the last position is not there to be looked up; nothing reads it then. */
        const uint32_t page = i * OPS_KV_PAGE < block.n_most ? i : 0;
        block.heads[i] = tile->pages[base / OPS_KV_PAGE + page] + tile->head_offset;
    }
    return block;
}

static void block_softmax(const struct ops_attention_tile *tile, const struct block *block)
{
    struct ops_attention_scratch *s = tile->scratch;

    for (uint32_t t = block->first_token; t < tile->n_tokens; t++) {
        const uint32_t n = positions_seen(tile, t, block->base);
        const uint32_t r = t * tile->group;
        /* Whoever sees all of it is followed by tokens that do, too. */
        const uint32_t end = n == BLOCK ? tile->n_tokens * tile->group : r + tile->group;
        softmax_rows(end - r, n, s->scores + (size_t)r * BLOCK, s->max + r, s->shrink + r,
                     s->lanes + (size_t)r * 16);
        if (n == BLOCK)
            break;
    }
}

/* The float32 scales of the values of a Q8_0 block. */
static void load_value_scales(uint32_t head_dim, const struct block *block, float *scales)
{
    for (uint32_t page = 0; page * OPS_KV_PAGE < block->n_most; page++) {
        const uint16_t *from = value_scales_of(head_dim, block->heads[page]);
        for (uint32_t b = 0; b < head_dim / SCALE_LEN; b++) {
            for (uint32_t i = 0; i < OPS_KV_PAGE; i += 16)
                vf_store(scales + (size_t)b * BLOCK + page * OPS_KV_PAGE + i,
                         vf_load_f16(from + (size_t)b * OPS_KV_PAGE + i));
        }
    }
}

/* How many of the first n positions of a block lie in its page `page`. */
OPS_INLINE uint32_t page_part(uint32_t n, uint32_t page)
{
    const uint32_t before = page * OPS_KV_PAGE;

    return n <= before ? 0 : n - before < OPS_KV_PAGE ? n - before : OPS_KV_PAGE;
}

/* Scales are few and lie apart from what they belong to: those of a whole block at once. */
OPS_INLINE void fetch_scales(uint32_t head_dim, const uint8_t *const heads[BLOCK_PAGES])
{
    for (uint32_t page = 0; page < BLOCK_PAGES; page++) {
        const uint16_t *scales = key_scales_of(head_dim, heads[page]);
        for (size_t i = 0; i < (size_t)2 * OPS_KV_PAGE * head_dim / SCALE_LEN; i += LANES)
            __builtin_prefetch(scales + i);
    }
}

/* A tile of one token: B is converted in registers. `next`: the pages of what is read after it. */
OPS_INLINE void narrow_block(const enum ops_kv_type type, scores_fn *scores, values_fn *values,
                             values_fn *values_one, const struct ops_attention_tile *tile,
                             const struct block *block, const uint8_t *const next[BLOCK_PAGES])
{
    const uint32_t head_dim = tile->head_dim;
    const uint32_t n_pages = (block->n_most - 1) / OPS_KV_PAGE + 1;
    struct ops_attention_scratch *s = tile->scratch;
    const uint32_t ahead = quarters_ahead(type);
    const uint8_t *quarters[2 * QUARTERS]; /* of this block and the next */

    for (uint32_t page = 0; page < BLOCK_PAGES; page++) {
        quarters[page] = block->heads[page];
        quarters[BLOCK_PAGES + page] = values_of(type, head_dim, block->heads[page]);
        quarters[QUARTERS + page] = next[page];
        quarters[QUARTERS + BLOCK_PAGES + page] = values_of(type, head_dim, next[page]);
    }
    for (uint32_t page = 0; page < n_pages; page++) {
        const struct scores_job job = {
            .q = s->q,
            .keys = quarters[page],
            .scales = key_scales_of(head_dim, block->heads[page]),
            .scores = s->scores + (size_t)page * OPS_KV_PAGE,
            .fetch = quarters[page + ahead],
            .head_dim = head_dim,
        };
        page_scores(scores, type, NARROW_VECS, NARROW_ROWS, tile->group,
                    (page_part(block->n_most, page) + 15) / 16, &job);
    }
    if (type == OPS_KV_Q8_0)
        fetch_scales(head_dim, next);
    block_softmax(tile, block);
    if (type == OPS_KV_Q8_0)
        load_value_scales(head_dim, block, s->scales);
    for (uint32_t page = 0; page < n_pages; page++) {
        const struct values_job job = {
            .p = s->scores + (size_t)page * OPS_KV_PAGE,
            .values = quarters[BLOCK_PAGES + page],
            .scales = s->scales + (size_t)page * OPS_KV_PAGE,
            .shrink = page == 0 ? s->shrink : NULL,
            .out = s->out,
            .fetch = quarters[BLOCK_PAGES + page + ahead],
            .head_dim = head_dim,
            .end = page_part(block->n_most, page),
        };
        const uint32_t done =
            page_values(values, type, NARROW_VECS, NARROW_ROWS, tile->group, 0, &job);
        page_values(values_one, type, 1, NARROW_ROWS, tile->group, done, &job);
    }
}

/* Keys and values of a block in float32: for F32 where they lie, else converted to scratch. */
struct floats {
    const float *keys[BLOCK_PAGES], *values[BLOCK_PAGES];
};

OPS_INLINE void convert_page(const enum ops_kv_type type, uint32_t head_dim, const uint8_t *head,
                             uint32_t n, float *keys, float *values)
{
    const uint16_t *key_scales = key_scales_of(head_dim, head);
    const uint16_t *value_scales = value_scales_of(head_dim, head);
    const uint8_t *from = values_of(type, head_dim, head);

    for (uint32_t i = 0; i < (n + 15) / 16; i++) {
        for (uint32_t d = 0; d < head_dim; d++) {
            const size_t at = ((size_t)i / 2 * head_dim + d) * LANES + i % 2 * 16;
            vec_f32 key = load_elements(type, head, at);
            if (type == OPS_KV_Q8_0)
                key = vf_mul(key, vf_load_f16(key_scales + d / SCALE_LEN * OPS_KV_PAGE + 16 * i));
            vf_store(keys + at, key);
        }
    }
    for (uint32_t d = 0; d < head_dim; d += 16) {
        const size_t lanes = head_dim - d / LANES * LANES < LANES ? 16 : LANES;
        for (uint32_t i = 0; i < n; i++) {
            const size_t at = (size_t)d / LANES * LANES * OPS_KV_PAGE + i * lanes + d % LANES;
            vec_f32 value = load_elements(type, from, at);
            if (type == OPS_KV_Q8_0)
                value = vf_mul(value, vf_set1(ops_float_of_f16(
                                          value_scales[d / SCALE_LEN * OPS_KV_PAGE + i])));
            vf_store(values + at, value);
        }
    }
}

static struct floats block_floats(const struct ops_attention_tile *tile, const struct block *block)
{
    const size_t page_len = (size_t)OPS_KV_PAGE * tile->head_dim;
    struct floats f;

    for (uint32_t page = 0; page < BLOCK_PAGES; page++) {
        const uint8_t *head = block->heads[page];
        float *keys = tile->scratch->keys + page * page_len;
        float *values = tile->scratch->values + page * page_len;
        const uint32_t n = page_part(block->n_most, page);
        f.keys[page] = keys;
        f.values[page] = values;
        if (tile->type == OPS_KV_F32) {
            f.keys[page] = (const float *)head;
            f.values[page] = (const float *)head + page_len;
        } else if (tile->type == OPS_KV_F16) {
            convert_page(OPS_KV_F16, tile->head_dim, head, n, keys, values);
        } else {
            convert_page(OPS_KV_Q8_0, tile->head_dim, head, n, keys, values);
        }
    }
    return f;
}

/* Adds the positions begin … end - 1 of the block for `rows` rows from row `row` on. */
static void wide_values(const struct ops_attention_tile *tile, const struct floats *f, uint32_t row,
                        uint32_t rows, uint32_t begin, uint32_t end, values_fn *fn, uint32_t vecs)
{
    struct ops_attention_scratch *s = tile->scratch;

    for (uint32_t page = begin / OPS_KV_PAGE; page * OPS_KV_PAGE < end; page++) {
        const uint32_t before = page * OPS_KV_PAGE;
        const uint8_t *values = (const uint8_t *)f->values[page];
        const struct values_job job = {.p = s->scores + (size_t)row * BLOCK + before,
                                       .values = values,
                                       .scales = s->scales,
                                       .shrink = begin == 0 && page == 0 ? s->shrink + row : NULL,
                                       .fetch = values,
                                       .out = s->out + (size_t)row * tile->head_dim,
                                       .head_dim = tile->head_dim,
                                       .begin = begin > before ? begin - before : 0,
                                       .end = page_part(end, page)};
        const uint32_t most = vecs == WIDE_VECS ? WIDE_ROWS : NARROW_ROWS;
        uint32_t done = page_values(fn, OPS_KV_F32, vecs, most, rows, 0, &job);
        done = page_values(values_f32, OPS_KV_F32, NARROW_VECS, NARROW_ROWS, rows, done, &job);
        page_values(values_one_f32, OPS_KV_F32, 1, NARROW_ROWS, rows, done, &job);
    }
}

/* A tile of several tokens: rows of all heads and tokens go through wide tiles together, up to
 * where the first token's sight ends; each token then adds the few positions it sees beyond. */
static void wide_block(const struct ops_attention_tile *tile, const struct block *block)
{
    const uint32_t head_dim = tile->head_dim, group = tile->group;
    const uint32_t begin = block->first_token * group, rows = tile->n_tokens * group - begin;
    struct ops_attention_scratch *s = tile->scratch;
    const struct floats f = block_floats(tile, block);

    for (uint32_t page = 0; page * OPS_KV_PAGE < block->n_most; page++) {
        const struct scores_job job = {.q = s->q + (size_t)begin * head_dim,
                                       .keys = (const uint8_t *)f.keys[page],
                                       .scales = key_scales_of(head_dim, block->heads[page]),
                                       .scores = s->scores + (size_t)begin * BLOCK +
                                                 (size_t)page * OPS_KV_PAGE,
                                       .fetch = block->heads[0],
                                       .head_dim = head_dim};
        page_scores(scores_wide, OPS_KV_F32, WIDE_VECS, WIDE_ROWS, rows,
                    (page_part(block->n_most, page) + 15) / 16, &job);
    }
    block_softmax(tile, block);
    wide_values(tile, &f, begin, rows, 0, block->n_least, values_wide, WIDE_VECS);
    for (uint32_t t = block->first_token + 1; t < tile->n_tokens; t++)
        wide_values(tile, &f, t * group, group, block->n_least,
                    positions_seen(tile, t, block->base), values_f32, NARROW_VECS);
}

static void split(const struct ops_attention_tile *tile, uint32_t begin,
                  const uint8_t *const next[BLOCK_PAGES])
{
    const uint32_t past_last = tile->first_position + tile->n_tokens;
    const uint32_t end =
        past_last - begin > OPS_ATTENTION_SPLIT ? begin + OPS_ATTENTION_SPLIT : past_last;
    const uint32_t first_row =
        begin > tile->first_position ? (begin - tile->first_position) * tile->group : 0;
    const uint32_t rows = tile->n_tokens * tile->group;
    struct ops_attention_scratch *s = tile->scratch;
    struct block block = block_at(tile, begin);

    for (uint32_t r = first_row; r < rows; r++) {
        s->max[r] = -__builtin_inff();
        vf_store(s->lanes + (size_t)r * 16, vf_zero());
    }
    memset(s->out + (size_t)first_row * tile->head_dim, 0,
           (size_t)(rows - first_row) * tile->head_dim * sizeof(float));
    for (uint32_t base = begin; base < end; base += BLOCK) {
        const bool is_last = end - base <= BLOCK;
        const struct block more = is_last ? block : block_at(tile, base + BLOCK);
        const uint8_t *const *ahead = is_last ? next : more.heads;
        if (tile->n_tokens > 1)
            wide_block(tile, &block);
        else if (tile->type == OPS_KV_F32)
            narrow_block(OPS_KV_F32, scores_f32, values_f32, values_one_f32, tile, &block, ahead);
        else if (tile->type == OPS_KV_F16)
            narrow_block(OPS_KV_F16, scores_f16, values_f16, values_one_f16, tile, &block, ahead);
        else /* head_dim is a multiple of 32: no vector is left for values_one */
            narrow_block(OPS_KV_Q8_0, scores_q8_0, values_q8_0, values_q8_0, tile, &block, ahead);
        block = more;
    }
    for (uint32_t r = first_row; r < rows; r++)
        s->sum[r] = vf_sum(vf_load(s->lanes + (size_t)r * 16));
}

static void scale(size_t n, float factor, const float *src, float *dst)
{
    for (size_t i = 0; i < n; i += 16)
        vf_store(dst + i, vf_mul(vf_load(src + i), vf_set1(factor)));
}

static void fold(uint32_t head_dim, float max, float sum, const float *out, float *all_max,
                 float *all_sum, float *all_out)
{
    const float new_max = max > *all_max ? max : *all_max;
    const float shrink = exp2_negative(*all_max - new_max), share = exp2_negative(max - new_max);

    for (uint32_t d = 0; d < head_dim; d += 16) {
        const vec_f32 before = vf_mul(vf_load(all_out + d), vf_set1(shrink));
        vf_store(all_out + d, vf_fma(vf_load(out + d), vf_set1(share), before));
    }
    *all_sum = __builtin_fmaf(sum, share, *all_sum * shrink);
    *all_max = new_max;
}

static void finish(uint32_t head_dim, float sum, const float *out, float *dst)
{
    const vec_f32 scale = vf_set1(1.0f / sum);

    for (uint32_t d = 0; d < head_dim; d += 16)
        vf_store(dst + d, vf_mul(vf_load(out + d), scale));
}

/* ---- storing ------------------------------------------------------------------------------- */

/* 32 floats as int8 and a float16 scale: d = amax / 127 rounded to float16 (at most 65504), q =
 * x · (1 / d) rounded to even, within ±127; all zero where d rounds to 0. A NaN or infinity makes
 * the scale NaN, so that it comes out of attention and ends its sequence. */
static uint16_t quantize(const float *x, int8_t *q)
{
    const vec_f32 a = vf_load(x), b = vf_load(x + 16);
    const float amax = vf_hmax(vf_max(vf_abs(a), vf_abs(b)));
    uint16_t scale = ops_f16_of_float(amax / 127.0f);

    if (scale > 0x7bff)
        scale = 0x7bff;
    const float nothing = vf_sum(vf_add(vf_mul(a, vf_zero()), vf_mul(b, vf_zero())));
    if (nothing != nothing)
        scale = 0x7e00;
    const float d = ops_float_of_f16(scale);
    const vec_f32 inverse = vf_set1(d > 0 ? 1.0f / d : 0.0f), most = vf_set1(127.0f);
    for (int i = 0; i < 2; i++) {
        const vec_f32 scaled = vf_mul(i ? b : a, inverse);
        const vec_f32 within = vf_max(vf_min(scaled, most), vf_neg(most));
        vi_store_i8(q + 16 * i, vf_to_i32(within));
    }
    return scale;
}

static void store_q8_0(uint32_t head_dim, uint8_t *head, uint32_t slot, const float *k,
                       const float *v)
{
    int8_t *keys = (int8_t *)head, *values = keys + (size_t)OPS_KV_PAGE * head_dim;
    uint16_t *scales = (uint16_t *)(head + (size_t)2 * OPS_KV_PAGE * head_dim);
    uint16_t *value_scales = scales + (size_t)head_dim / SCALE_LEN * OPS_KV_PAGE;
    int8_t lane[SCALE_LEN];

    keys += (size_t)slot / LANES * head_dim * LANES + slot % LANES;
    for (uint32_t d = 0; d < head_dim; d += SCALE_LEN) {
        scales[(size_t)d / SCALE_LEN * OPS_KV_PAGE + slot] = quantize(k + d, lane);
        for (uint32_t i = 0; i < SCALE_LEN; i++)
            keys[(size_t)(d + i) * LANES] = lane[i];
        value_scales[(size_t)d / SCALE_LEN * OPS_KV_PAGE + slot] =
            quantize(v + d, values + (size_t)d * OPS_KV_PAGE + (size_t)slot * LANES);
    }
}

static void store(enum ops_kv_type type, uint32_t head_dim, uint8_t *head, uint32_t slot,
                  const float *k, const float *v)
{
    const size_t key_at = (size_t)slot / LANES * head_dim * LANES + slot % LANES;
    const size_t values_at = (size_t)OPS_KV_PAGE * head_dim;
    uint16_t lane[16];

    if (type == OPS_KV_Q8_0) {
        store_q8_0(head_dim, head, slot, k, v);
        return;
    }
    for (uint32_t d = 0; d < head_dim; d += 16) {
        const size_t lanes = head_dim - d / LANES * LANES < LANES ? 16 : LANES;
        const size_t value_at =
            values_at + (size_t)d / LANES * LANES * OPS_KV_PAGE + slot * lanes + d % LANES;
        if (type == OPS_KV_F32) {
            for (uint32_t i = 0; i < 16; i++)
                ((float *)head)[key_at + (size_t)(d + i) * LANES] = k[d + i];
            memcpy((float *)head + value_at, v + d, 16 * sizeof(float));
        } else {
            vf_store_f16(lane, vf_load(k + d));
            for (uint32_t i = 0; i < 16; i++)
                ((uint16_t *)head)[key_at + (size_t)(d + i) * LANES] = lane[i];
            vf_store_f16((uint16_t *)head + value_at, vf_load(v + d));
        }
    }
}

const struct ops_attention_kernels OPS_SET_NAME(ops_attention_kernels) = {
    .store = store,
    .split = split,
    .scale = scale,
    .fold = fold,
    .finish = finish,
};

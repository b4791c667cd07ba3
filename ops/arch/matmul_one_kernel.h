/* One token: the matrix goes by once, and what counts is that reads of memory never pause. Sums stay
 * in registers, blocks follow one another without a store, and each line of weights that is used
 * asks for those to come. Part of ops/arch/matmul_kernel.h.
 *
 * There are two ways of asking, because processors differ in what a prefetch costs. Intel's: twice a
 * line (fetch_ahead). AMD's (`once`): here a second prefetch of a line takes as much from the misses
 * that can be on the way as the first one gave, so each line is asked for once, into the first level,
 * some KiB ahead; groups are one run of memory, so that this is what the sums will want, past the end of
 * a group, too. */

/* Plain C is not worth the compiler's time: 64 steps of 16 lanes each. */
#ifdef PI
#define OPS_ONE_UNROLL OPS_UNROLL
#else
#define OPS_ONE_UNROLL
#endif

/* Nor is a second way in plain C, or with AMX, which AMD's processors have not. */
#if defined(PI) && !defined(__AMX_INT8__)
#define OPS_ONE_WAYS 2
#else
#define OPS_ONE_WAYS 1
#endif

OPS_INLINE void one_fetch(const bool once, const uint8_t *line)
{
    if (once)
        __builtin_prefetch(line + OPS_ONCE_BYTES);
    else
        fetch_ahead(line);
}

/* The words of a block, line by line as its steps go; the last steps find none left. */
OPS_INLINE void one_fetch_word(const enum ops_type type, const bool once, const uint8_t *body,
                               const int word)
{
    if (word < ops_packing(type).words)
        one_fetch(once, body + (size_t)word * OPS_WORD_BYTES);
}

/* The integer of a block of 32: the same as block32_tokens makes. */
OPS_INLINE part_i one_sum32(const enum ops_type type, const bool once, const struct block32 *block,
                            bool fetch)
{
    const int8_t *a = block->tile->q32 + block->at * 32;
    part_i dot = block32_first(type, block, 0), low = pi_zero(), first_half = pi_zero();

    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        const struct block32_weights step = block32_step(type, block, j);
        const part_i aj = pi_bcast(a + 4 * j);
        if (fetch)
            one_fetch_word(type, once, block->body, j);
        dot = dot_step(dot, step.w, aj);
        if (block32_is_split(type))
            low = dot_step(low, step.low, aj);
        if (block32_in_halves(type) && j == 3) {
            first_half = dot_value(dot);
            dot = pi_zero();
        }
    }
    if (block32_is_split(type))
        return pi_madd16_add(dot_value(low), dot, pi_set1(0x00100010));
    return block32_in_halves(type) ? pi_add(first_half, dot_value(dot)) : dot_value(dot);
}

OPS_INLINE void one_group32(const enum ops_type type, const bool once,
                            const struct ops_matmul_work *work, uint32_t group)
{
    const uint32_t n_blocks = work->n_cols / 32;
    const uint8_t *from = work->groups + group * work->group_bytes;
    const struct ops_tile *tile = &work->tile;
    part_f acc[OPS_PARTS];

    OPS_UNROLL
    for (int part = 0; part < OPS_PARTS; part++)
        acc[part] = pf_zero();
    for (uint32_t b = 0; b < n_blocks; b++) {
        const size_t at = (size_t)b * tile->width;
        const part_f d_a = pf_bcast(tile->d32 + at);
        const uint8_t *body = from + ops_packed_body_at(type, b);
        const uint8_t *numbers = from + ops_packed_halves_at(type, b);
        if (ops_packed_begins_line(type, b))
            one_fetch(once, numbers);
        OPS_UNROLL
        for (int part = 0; part < OPS_PARTS; part++) {
            const uint8_t *halves = numbers + (size_t)part * OPS_PART_ROWS * 2;
            const struct block32 block = {
                .body = body + (size_t)part * OPS_PART_ROWS * 4, .tile = tile, .at = at};
            const part_i sum = one_sum32(type, once, &block, part == 0);
            acc[part] = pf_fma(pf_of_i(sum), pf_mul(pf_load_f16(halves), d_a), acc[part]);
            if (block32_has_minimum(type))
                acc[part] = pf_fma(pf_load_f16(halves + OPS_HALF_BYTES), pf_bcast(tile->ds32 + at),
                                   acc[part]);
        }
    }
    for (int part = 0; part < OPS_PARTS; part++)
        store_part(work, group, part, 0, acc[part]);
}

/* Run r of a block of 256: its products times their scales, added to `total`. */
OPS_INLINE part_i one_run256(const enum ops_type type, const bool once, const uint8_t *body,
                             const int r, const part_i *scale, const int8_t *a, bool fetch,
                             part_i total)
{
    const int steps = block256_dot_len(type) / 4, sub_steps = block256_sub_len(type) / 4;
    const struct block256_run run = {.body = body, .r = r};
    part_i dot = pi_zero(), low = pi_zero();

    OPS_UNROLL
    for (int j = 0; j < 8; j++) {
        const struct block256_weights step = block256_step(type, &run, j);
        const part_i aj = pi_bcast(a + 4 * j);
        const bool begins = j % steps == 0;
        if (fetch)
            one_fetch_word(type, once, body, 8 * r + j);
        dot = dot_step(begins ? pi_zero() : dot, step.w, aj);
        if (block256_is_split(type))
            low = dot_step(begins ? pi_zero() : low, step.low, aj);
        if ((j + 1) % steps == 0)
            total = block256_accumulate(type, total, dot, low, scale[j / sub_steps]);
    }
    return total;
}

/* Runs r and r + 1, into two chains of sums: the integers add up to the same. */
OPS_INLINE void one_two_runs256(const enum ops_type type, const bool once, const uint8_t *body,
                                const int r, const part_i *scale, const int8_t *a, size_t stride,
                                bool fetch, part_i *even, part_i *odd)
{
    const int run_subs = 32 / block256_sub_len(type);

    *even =
        one_run256(type, once, body, r, scale + r * run_subs, a + (size_t)r * stride, fetch, *even);
    *odd = one_run256(type, once, body, r + 1, scale + (r + 1) * run_subs,
                      a + (size_t)(r + 1) * stride, fetch, *odd);
}

/* All of them. The loop stays a loop: processors guess what a load will want next from what the same
 * instruction wanted before, and unrolled each of them goes by in steps of a block, which misleads them
 * (docs/benchmarks.md, "Loads that go forward"). Q2_K, whose lines hold twice as much to compute, gains more
 * by shifts that are constants. */
OPS_INLINE part_i one_runs256(const enum ops_type type, const bool once, const uint8_t *body,
                              const part_i *scale, const int8_t *a, size_t stride, bool fetch)
{
    part_i even = pi_zero(), odd = pi_zero();

    if (type == OPS_Q2_K) {
        OPS_ONE_UNROLL
        for (int r = 0; r < 8; r += 2)
            one_two_runs256(type, once, body, r, scale, a, stride, fetch, &even, &odd);
    } else {
        OPS_ROLL
        for (int r = 0; r < 8; r += 2)
            one_two_runs256(type, once, body, r, scale, a, stride, fetch, &even, &odd);
    }
    return pi_add(even, odd);
}

/* Block b of one part: what it adds to the row's float sums. */
OPS_INLINE part_f one_part256(const enum ops_type type, const bool once,
                              const struct ops_tile *tile, uint32_t b, const uint8_t *body,
                              const uint8_t *halves, bool fetch, part_f acc)
{
    const size_t at = (size_t)b * tile->width, stride = (size_t)tile->width * 32;
    const int n_pairs = 128 / block256_sub_len(type);
    const int32_t *sums = tile->sums256 + at * OPS_SUMS256_PAIRS + (n_pairs == 8 ? 0 : 8);
    const int8_t *a = tile->q256 + 8 * at * 32;
    const part_f d_a = pf_bcast(tile->d256 + at);
    struct block256 block;

    block256_unpack(type, body, halves, &block);
    part_i total = one_runs256(type, once, body, block.scale, a, stride, fetch);
    if (block256_offset_log2(type)) {
        const part_i extra = block256_pairs(block.scale_pairs, sums, n_pairs);
        total = pi_sub(total, pi_shl(extra, block256_offset_log2(type)));
    }
    acc = pf_fma(pf_of_i(total), pf_mul(pf_load_f16(halves), d_a), acc);
    if (block256_has_minimum(type)) {
        const part_i m = block256_pairs(block.minimum_pairs, sums, n_pairs);
        const part_f dmin = pf_load_f16(halves + OPS_HALF_BYTES);
        acc = pf_fma(pf_of_i(pi_sub(pi_zero(), m)), pf_mul(dmin, d_a), acc);
    }
    return acc;
}

OPS_INLINE void one_group256(const enum ops_type type, const bool once,
                             const struct ops_matmul_work *work, uint32_t group)
{
    const uint32_t n_blocks = work->n_cols / 256;
    const uint8_t *from = work->groups + group * work->group_bytes;
    part_f acc[OPS_PARTS];

    OPS_UNROLL
    for (int part = 0; part < OPS_PARTS; part++)
        acc[part] = pf_zero();
    for (uint32_t b = 0; b < n_blocks; b++) {
        const uint8_t *body = from + ops_packed_body_at(type, b);
        const uint8_t *halves = from + ops_packed_halves_at(type, b);
        if (ops_packed_begins_line(type, b))
            one_fetch(once, halves);
        OPS_UNROLL
        for (int part = 0; part < OPS_PARTS; part++)
            acc[part] =
                one_part256(type, once, &work->tile, b, body + (size_t)part * OPS_PART_ROWS * 4,
                            halves + (size_t)part * OPS_PART_ROWS * 2, part == 0, acc[part]);
    }
    for (int part = 0; part < OPS_PARTS; part++)
        store_part(work, group, part, 0, acc[part]);
}

#define ONE_TOKEN(block_len)                                                                       \
    OPS_INLINE void one_token##block_len(const enum ops_type type, const bool once,                \
                                         const struct ops_matmul_work *work)                       \
    {                                                                                              \
        for (size_t at = 0; once && at < OPS_ONCE_BYTES; at += 64)                                 \
            __builtin_prefetch(work->groups + at); /* a run begins: nothing is on the way yet */   \
        for (uint32_t g = 0; g < work->n_groups; g++)                                              \
            one_group##block_len(type, once, work, g);                                             \
    }
ONE_TOKEN(32)
ONE_TOKEN(256)

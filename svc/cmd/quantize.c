/* quernd quantize IN OUT TYPE: a GGUF file with its matrices in another type. From F32, F16 or BF16
 * to any type; from a quantized type to F32 (exact), F16 or BF16 only, since quantizing twice adds
 * the errors up. Vectors (norms, biases) and a router stay as they are. No mixtures of types: all
 * matrices get the one asked for, or Q8_0 where its blocks do not divide a row. */
#define _GNU_SOURCE /* memmem */
#include "svc/cmd/cmd.h"
#include "svc/model/encode.h"
#include "svc/model/gguf.h"
#include "svc/model/gguf_write.h"

#include "ops/matrix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] = "usage: quernd quantize IN OUT TYPE\n"
                           "  Writes the model IN (F32, F16 or BF16) to OUT with its matrices as "
                           "TYPE:\n  f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k "
                           "q6_k iq4_nl iq4_xs\n";

/* The type that a tensor gets: vectors keep theirs, and so does the router, which is small and
 * decides which experts run. */
static uint32_t type_for(const struct gguf_tensor *t, enum ops_type wanted)
{
    static const char router[] = "ffn_gate_inp";
    bool is_router = memmem(t->name.data, t->name.length, router, sizeof router - 1) != NULL;
    if (t->n_dims < 2 || is_router)
        return t->type;
    if (t->dims[0] % ops_type_info(wanted)->block_len == 0)
        return wanted;
    return t->dims[0] % ops_type_info(OPS_Q8_0)->block_len ? t->type : OPS_Q8_0;
}

static int read_exactly(int fd, void *to, size_t n, uint64_t offset)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (char *)to + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -ENODATA;
        done += (size_t)got;
    }
    return 0;
}

/* One row of the file's bytes as float32, through the packed form: a group of one row. */
static void decode_row(uint32_t type, uint32_t n_cols, const void *row, uint8_t *group, float *x)
{
    struct ops_matrix one = {.type = type, .n_rows = 1, .n_cols = n_cols, .data = group};
    ops_matrix_pack_group(type, n_cols, 1, row, 0, group);
    ops_matrix_row(&one, 0, x);
}

/* Copies or converts the data of tensor t into the writer. */
static int convert_tensor(struct gguf_writer *writer, const struct gguf *gguf,
                          const struct gguf_tensor *t, enum ops_type wanted, char *why,
                          size_t why_size)
{
    const uint32_t n_cols = (uint32_t)t->dims[0], to = type_for(t, wanted);
    const uint64_t n_rows = t->dims[1] * t->dims[2] * t->dims[3];
    const struct ops_type_info *from_info = ops_type_info(t->type), *to_info = ops_type_info(to);
    const size_t in_bytes = (size_t)(t->dims[0] / from_info->block_len) * from_info->block_bytes;
    const size_t out_bytes = (size_t)(t->dims[0] / to_info->block_len) * to_info->block_bytes;
    uint8_t *in = malloc(in_bytes), *out = malloc(out_bytes);
    uint8_t *group = aligned_alloc(64, ops_matrix_group_bytes(t->type, n_cols));
    float *x = malloc(n_cols * sizeof *x);
    int fd = open(gguf_path(gguf, t->file), O_RDONLY | O_CLOEXEC);
    int r = !in || !out || !group || !x ? -ENOMEM : fd < 0 ? -errno : 0;
    for (uint64_t row = 0; r == 0 && row < n_rows; row++) {
        r = read_exactly(fd, in, in_bytes, t->offset + row * in_bytes);
        if (r == 0 && to == t->type) {
            gguf_writer_data(writer, in, in_bytes);
        } else if (r == 0) {
            decode_row(t->type, n_cols, in, group, x);
            r = model_encode_row(to, x, n_cols, out);
            if (r == 0)
                gguf_writer_data(writer, out, out_bytes);
        }
    }
    if (r == -EDOM)
        snprintf(why, why_size, "Tensor %.*s holds NaN or infinity: the file is damaged.",
                 (int)t->name.length, t->name.data);
    else if (r == -ERANGE)
        snprintf(why, why_size,
                 "Tensor %.*s has values above 65504, which F16 cannot hold; use bf16.",
                 (int)t->name.length, t->name.data);
    else if (r < 0)
        snprintf(why, why_size, "Tensor %.*s cannot be converted: %s.", (int)t->name.length,
                 t->name.data, strerror(-r));
    if (fd >= 0)
        close(fd);
    free(x);
    free(group);
    free(out);
    free(in);
    return r;
}

/* general.file_type of llama.cpp's enumeration, for other tools that show it. */
static uint32_t file_type_of(enum ops_type type)
{
    static const uint8_t types[] = {
        [OPS_F32] = 0,   [OPS_F16] = 1,   [OPS_Q4_0] = 2,    [OPS_Q4_1] = 3,    [OPS_Q8_0] = 7,
        [OPS_Q5_0] = 8,  [OPS_Q5_1] = 9,  [OPS_Q2_K] = 10,   [OPS_Q3_K] = 11,   [OPS_Q4_K] = 14,
        [OPS_Q5_K] = 16, [OPS_Q6_K] = 18, [OPS_IQ4_NL] = 25, [OPS_IQ4_XS] = 30, [OPS_BF16] = 32,
    };
    return types[type];
}

static int convert(const struct gguf *gguf, const char *path, enum ops_type wanted, char *why,
                   size_t why_size)
{
    struct gguf_writer *writer;
    int r = gguf_writer_new(&writer, path, why, why_size);
    if (r < 0)
        return r;
    for (size_t i = 0; i < gguf_n_pairs(gguf); i++) {
        static const char file_type[] = "general.file_type", split[] = "split.";
        const struct gguf_pair *p = gguf_pair(gguf, i);
        bool is_split =
            p->key.length > sizeof split - 1 && !memcmp(p->key.data, split, sizeof split - 1);
        bool is_type = p->key.length == sizeof file_type - 1 &&
                       !memcmp(p->key.data, file_type, sizeof file_type - 1);
        if (!is_split && !is_type)
            gguf_writer_raw(writer, p->key, &p->value);
    }
    gguf_writer_u32(writer, "general.file_type", file_type_of(wanted));
    for (size_t i = 0; i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor(gguf, i);
        gguf_writer_tensor(writer, t->name.data, t->name.length, type_for(t, wanted), t->n_dims,
                           t->dims);
    }
    for (size_t i = 0; r == 0 && i < gguf_n_tensors(gguf); i++) {
        r = convert_tensor(writer, gguf, gguf_tensor(gguf, i), wanted, why, why_size);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%zu of %zu tensors", i + 1, gguf_n_tensors(gguf));
    }
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    if (r == 0)
        r = gguf_writer_finish(writer, why, why_size);
    gguf_writer_free(writer);
    return r;
}

int cmd_quantize(int argc, char **argv)
{
    enum ops_type wanted;
    char why[512];
    if (argc == 2 && !strcmp(argv[1], "--help")) {
        fputs(help, stdout);
        return CMD_OK;
    }
    if (argc != 4 || !model_encode_type(argv[3], &wanted)) {
        fputs(help, stderr);
        return CMD_USAGE;
    }
    struct gguf *gguf;
    int r = gguf_open(&gguf, argv[1], why, sizeof why);
    if (r < 0) {
        fprintf(stderr, "quernd quantize: %s\n", why);
        return r == -EBADMSG || r == -ENOTSUP ? CMD_BAD_DATA : CMD_NO_INPUT;
    }
    const bool wanted_float = wanted == OPS_F32 || wanted == OPS_F16 || wanted == OPS_BF16;
    for (size_t i = 0; r == 0 && i < gguf_n_tensors(gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor(gguf, i);
        const bool is_float = t->type == OPS_F32 || t->type == OPS_F16 || t->type == OPS_BF16;
        if (is_float || (wanted_float && ops_type_info(t->type)))
            continue;
        const char *name = ops_type_name(t->type);
        snprintf(why, sizeof why,
                 "Tensor %.*s is %s already; quantize from the original in F32, F16 or BF16.",
                 (int)t->name.length, t->name.data, name ? name : "of an unknown type");
        r = -EBADMSG;
    }
    if (r == 0)
        r = convert(gguf, argv[2], wanted, why, sizeof why);
    gguf_free(gguf);
    if (r < 0)
        fprintf(stderr, "quernd quantize: %s\n", why);
    return r == 0 ? CMD_OK : r == -EBADMSG || r == -EDOM || r == -ERANGE ? CMD_BAD_DATA : CMD_OURS;
}

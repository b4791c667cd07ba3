/* GGUF reader and writer: what is written comes back, split files join, and every kind of damage
 * gets a sentence that names the thing. */
#include "svc/model/gguf.h"

#include "ops/type.h"
#include "svc/model/gguf_write.h"
#include "svc/model/shape.h"
#include "tests/support/toy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- files made byte by byte -------------------------------------------------------------- */

struct bytes {
    uint8_t data[4096];
    size_t n;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    assert_true(b->n + n <= sizeof b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t v)
{
    put(b, &v, sizeof v);
}

static void put_u64(struct bytes *b, uint64_t v)
{
    put(b, &v, sizeof v);
}

static void put_string(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static struct bytes head(uint32_t version, uint64_t n_tensors, uint64_t n_pairs)
{
    struct bytes b = {.n = 0};
    put(&b, "GGUF", 4);
    put_u32(&b, version);
    put_u64(&b, n_tensors);
    put_u64(&b, n_pairs);
    return b;
}

static void put_tensor(struct bytes *b, const char *name, uint32_t type, uint32_t n_dims,
                       const uint64_t *dims, uint64_t offset)
{
    put_string(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        put_u64(b, dims[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

/* Zeros up to the alignment, then n bytes of data. */
static void put_data(struct bytes *b, size_t n)
{
    static const uint8_t zeros[1024];
    put(b, zeros, -b->n % 32);
    put(b, zeros, n);
}

static void check_refused(const struct bytes *b, int error, const char *named)
{
    char why[256] = "";
    struct gguf *gguf = NULL;
    assert_int_equal(gguf_open_memory(&gguf, b->data, b->n, why, sizeof why), error);
    assert_null(gguf);
    if (!strstr(why, named))
        fail_msg("\"%s\" does not name %s", why, named);
}

/* ---- what is good ------------------------------------------------------------------------- */

static void test_both_versions(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct bytes b = head(version, 1, 2);
        char why[256];
        struct gguf *gguf;
        uint32_t number;
        put_string(&b, "a.number");
        put_u32(&b, GGUF_I16);
        put(&b, &(int16_t){1234}, 2);
        put_string(&b, "a.list"); /* an array of two arrays */
        put_u32(&b, GGUF_ARRAY);
        put_u32(&b, GGUF_ARRAY);
        put_u64(&b, 2);
        for (int i = 0; i < 2; i++) {
            put_u32(&b, GGUF_STRING);
            put_u64(&b, 1);
            put_string(&b, "x");
        }
        put_tensor(&b, "t", OPS_Q8_0, 2, (uint64_t[]){32, 3}, 0);
        put_data(&b, 3 * 34);
        assert_int_equal(gguf_open_memory(&gguf, b.data, b.n, why, sizeof why), 0);
        assert_int_equal(gguf_get_u32(gguf, "a.number", &number, why, sizeof why), 0);
        assert_int_equal(number, 1234);
        assert_int_equal(gguf_get_u32(gguf, "a.other", &number, why, sizeof why), -ENOENT);
        assert_int_equal(gguf_get_u32(gguf, "a.list", &number, why, sizeof why), -EBADMSG);
        assert_int_equal(gguf_find(gguf, "a.list")->n_items, 2);
        assert_int_equal(gguf_find_tensor(gguf, "t")->bytes, 3 * 34);
        assert_int_equal(gguf_find_tensor(gguf, "t")->offset + 3 * 34, b.n);
        assert_null(gguf_find_tensor(gguf, "u"));
        gguf_free(gguf);
    }
}

static void test_integers(void **state)
{
    (void)state;
    struct bytes b = head(3, 0, 2);
    char why[256];
    struct gguf *gguf;
    uint32_t number = 7;
    put_string(&b, "negative");
    put_u32(&b, GGUF_I64);
    put_u64(&b, (uint64_t)-1);
    put_string(&b, "large");
    put_u32(&b, GGUF_U64);
    put_u64(&b, (uint64_t)1 << 32);
    assert_int_equal(gguf_open_memory(&gguf, b.data, b.n, why, sizeof why), 0);
    assert_int_equal(gguf_get_u32(gguf, "negative", &number, why, sizeof why), -EBADMSG);
    assert_int_equal(gguf_get_u32(gguf, "large", &number, why, sizeof why), -EBADMSG);
    assert_int_equal(number, 7);
    gguf_free(gguf);
}

/* ---- what is not -------------------------------------------------------------------------- */

static void test_heads(void **state)
{
    (void)state;
    struct bytes b = head(3, 0, 0);
    b.data[0] = 'X';
    check_refused(&b, -EBADMSG, "GGUF");
    b = head(1, 0, 0);
    check_refused(&b, -ENOTSUP, "version 1");
    b = head(0x03000000, 0, 0);
    check_refused(&b, -ENOTSUP, "big-endian");
    b = head(3, UINT64_MAX, 0);
    check_refused(&b, -EBADMSG, "tensors");
    b = head(3, 0, UINT64_MAX);
    check_refused(&b, -EBADMSG, "keys");
    b.n = 6;
    check_refused(&b, -EBADMSG, "6 bytes");
}

static void test_pairs(void **state)
{
    (void)state;
    struct bytes b = head(3, 0, 1);
    put_u64(&b, UINT64_MAX); /* length of the key */
    check_refused(&b, -EBADMSG, "truncated");
    b = head(3, 0, 1);
    put_string(&b, "bad\nkey");
    put_u32(&b, GGUF_U8);
    put(&b, "", 1);
    check_refused(&b, -EBADMSG, "key 0");
    b = head(3, 0, 1);
    put_string(&b, "k");
    put_u32(&b, 99);
    check_refused(&b, -EBADMSG, "key k");
    b = head(3, 0, 1);
    put_string(&b, "k");
    put_u32(&b, GGUF_ARRAY);
    put_u32(&b, GGUF_U64);
    put_u64(&b, (uint64_t)1 << 61); /* times 8 overflows */
    check_refused(&b, -EBADMSG, "key k");
    b = head(3, 0, 1);
    put_string(&b, "deep");
    put_u32(&b, GGUF_ARRAY);
    for (int i = 0; i < 50; i++) {
        put_u32(&b, GGUF_ARRAY);
        put_u64(&b, 1);
    }
    check_refused(&b, -EBADMSG, "key deep");
    b = head(3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_string(&b, "twice");
        put_u32(&b, GGUF_U8);
        put(&b, "", 1);
    }
    check_refused(&b, -EBADMSG, "twice");
    b = head(3, 0, 1);
    put_string(&b, "general.alignment");
    put_u32(&b, GGUF_U32);
    put_u32(&b, 48);
    check_refused(&b, -EBADMSG, "general.alignment");
}

static void check_tensor(const char *name, uint32_t type, uint32_t n_dims, const uint64_t *dims,
                         uint64_t offset, const char *named)
{
    struct bytes b = head(3, 1, 0);
    put_tensor(&b, name, type, n_dims, dims, offset);
    put_data(&b, 64);
    check_refused(&b, -EBADMSG, named);
}

static void test_tensors(void **state)
{
    (void)state;
    const uint64_t big = (uint64_t)1 << 33;
    check_tensor("t", OPS_F32, 1, (uint64_t[]){0}, 0, "tensor t");
    check_tensor("t", OPS_F32, 1, (uint64_t[]){17}, 0, "tensor t"); /* 68 bytes of 64 */
    check_tensor("t", OPS_F32, 1, (uint64_t[]){1}, 4, "alignment");
    check_tensor("t", OPS_F32, 1, (uint64_t[]){1}, 64, "past the end");
    check_tensor("t", OPS_F32, 1, (uint64_t[]){1}, UINT64_MAX - 31, "past the end");
    check_tensor("t", OPS_F32, 3, (uint64_t[]){big, big, big}, 0, "overflows");
    check_tensor("t", OPS_F32, 2, (uint64_t[]){big, (uint64_t)1 << 29}, 0, "overflows");
    check_tensor("t", OPS_Q8_0, 1, (uint64_t[]){33}, 0, "Q8_0");
    check_tensor("t", 77, 1, (uint64_t[]){1}, 0, "type 77");
    check_tensor("t", OPS_F32, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, "dimensions");
    check_tensor("", OPS_F32, 1, (uint64_t[]){1}, 0, "tensor 0");
    struct bytes b = head(3, 2, 0);
    put_tensor(&b, "a", OPS_F32, 1, (uint64_t[]){9}, 0);
    put_tensor(&b, "b", OPS_F32, 1, (uint64_t[]){1}, 32);
    put_data(&b, 64);
    check_refused(&b, -EBADMSG, "overlap");
}

static uint8_t *read_whole(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rbe");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *ret_size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(*ret_size);
    assert_int_equal(fread(data, 1, *ret_size, file), *ret_size);
    fclose(file);
    return data;
}

/* A file cut anywhere is refused; with any byte of its metadata flipped it is refused or read, and
 * nothing else happens. */
static void test_damage(void **state)
{
    (void)state;
    char why[256];
    size_t size;
    uint8_t *data = read_whole(toy_file("--layers 1 --d-model 32 --heads 2 --kv-heads 1 "
                                        "--head-dim 16 --ff 32 --n-vocab 260 --yarn 2"),
                               &size);
    struct gguf *gguf;
    assert_int_equal(gguf_open_memory(&gguf, data, size, why, sizeof why), 0);
    size_t metadata = (size_t)gguf_tensor(gguf, 0)->offset;
    gguf_free(gguf);
    for (size_t cut = 0; cut < size; cut += cut < metadata ? 1 : 97) {
        why[0] = 0;
        uint8_t *copy = malloc(cut ? cut : 1); /* of that size, so that reading past it shows */
        memcpy(copy, data, cut);
        assert_true(gguf_open_memory(&gguf, copy, cut, why, sizeof why) < 0);
        assert_true(why[0]);
        free(copy);
    }
    for (size_t at = 0; at < metadata; at++) {
        uint8_t kept = data[at];
        for (unsigned bit = 0; bit < 8; bit++) {
            struct model_shape shape;
            data[at] = kept ^ (uint8_t)(1u << bit);
            if (gguf_open_memory(&gguf, data, size, why, sizeof why) == 0) {
                (void)model_shape_read(&shape, gguf, why, sizeof why);
                gguf_free(gguf);
            }
        }
        data[at] = kept;
    }
    free(data);
}

static void test_files(void **state)
{
    (void)state;
    char why[256];
    struct gguf *gguf;
    assert_int_equal(gguf_open(&gguf, "/nonexistent.gguf", why, sizeof why), -ENOENT);
    assert_non_null(strstr(why, "/nonexistent.gguf"));
    assert_int_equal(gguf_open(&gguf, "/dev/null", why, sizeof why), -EINVAL);
    assert_int_equal(gguf_open(&gguf, "/tmp", why, sizeof why), -EINVAL);
}

/* ---- split files -------------------------------------------------------------------------- */

/* Part `no` of `count`, with one tensor of its own. */
static void write_part(const char *path, uint32_t no, uint32_t count, uint32_t n_tensors)
{
    char why[256] = "", name[16];
    struct gguf_writer *writer;
    assert_int_equal(gguf_writer_new(&writer, path, why, sizeof why), 0);
    gguf_writer_u32(writer, "split.no", no);
    gguf_writer_u32(writer, "split.count", count);
    gguf_writer_u32(writer, "split.tensors.count", n_tensors);
    snprintf(name, sizeof name, "t%u", no);
    gguf_writer_tensor(writer, name, strlen(name), OPS_F32, 1, (uint64_t[]){3});
    gguf_writer_data(writer, (float[]){1, 2, 3}, 12);
    assert_int_equal(gguf_writer_finish(writer, why, sizeof why), 0);
    gguf_writer_free(writer);
}

static void test_split(void **state)
{
    (void)state;
    char why[512] = "";
    struct gguf *gguf;
    (void)toy_file("--type f32"); /* makes the folder */
    char first[TOY_PATH_MAX], second[TOY_PATH_MAX];
    snprintf(first, sizeof first, "%s", toy_path("m-00001-of-00002.gguf"));
    snprintf(second, sizeof second, "%s", toy_path("m-00002-of-00002.gguf"));

    write_part(first, 0, 2, 2);
    assert_int_equal(gguf_open(&gguf, first, why, sizeof why), -ENOENT);
    assert_non_null(strstr(why, "m-00002-of-00002.gguf"));

    write_part(second, 1, 2, 2);
    assert_int_equal(gguf_open(&gguf, first, why, sizeof why), 0);
    assert_int_equal(gguf_n_files(gguf), 2);
    assert_int_equal(gguf_n_tensors(gguf), 2);
    assert_int_equal(gguf_find_tensor(gguf, "t0")->file, 0);
    assert_int_equal(gguf_find_tensor(gguf, "t1")->file, 1);
    gguf_free(gguf);

    assert_int_equal(gguf_open(&gguf, second, why, sizeof why), -EBADMSG);
    assert_non_null(strstr(why, "-00001-of-00002.gguf"));
    write_part(second, 0, 2, 2);
    assert_int_equal(gguf_open(&gguf, first, why, sizeof why), -EBADMSG);
    assert_non_null(strstr(why, "split.no"));
    write_part(second, 1, 2, 2);
    write_part(first, 0, 2, 3);
    assert_int_equal(gguf_open(&gguf, first, why, sizeof why), -EBADMSG);
    assert_non_null(strstr(why, "split.tensors.count"));
}

/* ---- shapes ------------------------------------------------------------------------------- */

static void test_shapes(void **state)
{
    (void)state;
    char why[256];
    struct gguf *gguf;
    struct model_shape shape;
    assert_int_equal(gguf_open(&gguf, toy_file("--heads 14 --kv-heads 2 --head-dim 32 --yarn 4"),
                               why, sizeof why),
                     0);
    assert_int_equal(model_shape_read(&shape, gguf, why, sizeof why), 0);
    assert_int_equal(shape.n_heads, 14);
    assert_int_equal(shape.n_kv_heads, 2);
    assert_int_equal(shape.head_dim, 32);
    assert_int_equal(shape.rope.scaling, OPS_ROPE_YARN);
    assert_int_equal(shape.rope.original_context, 32768);
    assert_true(shape.rope.factor > 3.99 && shape.rope.factor < 4.01);
    assert_true(shape.tied_head);
    gguf_free(gguf);
    assert_int_equal(gguf_open(&gguf, toy_file("--shape tiny-moe --old-metadata"), why, sizeof why),
                     0);
    assert_int_equal(model_shape_read(&shape, gguf, why, sizeof why), 0);
    assert_int_equal(shape.n_experts, 12);
    assert_int_equal(shape.n_experts_used, 4);
    assert_int_equal(shape.d_expert, 256);
    assert_int_equal(shape.d_shared, 512);
    assert_false(shape.tied_head);
    gguf_free(gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_versions), cmocka_unit_test(test_integers),
        cmocka_unit_test(test_heads),         cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_tensors),       cmocka_unit_test(test_damage),
        cmocka_unit_test(test_files),         cmocka_unit_test(test_split),
        cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* One byte that is another one, at 10,000 random places of a small GGUF and of its image: refused with
 * a sentence, or without effect (padding), or (a GGUF's weights, which no checksum covers) another
 * weight. Under a sanitizer this shows that none is read or written where it should not. */
#include "mm/image.h"
#include "svc/model/gguf.h"
#include "svc/model/residence.h"
#include "svc/text/tables.h"
#include "tests/support/loading.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define N_FLIPS 5000 /* of each */
#define SHAPE                                                                                      \
    "--shape tiny --layers 1 --d-model 64 --ff 64 --heads 1 --kv-heads 1 --head-dim 64 --type "    \
    "q8_0"

static char folder[] = "/var/tmp/quern-flips-XXXXXX";
static char file[96], image[96];
static struct loading outcome;
static const struct model_options with_image = {.image = image, .huge_pages = MM_HUGE_OFF};

static int start(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    snprintf(image, sizeof image, "%s/model.quern", folder);
    return loading_make_model(SHAPE, file);
}

static int end(void **state)
{
    (void)state;
    unlink(file);
    unlink(image);
    return rmdir(folder);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static uint8_t *map(const char *path, size_t *ret_bytes)
{
    struct stat st;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    *ret_bytes = (size_t)st.st_size;
    uint8_t *bytes = mmap(NULL, *ret_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bytes != MAP_FAILED);
    close(fd);
    return bytes;
}

/* A GGUF has no checksums: a weight that changed is a weight. So a flip is refused with a sentence,
 * or it loads and runs, within memory, to numbers or to the error of a NaN. */
static void a_flipped_byte_of_a_gguf_is_refused_or_runs(void **state)
{
    (void)state;
    const struct model_options options = {.huge_pages = MM_HUGE_OFF};
    size_t bytes, n_refused = 0, n_run = 0, n_nan = 0;
    uint8_t *at = map(file, &bytes);
    struct gguf *gguf;
    char why[512];
    uint64_t random = 3;
    assert_int_equal(gguf_open(&gguf, file, why, sizeof why), 0);
    size_t head = gguf_tensor(gguf, 0)->offset;
    gguf_free(gguf);
    for (int i = 0; i < N_FLIPS; i++) {
        size_t place = next_random(&random) % (i % 4 == 0 ? bytes : head);
        uint8_t flip = (uint8_t)(1u + next_random(&random) % 255);
        at[place] ^= flip;
        loading_run(file, &options, false, &outcome);
        at[place] ^= flip;
        n_run += outcome.result == 0;
        n_nan += outcome.result < 0 && !outcome.why[0];
        n_refused += outcome.result < 0 && outcome.why[0];
        if (outcome.result < 0 && !outcome.why[0]) /* it was loaded */
            assert_true(outcome.notes[0] != '\0');
    }
    print_message("%zu refused with a sentence, %zu run, %zu with a NaN or a larger shape\n",
                  n_refused, n_run, n_nan);
    assert_true(n_refused > N_FLIPS / 10);
    munmap(at, bytes);
}

/* Reads it all, as a start would: 0, or -errno with a sentence. `room` gets the weights. */
static int read_whole(uint8_t *room, size_t room_bytes, size_t *ret_bytes, char *why,
                      size_t why_size)
{
    struct mm_image *open_image;
    static _Alignas(64) uint8_t tables[1 << 20];
    uint64_t length = 0;
    const struct mm_reader_options few = {.depth = 2, .buffer_bytes = 65536};
    int r = mm_image_open(&open_image, image, NULL, &few, why, why_size);
    if (r < 0)
        return r;
    r = mm_image_section(open_image, MODEL_IMAGE_WEIGHTS, &length);
    if (r == 0 && length > room_bytes)
        r = -EBADMSG;
    if (r == 0)
        r = mm_image_read(open_image, MODEL_IMAGE_WEIGHTS, room, NULL, NULL, why, why_size);
    *ret_bytes = length;
    if (r == 0)
        r = mm_image_section(open_image, MODEL_IMAGE_TABLES, &length);
    if (r == 0 && length > sizeof tables)
        r = -EBADMSG;
    if (r == 0)
        r = mm_image_read(open_image, MODEL_IMAGE_TABLES, tables, NULL, NULL, why, why_size);
    struct text_tokenizer *tokenizer = NULL;
    if (r == 0)
        r = text_tables_open(&tokenizer, tables, length, false, why, why_size);
    text_tokenizer_free(tokenizer);
    mm_image_free(open_image);
    return r;
}

static void a_flipped_byte_of_an_image_is_found_or_padding(void **state)
{
    (void)state;
    struct loading *small = malloc(2 * sizeof *small);
    size_t bytes, n, n_refused = 0;
    char why[512];
    uint64_t random = 4;
    loading_run(file, &with_image, true, &small[0]);
    assert_int_equal(small[0].result, 0);
    uint8_t *at = map(image, &bytes);
    uint8_t *weights = malloc(bytes), *room = malloc(bytes);
    assert_int_equal(read_whole(weights, bytes, &n, why, sizeof why), 0);
    for (int i = 0; i < N_FLIPS; i++) {
        size_t place = next_random(&random) % (i % 8 == 0 ? 4096 : bytes);
        uint8_t flip = (uint8_t)(1u + next_random(&random) % 255);
        at[place] ^= flip;
        why[0] = '\0';
        int r = read_whole(room, bytes, &n, why, sizeof why);
        if (r < 0) {
            n_refused++;
            assert_true(why[0] != '\0');
        } else { /* after the end of a section: what is read is the same */
            assert_memory_equal(room, weights, n);
        }
        if (i % 100 == 0) { /* and a whole start */
            loading_run(file, &with_image, false, &small[1]);
            assert_true(loading_same(&small[1], &small[0], r < 0 ? "packed from" : "read from"));
            if (r < 0) { /* it was replaced, in a file of its own */
                munmap(at, bytes);
                loading_run(file, &with_image, true, &small[1]);
                at = map(image, &bytes);
                continue;
            }
        }
        at[place] ^= flip;
    }
    print_message("%zu of %d refused, the others in padding\n", n_refused, N_FLIPS);
    assert_true(n_refused > N_FLIPS * 8 / 10);
    free(room);
    free(weights);
    munmap(at, bytes);
    free(small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_byte_of_a_gguf_is_refused_or_runs),
        cmocka_unit_test(a_flipped_byte_of_an_image_is_found_or_padding),
    };
    return cmocka_run_group_tests(tests, start, end);
}

/* The command line of quernd: what is taken, and that each mistake gets a sentence of its own. */
#include "svc/options.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int parse(struct options *o, char *why, size_t why_size, const char *const *words)
{
    char *argv[32] = {(char *)"quernd"};
    int argc = 1;
    while (words[argc - 1]) {
        argv[argc] = (char *)words[argc - 1];
        argc++;
    }
    return options_parse(o, argc, argv, why, why_size);
}
#define PARSE(o, why, ...) parse(o, why, sizeof why, (const char *const[]){__VA_ARGS__, NULL})

static void takes_what_the_help_says(void **state)
{
    (void)state;
    struct options o;
    char why[200] = "";
    assert_int_equal(PARSE(&o, why, "--model", "m.gguf", "--socket=/tmp/s", "--threads", "3",
                           "--context", "4096", "--kv", "f32", "--huge-pages", "off",
                           "--memory-limit", "3G", "-v", "--verbose", "--kv-bytes", "512M",
                           "--sequences", "4", "--token-gap-ms", "50", "--image", "off", "--store",
                           "hugetlbfs"),
                     0);
    assert_string_equal(o.model, "m.gguf");
    assert_string_equal(o.socket, "/tmp/s");
    assert_int_equal(o.threads, 3);
    assert_int_equal(o.context, 4096);
    assert_int_equal(o.kv_type, OPS_KV_F32);
    assert_int_equal(o.huge_pages, MM_HUGE_OFF);
    assert_true(o.memory_limit_bytes == UINT64_C(3) << 30);
    assert_true(o.kv_bytes == UINT64_C(512) << 20);
    assert_int_equal(o.sequences, 4);
    assert_int_equal(o.token_gap_ms, 50);
    assert_int_equal(o.verbose, 2);
    assert_null(o.image);
    assert_string_equal(o.store, "hugetlbfs");
    options_done(&o);

    assert_int_equal(PARSE(&o, why, "--model", "m"), 0);
    assert_int_equal(o.threads, 0);
    assert_int_equal(o.kv_type, OPS_KV_F16);
    assert_string_equal(o.image, "auto");
    assert_string_equal(o.store, "auto");
    assert_null(o.config);
    options_done(&o);
    assert_int_equal(PARSE(&o, why, "--model", "m", "--rope-scaling", "yarn", "--rope-factor",
                           "4.0", "--rope-original", "32768"),
                     0);
    assert_int_equal(o.rope_scaling, OPTIONS_ROPE_YARN);
    assert_true(o.rope_factor == 4.0);
    assert_int_equal(o.rope_original, 32768);
    options_done(&o);
    assert_int_equal(PARSE(&o, why, "--help", "--config=off"), 0);
    assert_true(o.help);
    options_done(&o);
}

static void names_each_mistake(void **state)
{
    (void)state;
    static const struct {
        const char *words[6];
        const char *says;
    } bad[] = {
        {{"--model", "m", "--threads", "0", NULL}, "--threads takes a number from 1 to 1024"},
        {{"--model", "m", "--threads", "-1", NULL}, "--threads"},
        {{"--model", "m", "--threads", "4294967297", NULL}, "--threads"},
        {{"--model", "m", "--threads", "2x", NULL}, "\"2x\""},
        {{"--model", "m", "--kv", "f8", NULL}, "f32, f16, q8_0"},
        {{"--model", "m", "--rope-scaling", "yarn", NULL}, "needs --rope-factor"},
        {{"--model", "m", "--rope-factor", "4", NULL}, "--rope-factor needs --rope-scaling"},
        {{"--model", "m", "--rope-factor", "0.5", NULL}, "--rope-factor takes a number from 1"},
        {{"--model", "m", "--rope-factor", "nan", NULL}, "--rope-factor takes a number from 1"},
        {{"--model", "m", "--rope-scaling", "ntk", NULL}, "file, none, linear, yarn"},
        {{"--model", "m", "--memory-limit", "3X", NULL}, "--memory-limit takes a size"},
        {{"--model", "m", "--memory-limit", "99999999999T", NULL}, "--memory-limit"},
        {{"--model", "m", "--memory-limit", "1KK", NULL}, "--memory-limit"},
        {{"--model", "m", "--treads", "2", NULL}, "did you mean \"--threads\""},
        {{"--model", "m", "--grind", NULL}, "\"--grind\" is not an option"},
        {{"--model", "m", "--share-prefixes=perhaps", NULL}, "--share-prefixes takes yes or no"},
        {{"--model", "", NULL}, "--model needs a value"},
        {{"--model", NULL}, "\"--model\" needs a value"},
        {{"--model", "m", "serve", NULL}, "\"serve\" is neither"},
        {{"-v", "--config", "off", NULL}, "--model FILE"},
        {{"--config", "/nonexistent/quern.conf", NULL}, "/nonexistent/quern.conf cannot be read"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct options o;
        char why[200] = "";
        assert_int_equal(parse(&o, why, sizeof why, bad[i].words), -EINVAL);
        if (!strstr(why, bad[i].says))
            fail_msg("\"%s\" does not say \"%s\"", why, bad[i].says);
    }
}

static void reads_the_environment(void **state)
{
    (void)state;
    struct options o;
    char why[200] = "", path[200];
    setenv("QUERN_ISA", "scalar", 1);
    assert_int_equal(PARSE(&o, why, "--model", "m"), 0);
    assert_string_equal(o.isa, "scalar");
    options_done(&o);
    unsetenv("QUERN_ISA");
    setenv("QUERN_SOCKET", "/a/b", 1);
    assert_int_equal(options_default_socket(path, sizeof path), 0);
    assert_string_equal(path, "/a/b");
    unsetenv("QUERN_SOCKET");
    setenv("RUNTIME_DIRECTORY", "/run/x", 1);
    assert_int_equal(options_default_socket(path, sizeof path), 0);
    assert_string_equal(path, "/run/x/quern.sock");
    assert_int_equal(options_default_socket(path, 4), -ENAMETOOLONG);
    unsetenv("RUNTIME_DIRECTORY");
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    assert_int_equal(options_default_socket(path, sizeof path), 0);
    assert_string_equal(path, "/run/user/7/quern/quern.sock");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_the_help_says),
        cmocka_unit_test(names_each_mistake),
        cmocka_unit_test(reads_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

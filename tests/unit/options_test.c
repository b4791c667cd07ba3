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
    assert_string_equal(o.models.all[0].path, "m.gguf");
    assert_string_equal(o.socket, "/tmp/s");
    assert_int_equal(o.threads, 3);
    assert_int_equal(o.models.all[0].context, 4096);
    assert_int_equal(o.models.all[0].kv_type, OPS_KV_F32);
    assert_int_equal(o.huge_pages, MM_HUGE_OFF);
    assert_true(o.memory_limit_bytes == UINT64_C(3) << 30);
    assert_true(o.models.all[0].kv_bytes == UINT64_C(512) << 20);
    assert_int_equal(o.models.all[0].sequences, 4);
    assert_int_equal(o.token_gap_ms, 50);
    assert_int_equal(o.verbose, 2);
    assert_null(o.image);
    assert_string_equal(o.store, "hugetlbfs");
    options_done(&o);

    assert_int_equal(PARSE(&o, why, "--model", "m"), 0);
    assert_int_equal(o.threads, 0);
    assert_int_equal(o.models.all[0].kv_type, OPS_KV_F16);
    assert_string_equal(o.image, "auto");
    assert_string_equal(o.store, "auto");
    assert_null(o.config);
    options_done(&o);
    assert_int_equal(PARSE(&o, why, "--model", "m", "--rope-scaling", "yarn", "--rope-factor",
                           "4.0", "--rope-original", "32768"),
                     0);
    assert_int_equal(o.models.all[0].rope_scaling, OPTIONS_ROPE_YARN);
    assert_true(o.models.all[0].rope_factor == 4.0);
    assert_int_equal(o.models.all[0].rope_original, 32768);
    options_done(&o);
    assert_int_equal(PARSE(&o, why, "--help", "--config=off"), 0);
    assert_true(o.help);
    options_done(&o);
}

static void takes_several_models(void **state)
{
    (void)state;
    struct options o;
    char why[200] = "";
    assert_int_equal(PARSE(&o, why, "--kv-bytes=small=64M", "--model", "/m/first.gguf", "--model",
                           "small=s.gguf", "--model", "big:7b=./a=b.gguf", "--context", "1024",
                           "--context", "big:7b=2048", "--kv", "small=q8_0", "--rope-scaling",
                           "big:7b=yarn", "--rope-factor=big:7b=2", "--sequences", "4"),
                     0);
    assert_int_equal(o.models.n, 3);
    const struct options_model *first = NULL, *small = NULL, *big = NULL;
    for (uint32_t i = 0; i < o.models.n; i++) {
        const struct options_model *m = &o.models.all[i];
        *(!m->name ? &first : !strcmp(m->name, "small") ? &small : &big) = m;
    }
    assert_ptr_equal(first, &o.models.all[0]); /* not the one that a value named first */
    assert_string_equal(first->path, "/m/first.gguf");
    assert_string_equal(small->path, "s.gguf");
    assert_string_equal(big->name, "big:7b");
    assert_string_equal(big->path, "./a=b.gguf");
    assert_int_equal(first->context, 1024);
    assert_int_equal(small->context, 1024);
    assert_int_equal(big->context, 2048);
    assert_int_equal(first->kv_type, OPS_KV_F16);
    assert_int_equal(small->kv_type, OPS_KV_Q8_0);
    assert_true(first->kv_bytes == 0 && big->kv_bytes == 0);
    assert_true(small->kv_bytes == UINT64_C(64) << 20);
    assert_int_equal(big->rope_scaling, OPTIONS_ROPE_YARN);
    assert_true(big->rope_factor == 2);
    assert_int_equal(first->rope_scaling, OPTIONS_ROPE_FILE);
    assert_int_equal(first->sequences, 4);
    assert_int_equal(big->sequences, 4);
    options_done(&o);

    assert_int_equal(PARSE(&o, why, "--model", "./a=b.gguf"), 0); /* a name has no slash */
    assert_null(o.models.all[0].name);
    assert_string_equal(o.models.all[0].path, "./a=b.gguf");
    options_done(&o);
}

static void names_each_mistake(void **state)
{
    (void)state;
    static const struct {
        const char *words[10];
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
        {{"--model", "a=", NULL}, "--model needs a value"},
        {{"--model", "a b=m", NULL}, "--model takes a name of up to 40 letters"},
        {{"--model", "=m", NULL}, "--model takes a name"},
        {{"--model", "a=m", "--model=a=n", NULL}, "--model was given twice for the name \"a\""},
        {{"--model", "m", "--model=m", NULL}, "--model m is given twice; give it two names"},
        {{"--model", "m", "--kv-bytes", "b=1G", NULL}, "No file is named for the model \"b\""},
        {{"--model", "b=m", "--kv-bytes", "b=1X", NULL}, "--kv-bytes takes a size"},
        {{"--model", "b=m", "--threads", "b=1", NULL}, "--threads takes a number"},
        {{"--model", "b=m", "--rope-factor", "b=4", NULL}, "--rope-factor needs --rope-scaling"},
        {{"--model", "m", "--model=n", "--image=i", NULL}, "--image i is one model's"},
        {{"--model=1", "--model=2", "--model=3", "--model=4", "--model=5", "--model=6", "--model=7",
          "--model=8", "--model=9", NULL},
         "--model is one too many: a service has up to 8"},
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
        cmocka_unit_test(takes_several_models),
        cmocka_unit_test(names_each_mistake),
        cmocka_unit_test(reads_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* quern.conf: what it sets, what drop-ins and the command line set over it, and that each problem is
 * named with file, line and the nearest name. */
#include "svc/config.h"

#include "chat/text.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/quern-config.XXXXXX";
static char file[64], drop_ins[72];

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void write_drop_in(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", drop_ins, name);
    if (text)
        write_file(path, text);
    else
        unlink(path);
}

static int parse(struct options *o, char *why, size_t why_size, const char *option)
{
    char *argv[] = {(char *)"quernd", (char *)"--config", file, (char *)option, NULL};
    return options_parse(o, option ? 4 : 3, argv, why, why_size);
}

static void sets_every_kind(void **state)
{
    (void)state;
    struct options o;
    char why[512] = "";
    write_file(file, "# a comment\n[service]\nmodel = /m one.gguf ; the rest is a comment\n"
                     "  threads = 3\n\n[memory]\nhuge-pages=require\nkv = q8_0\nkv-bytes = 2G\n"
                     "store = off\nimage = off\n[requests]\nshare-prefixes = yes\nqueue = 7\n");
    assert_int_equal(parse(&o, why, sizeof why, NULL), 0);
    assert_string_equal(o.models.all[0].path, "/m one.gguf");
    assert_string_equal(o.config, file);
    assert_int_equal(o.threads, 3);
    assert_int_equal(o.huge_pages, MM_HUGE_REQUIRE);
    assert_int_equal(o.models.all[0].kv_type, OPS_KV_Q8_0);
    assert_true(o.models.all[0].kv_bytes == UINT64_C(2) << 30);
    assert_null(o.store);
    assert_null(o.image);
    assert_true(o.share_prefixes);
    assert_int_equal(o.queue, 7);
    assert_int_equal(o.models.all[0].sequences, 16);
    options_done(&o);
    assert_int_equal(parse(&o, why, sizeof why, "--share-prefixes=no"), 0);
    assert_false(o.share_prefixes);
    options_done(&o);
}

static void later_values_count(void **state)
{
    (void)state;
    struct options o;
    char why[512] = "";
    write_file(file, "[service]\nmodel = a\nthreads = 1\n[requests]\nqueue = 1\n");
    write_drop_in("20-b.conf", "[service]\nthreads = 3\n");
    write_drop_in("10-a.conf", "[service]\nthreads = 2\n[requests]\nqueue = 2\n");
    write_drop_in("30-c.conf.off", "nonsense\n");
    assert_int_equal(parse(&o, why, sizeof why, NULL), 0);
    assert_int_equal(o.threads, 3);
    assert_int_equal(o.queue, 2);
    options_done(&o);
    assert_int_equal(parse(&o, why, sizeof why, "--threads=4"), 0);
    assert_int_equal(o.threads, 4);
    options_done(&o);

    write_drop_in("20-b.conf", "\n[service]\nthreads = none\n");
    assert_int_equal(parse(&o, why, sizeof why, NULL), -EINVAL);
    assert_non_null(strstr(why, "/20-b.conf:3: threads takes a number"));
    write_drop_in("10-a.conf", NULL);
    write_drop_in("20-b.conf", NULL);
    write_drop_in("30-c.conf.off", NULL);
}

static void has_several_models(void **state)
{
    (void)state;
    struct options o;
    char why[512] = "";
    write_file(file, "[model small]\nfile = /s.gguf\nkv = q8_0\nkv-bytes = 64M\n"
                     "[service]\nmodel = /first.gguf\n[requests]\ncontext = 512\n"
                     "[model big]\ncontext = 4096\n");
    write_drop_in("10-a.conf", "[model big]\nfile = /b.gguf\n[model small]\nfile = /t.gguf\n");
    assert_int_equal(parse(&o, why, sizeof why, NULL), 0);
    assert_int_equal(o.models.n, 3);
    assert_null(o.models.all[0].name); /* "model" of [service] is the first wherever it stands */
    assert_string_equal(o.models.all[0].path, "/first.gguf");
    assert_string_equal(o.models.all[1].name, "small");
    assert_string_equal(o.models.all[1].path, "/t.gguf");
    assert_int_equal(o.models.all[1].kv_type, OPS_KV_Q8_0);
    assert_true(o.models.all[1].kv_bytes == UINT64_C(64) << 20);
    assert_int_equal(o.models.all[1].context, 512);
    assert_string_equal(o.models.all[2].path, "/b.gguf");
    assert_int_equal(o.models.all[2].context, 4096);
    assert_int_equal(o.models.all[2].kv_type, OPS_KV_F16);
    options_done(&o);

    /* A later file's "model" stands in place of that of an earlier one; the others stay. */
    write_drop_in("20-b.conf", "[service]\nmodel = new=/new.gguf\n[model new]\ncontext = 128\n");
    assert_int_equal(parse(&o, why, sizeof why, NULL), 0);
    assert_int_equal(o.models.n, 3);
    assert_string_equal(o.models.all[0].name, "new");
    assert_string_equal(o.models.all[0].path, "/new.gguf");
    assert_int_equal(o.models.all[0].context, 128);
    assert_string_equal(o.models.all[1].name, "small");
    options_done(&o);
    write_drop_in("30-c.conf", "[service]\nmodel = /last.gguf\n");
    assert_int_equal(parse(&o, why, sizeof why, NULL), -EINVAL);
    assert_non_null(strstr(why, "No file is named for the model \"new\""));
    write_drop_in("30-c.conf", NULL);

    /* Models of the command line stand in place of all of the file's. */
    assert_int_equal(parse(&o, why, sizeof why, "--model=x=/x.gguf"), 0);
    assert_int_equal(o.models.n, 1);
    assert_string_equal(o.models.all[0].name, "x");
    assert_int_equal(o.models.all[0].context, 512);
    options_done(&o);
    write_drop_in("10-a.conf", NULL);
    write_drop_in("20-b.conf", NULL);
}

static void names_each_problem(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"[service]\nmodel = a\ntreads = 2\n",
         ":3: There is no key \"treads\", did you mean \"threads\"?"},
        {"[service]\nverbsoe = 2\n", "did you mean \"verbose\"?"},
        {"[service]\nflour = 2\n", ":2: There is no key \"flour\"."},
        {"[requets]\nqueue = 2\n", ":2: There is no section [requets], did you mean [requests]?"},
        {"[service]\n\nqueue = 2\n", ":3: \"queue\" belongs in the section [requests]"},
        {"model = a\n", ":1: \"model\" belongs in the section [service]"},
        {"[service]\nmodel = a\nmodel = b\n", ":3: \"model\" was given in line 2 already"},
        {"[service]\nthreads = 0\n", ":2: threads takes a number from 1 to 1024, not \"0\""},
        {"[service]\nthreads =\n", ":2: threads takes a number"},
        {"[service]\nmodel =\n", ":2: model needs a value"},
        {"[memory]\nkv-bytes = 1X\n", ":2: kv-bytes takes a size"},
        {"[memory]\nkv = f64\n", ":2: kv takes one of f32, f16, q8_0"},
        {"[requests]\nshare-prefixes = maybe\n", ":2: share-prefixes takes yes or no"},
        {"[service]\nhelp = yes\n", "There is no key \"help\""},
        {"[service]\nmodel\n", ":2: This is neither"},
        {"[service]\nmodel = a\n[memory\n", ":3: This is neither"},
        {"[model a]\nfile = x\nfile = y\n", ":3: \"file\" was given in line 2 already"},
        {"[model a]\nkv = f16\n[model b]\nkv = f16\n[model a]\nkv = f16\n",
         ":6: \"kv\" was given in line 2 already"},
        {"[model a]\nthreads = 2\n", ":2: There is no key \"threads\" for one model"},
        {"[model a]\nkv-bytes = 1X\n", ":2: kv-bytes takes a size"},
        {"[model a/b]\nfile = x\n", ":2: file takes a name of up to 40 letters"},
        {"[model 12345678901234567890123456789012345678901234567890]\nfile = x\n",
         ":2: file takes a name of up to 40 letters"},
        {"[model ]\nfile = x\n", ":2: file takes a name of up"},
        {"[memory]\nkv-bytes = a=1G\n", ":2: kv-bytes takes a size"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct options o;
        char why[512] = "";
        write_file(file, bad[i].text);
        assert_int_equal(parse(&o, why, sizeof why, NULL), -EINVAL);
        if (!strstr(why, bad[i].says) || strncmp(why, file, strlen(file)))
            fail_msg("\"%s\" does not say \"%s\"", why, bad[i].says);
    }
}

static void refuses_what_is_no_text(void **state)
{
    (void)state;
    struct options o;
    char why[512] = "", text[400] = "[service]\nmodel = ";
    memset(text + strlen(text), 'x', 300);
    write_file(file, text);
    assert_int_equal(parse(&o, why, sizeof why, NULL), -EINVAL);
    assert_non_null(strstr(why, ":2: The line has more than"));
    FILE *f = fopen(file, "we");
    fwrite("[service]\nmodel = a\0b\n", 1, 22, f);
    fclose(f);
    assert_int_equal(parse(&o, why, sizeof why, NULL), -EINVAL);
    assert_non_null(strstr(why, ":2: The line has a zero byte"));
    unlink(file);
    mkdir(file, 0700);
    assert_true(parse(&o, why, sizeof why, NULL) < 0);
    assert_non_null(strstr(why, "cannot be read"));
    rmdir(file);
}

static void count_problem(void *arg, const char *problem)
{
    (void)problem;
    ++*(unsigned *)arg;
}

static void tells_all_problems(void **state)
{
    (void)state;
    struct options o = {0};
    char why[512] = "";
    unsigned n = 0;
    write_file(file, "[service]\nmodle = a\nthreads = x\n[nowhere]\na = 1\nb = 2\n");
    assert_int_equal(config_read(&o, file, count_problem, &n, why, sizeof why), -EINVAL);
    assert_int_equal(n, 3); /* a section counts once */
    options_done(&o);
    assert_int_equal(parse(&o, why, sizeof why, NULL), -EINVAL);
    assert_non_null(strstr(why, "(2 more; quernd --check-config lists them)"));
}

static void measures_distances(void **state)
{
    (void)state;
    assert_int_equal(chat_word_distance("queue", "queue"), 0);
    assert_int_equal(chat_word_distance("queue", "quueue"), 1);
    assert_int_equal(chat_word_distance("qeuue", "queue"), 1);
    assert_int_equal(chat_word_distance("", "abc"), 3);
    assert_int_equal(chat_word_distance("kitten", "sitting"), 3);
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/quern.conf", folder);
    snprintf(drop_ins, sizeof drop_ins, "%s.d", file);
    return mkdir(drop_ins, 0700);
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(file);
    rmdir(drop_ins);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_every_kind),         cmocka_unit_test(later_values_count),
        cmocka_unit_test(has_several_models),      cmocka_unit_test(names_each_problem),
        cmocka_unit_test(refuses_what_is_no_text), cmocka_unit_test(tells_all_problems),
        cmocka_unit_test(measures_distances),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

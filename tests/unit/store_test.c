/* The warm store, with the test in the place of systemd, and with a hugetlbfs mount of its own:
 * what one process keeps the next one finds, unchanged and unchangeable; all else is dropped. */
#define _GNU_SOURCE /* unshare, F_GET_SEALS */
#include "mm/store.h"
#include "tests/support/hugepool.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB   (1024ull * 1024)
#define SIZE  (3 * MIB + 100)
#define PAGES 12 /* of 2 MiB, for all that a test holds at once */

static char folder[] = "/tmp/quern-store-test-XXXXXX";
static char socket_path[64], mount_path[64];
static int notify_fd = -1;
static unsigned grown;
static bool mounted;

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 2654435761u >> 11);
}

static int start(void **state)
{
    (void)state;
    grown = hugepool_grow(2048, PAGES);
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(socket_path, sizeof socket_path, "%s/notify", folder);
    snprintf(mount_path, sizeof mount_path, "%s/huge", folder);
    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
    if (notify_fd < 0 || bind(notify_fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -1;
    mkdir(mount_path, 0755);
    /* In a mount namespace of our own: nothing to clean up, nobody else sees it. */
    mounted = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
              mount("none", mount_path, "hugetlbfs", 0, "pagesize=2M") == 0;
    return 0;
}

static int end(void **state)
{
    (void)state;
    close(notify_fd);
    unlink(socket_path);
    if (mounted)
        umount(mount_path);
    rmdir(mount_path);
    rmdir(folder);
    hugepool_shrink(2048, grown);
    return 0;
}

/* ---- a process of its own for each start of the service ------------------------------------- */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return __LINE__;                                                                       \
    } while (0)

enum { NO_PAGES = 1 << 20 }; /* "others took the pages of the pool": not our failure */

struct run {
    const char *key, *folder; /* folder NULL: systemd's store */
    int kept_fd;              /* what systemd gives us back, or -1 */
    const char *kept_name;
    size_t size;
    int expect; /* of mm_store_adopt */
    char why[512];
};

static int store_of(const struct run *run, struct mm_store *ret)
{
    char why[512];
    CHECK(mm_store_init(ret, run->key, run->folder, why, sizeof why) == 0);
    CHECK(ret->place == (run->folder ? MM_STORE_FOLDER : MM_STORE_SYSTEMD));
    return 0;
}

static int fill_and_keep(struct run *run)
{
    struct mm_store store;
    struct mm_arena arena;
    CHECK(store_of(run, &store) == 0);
    CHECK(mm_store_adopt(&arena, &store, run->size, run->why, sizeof run->why) == -ENOENT);
    if (mm_store_begin(&arena, &store, run->size, MM_HUGE_REQUIRE, run->why, sizeof run->why) < 0)
        return NO_PAGES;
    CHECK(mm_arena_finish(&arena, run->why, sizeof run->why) == 0);
    for (size_t i = 0; i < run->size; i++)
        arena.base[i] = byte_at(i);
    CHECK(mm_store_keep(&arena, &store, run->why, sizeof run->why) == 0);
    struct timespec since, now;
    CHECK(mm_store_since(&arena, &since) == 0);
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK(since.tv_sec <= now.tv_sec && since.tv_sec > now.tv_sec - 600);
    return 0; /* and dies without a word: the store has it */
}

static int adopt(struct run *run)
{
    struct mm_store store;
    const struct mm_store *stores[] = {&store};
    struct mm_arena arena = {.fd = -7};
    CHECK(store_of(run, &store) == 0);
    int r = mm_store_adopt(&arena, &store, run->size, run->why, sizeof run->why);
    mm_store_sweep(stores, 1, run->why, sizeof run->why);
    CHECK(r == run->expect);
    if (r < 0) {
        CHECK(arena.fd == -7);
        return 0;
    }
    CHECK(arena.size >= run->size && arena.locked && arena.kind == MM_PAGES_HUGE_2M);
    for (size_t i = 0; i < run->size; i++)
        CHECK(arena.base[i] == byte_at(i));
    CHECK(mprotect(arena.base, arena.size, PROT_READ | PROT_WRITE) < 0);
    CHECK(mmap(NULL, arena.size, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, 0) == MAP_FAILED);
    mm_arena_unmap(&arena);
    return 0;
}

static int drop_all(struct run *run)
{
    struct mm_store store;
    CHECK(store_of(run, &store) == 0);
    CHECK(mm_store_drop(&store) == 1);
    return 0;
}

/* Runs fn as the service would be started: its result, and its words in run->why. */
static int in_process(int (*fn)(struct run *run), struct run *run)
{
    struct { /* the child's answer */
        int result;
        char why[512];
    } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    shared->result = -1;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("NOTIFY_SOCKET", socket_path, 1);
        if (run->kept_fd >= 0) {
            char text[32];
            snprintf(text, sizeof text, "%d", (int)getpid());
            setenv("LISTEN_PID", text, 1);
            setenv("LISTEN_FDS", "2", 1);
            snprintf(shared->why, sizeof shared->why, "quern.socket:%s", run->kept_name);
            setenv("LISTEN_FDNAMES", shared->why, 1);
            int kept = fcntl(run->kept_fd, F_DUPFD, 10), other = fcntl(notify_fd, F_DUPFD, 10);
            dup2(other, 3);
            dup2(kept, 4);
        }
        shared->result = fn(run);
        memcpy(shared->why, run->why, sizeof run->why);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    int result = shared->result;
    memcpy(run->why, shared->why, sizeof run->why);
    munmap(shared, 4096);
    if (result == NO_PAGES) {
        print_message("huge pages are not to be had: %s\n", run->why);
        skip();
    }
    return result;
}

/* What the service told systemd: the text, and the descriptor that came with it, or -1. */
static int take_notification(char *text, size_t size)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int) * 4) + CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec iov = {text, size - 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t n = recvmsg(notify_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    text[n > 0 ? n : 0] = '\0';
    int fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); n > 0 && c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
    }
    return fd;
}

static void systemd_keeps_what_one_process_loaded(void **state)
{
    (void)state;
    char text[1024];
    struct run run = {.key = "aaaa-1111", .kept_fd = -1, .size = SIZE};
    assert_int_equal(in_process(fill_and_keep, &run), 0);
    int kept = take_notification(text, sizeof text);
    assert_true(kept >= 0);
    assert_non_null(strstr(text, "FDSTORE=1"));
    assert_non_null(strstr(text, "FDNAME=weights-aaaa-1111"));
    assert_int_equal(fcntl(kept, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK),
                     F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK);

    run.kept_fd = kept;
    run.kept_name = "weights-aaaa-1111";
    for (int restart = 0; restart < 3; restart++)
        assert_int_equal(in_process(adopt, &run), 0);
    assert_int_equal(take_notification(text, sizeof text), -1);
    assert_string_equal(text, ""); /* nothing was dropped */

    static const struct {
        const char *key, *word;
        size_t size;
    } strangers[] = {{"aaaa-2222", "another version", SIZE},
                     {"bbbb-1111", "another model", SIZE},
                     {"aaaa-1111", "too small", SIZE + 4 * MIB}};
    for (size_t i = 0; i < 3; i++) {
        run.key = strangers[i].key;
        run.size = strangers[i].size;
        run.expect = -ENOENT;
        assert_int_equal(in_process(adopt, &run), 0);
        assert_non_null(strstr(run.why, strangers[i].word));
        assert_int_equal(take_notification(text, sizeof text), -1);
        assert_non_null(strstr(text, "FDSTOREREMOVE=1"));
        assert_non_null(strstr(text, "FDNAME=weights-aaaa-1111"));
    }
    run.key = "aaaa-1111";
    assert_int_equal(in_process(drop_all, &run), 0);
    take_notification(text, sizeof text);
    assert_non_null(strstr(text, "FDSTOREREMOVE=1"));
    close(kept);
}

/* A descriptor of that name which is no sealed hugetlb file is not believed. */
static void an_unsealed_or_foreign_file_is_not_believed(void **state)
{
    (void)state;
    char text[1024];
    struct run run = {
        .key = "aaaa-1111", .kept_name = "weights-aaaa-1111", .size = SIZE, .expect = -ENOENT};
    run.kept_fd = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(run.kept_fd, 4 * MIB), 0);
    assert_int_equal(in_process(adopt, &run), 0);
    assert_non_null(strstr(run.why, "not sealed"));
    assert_int_equal(fcntl(run.kept_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK),
                     0);
    assert_int_equal(in_process(adopt, &run), 0); /* sealed, but on small pages */
    assert_non_null(strstr(run.why, "Dropped"));
    close(run.kept_fd);
    while (take_notification(text, sizeof text), text[0] != '\0')
        ;
}

static void a_folder_keeps_what_one_process_loaded(void **state)
{
    (void)state;
    if (!mounted)
        skip();
    char place[80], file[128], part[128];
    snprintf(place, sizeof place, "%s/quern", mount_path);
    snprintf(file, sizeof file, "%s/weights-aaaa-1111", place);
    snprintf(part, sizeof part, "%s/weights-aaaa-1111.part", place);
    struct run run = {.key = "aaaa-1111", .folder = place, .kept_fd = -1, .size = SIZE};
    assert_int_equal(in_process(fill_and_keep, &run), 0);
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(access(part, F_OK), -1);
    for (int restart = 0; restart < 3; restart++)
        assert_int_equal(in_process(adopt, &run), 0);

    /* In use by another service of ours: not adopted by a stranger's key, and not dropped. */
    struct mm_store store;
    struct mm_arena arena;
    assert_int_equal(mm_store_init(&store, "aaaa-1111", place, run.why, sizeof run.why), 0);
    assert_int_equal(mm_store_adopt(&arena, &store, SIZE, run.why, sizeof run.why), 0);
    run.key = "aaaa-2222";
    run.expect = -ENOENT;
    assert_int_equal(in_process(adopt, &run), 0);
    assert_int_equal(access(file, F_OK), 0);
    mm_arena_unmap(&arena);
    assert_int_equal(in_process(adopt, &run), 0);
    assert_non_null(strstr(run.why, "another version"));
    assert_int_equal(access(file, F_OK), -1);

    /* Left unfinished by a crash. */
    int fd = open(part, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(in_process(adopt, &run), 0);
    assert_non_null(strstr(run.why, "never finished"));
    assert_int_equal(access(part, F_OK), -1);

    /* Readable by others: not ours. */
    run.key = "aaaa-1111";
    run.expect = 0;
    assert_int_equal(in_process(fill_and_keep, &run), 0);
    assert_int_equal(chmod(file, 0644), 0);
    run.expect = -ENOENT;
    assert_int_equal(in_process(adopt, &run), 0);
    assert_non_null(strstr(run.why, "no file of ours"));
    assert_int_equal(in_process(fill_and_keep, &run), 0);

    /* What systemd holds since a start that had no folder is let go, of this key, too. */
    char text[1024];
    run.kept_fd = memfd_create("kept", MFD_CLOEXEC);
    run.kept_name = "weights-aaaa-1111";
    run.expect = 0;
    assert_int_equal(in_process(adopt, &run), 0);
    assert_non_null(strstr(run.why, "in a folder now"));
    take_notification(text, sizeof text);
    assert_non_null(strstr(text, "FDSTOREREMOVE=1"));
    close(run.kept_fd);
    run.kept_fd = -1;
    assert_int_equal(in_process(drop_all, &run), 0);
    assert_int_equal(rmdir(place), 0);
}

static void places_that_will_not_do(void **state)
{
    (void)state;
    struct mm_store store;
    char why[512];
    assert_int_equal(mm_store_init(&store, "", folder, why, sizeof why), -EINVAL);
    assert_int_equal(mm_store_init(&store, "a/b", folder, why, sizeof why), -EINVAL);
    char long_key[100];
    memset(long_key, 'a', sizeof long_key - 1);
    long_key[sizeof long_key - 1] = '\0';
    assert_int_equal(mm_store_init(&store, long_key, folder, why, sizeof why), -EINVAL);
    assert_int_equal(mm_store_init(&store, "a", folder, why, sizeof why), 0);
    assert_int_equal(store.place, MM_STORE_NONE);
    assert_non_null(strstr(why, "hugetlbfs"));
    assert_int_equal(mm_store_init(&store, "a", "/proc/none", why, sizeof why), 0);
    assert_int_equal(store.place, MM_STORE_NONE);
    assert_non_null(strstr(why, "/proc/none"));

    /* No place: memory as ever, sealed all the same, and kept nowhere. */
    struct mm_arena arena;
    assert_int_equal(mm_store_adopt(&arena, &store, SIZE, why, sizeof why), -ENOENT);
    assert_int_equal(mm_store_begin(&arena, &store, SIZE, MM_HUGE_OFF, why, sizeof why), 0);
    assert_int_equal(mm_arena_finish(&arena, why, sizeof why), 0);
    arena.base[5] = 5;
    assert_int_equal(mm_store_keep(&arena, &store, why, sizeof why), -ENODEV);
    assert_non_null(strstr(why, "small pages"));
    assert_int_equal(arena.base[5], 5);
    assert_int_equal(mm_store_drop(&store), 0);
    mm_arena_unmap(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(systemd_keeps_what_one_process_loaded),
        cmocka_unit_test(an_unsealed_or_foreign_file_is_not_believed),
        cmocka_unit_test(a_folder_keeps_what_one_process_loaded),
        cmocka_unit_test(places_that_will_not_do),
    };
    return cmocka_run_group_tests(tests, start, end);
}

/* Pages for the machine's huge page pool while a test runs. */
#include "tests/support/hugepool.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

static unsigned long read_pages(const char *path)
{
    unsigned long value = 0;
    FILE *file = fopen(path, "re");
    if (file != NULL && fscanf(file, "%lu", &value) != 1)
        value = 0;
    if (file != NULL)
        fclose(file);
    return value;
}

static void write_pages(const char *path, unsigned long pages)
{
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return;
    fprintf(file, "%lu\n", pages);
    fclose(file); /* refused or cut short: the caller reads the number again */
}

static unsigned change(size_t page_kib, unsigned pages, int grow)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%zukB/nr_hugepages", page_kib);
    int lock = open("/sys/kernel/mm/hugepages", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0)
        return 0;
    flock(lock, LOCK_EX);
    unsigned long before = read_pages(path);
    write_pages(path, grow ? before + pages : before > pages ? before - pages : 0);
    unsigned long after = read_pages(path);
    close(lock);
    return after > before ? (unsigned)(after - before) : 0;
}

unsigned hugepool_grow(size_t page_kib, unsigned pages)
{
    return access("/sys/kernel/mm/hugepages", W_OK) == 0 || geteuid() == 0
               ? change(page_kib, pages, 1)
               : 0;
}

void hugepool_shrink(size_t page_kib, unsigned pages)
{
    if (pages > 0)
        change(page_kib, pages, 0);
}

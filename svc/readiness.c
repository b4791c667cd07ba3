/* What systemd is told (see readiness.h). */
#include "svc/readiness.h"

#include <systemd/sd-daemon.h>

#define LOAD_STALL_US (60u * 1000000) /* a load that makes no progress for so long has failed */
#include <time.h>

#define GRACE_US 2000000u /* armed and disarmed once for a burst of requests, not for each */

void readiness_init(struct readiness *readiness)
{
    uint64_t watchdog_us = 0;
    *readiness = (struct readiness){0};
    if (sd_watchdog_enabled(0, &watchdog_us) > 0)
        readiness->watchdog_us = watchdog_us;
    sd_notify(0, "WATCHDOG_USEC=0");
}

void readiness_status(const char *text)
{
    sd_notifyf(0, "STATUS=%s", text);
}

void readiness_loading(const char *text)
{
    sd_notifyf(0, "STATUS=%s\nEXTEND_TIMEOUT_USEC=%u", text, LOAD_STALL_US);
}

void readiness_ready(void)
{
    sd_notify(0, "READY=1");
}

void readiness_reloading(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* systemd.service(5), Type=notify-reload */
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
               (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
}

void readiness_stopping(void)
{
    sd_notify(0, "STOPPING=1\nSTATUS=Stopping");
}

void readiness_work(struct readiness *readiness, uint64_t now_us)
{
    struct readiness *r = readiness;
    if (!r->watchdog_us)
        return;
    r->worked_us = now_us;
    if (!r->armed)
        sd_notifyf(0, "WATCHDOG_USEC=%llu\nWATCHDOG=1", (unsigned long long)r->watchdog_us);
    else if (now_us - r->petted_us > r->watchdog_us / 4)
        sd_notify(0, "WATCHDOG=1");
    else
        return;
    r->armed = true;
    r->petted_us = now_us;
}

int readiness_grace_ms(const struct readiness *readiness, uint64_t now_us)
{
    const struct readiness *r = readiness;
    /* Well before the watchdog barks: nobody pets it meanwhile. */
    const uint64_t grace_us = r->watchdog_us / 4 < GRACE_US ? r->watchdog_us / 4 : GRACE_US;
    if (!r->armed)
        return -1;
    return now_us - r->worked_us < grace_us ? (int)((grace_us - (now_us - r->worked_us)) / 1000) + 1
                                            : 0;
}

void readiness_rest(struct readiness *readiness)
{
    if (readiness->armed)
        sd_notify(0, "WATCHDOG_USEC=0");
    readiness->armed = false;
}

/* What systemd is told: readiness, status, stopping, and the watchdog.
 *
 * The watchdog runs only while there is work: armed (WATCHDOG_USEC=) before the first step after a
 * rest, petted between steps, disarmed (WATCHDOG_USEC=0) once the service rests. A hung step is
 * killed, and a resting service never wakes for it. Without systemd nothing here does anything. */
#ifndef QUERN_SVC_READINESS_H
#define QUERN_SVC_READINESS_H

#include <stdbool.h>
#include <stdint.h>

struct readiness {
    uint64_t watchdog_us; /* WatchdogSec= of the unit; 0: none */
    bool armed;
    uint64_t petted_us; /* last time */
    uint64_t worked_us; /* before the last step */
};

/* Also disarms the watchdog that systemd starts with. */
void readiness_init(struct readiness *readiness);

void readiness_status(const char *text); /* STATUS= */
/* The same while loading, which moves: the unit's time to start is extended. */
void readiness_loading(const char *text);
void readiness_ready(void);
void readiness_reloading(void); /* until the next readiness_ready */
void readiness_stopping(void);

/* Before a step, with the time now. */
void readiness_work(struct readiness *readiness, uint64_t now_us);

/* How long the watchdog stays armed without work, in ms from now: 0 when it is time for
 * readiness_rest, −1 where it is not armed. */
int readiness_grace_ms(const struct readiness *readiness, uint64_t now_us);

/* The service goes to rest. */
void readiness_rest(struct readiness *readiness);

#endif

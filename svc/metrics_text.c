/* The metrics page as text (see metrics_text.h). Names follow the conventions of Prometheus: a prefix,
 * base units, "_total" for counters. docs/admin.md has the list. */
#include "svc/metrics_text.h"

#include "mm/arena.h"
#include "mm/memory.h"
#include "mm/stats.h"
#include "ops/isa.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct page {
    FILE *f;
    bool open_metrics;
    const struct metrics_snapshot *s;
};

/* ---- lines --------------------------------------------------------------------------------- */

static void family(const struct page *p, const char *name, const char *type, const char *help)
{
    const bool counter = !strcmp(type, "counter");
    const char *suffix = counter && !p->open_metrics ? "_total" : "";
    fprintf(p->f, "# HELP %s%s %s\n# TYPE %s%s %s\n", name, suffix, help, name, suffix, type);
}

/* A label's value, with what the format escapes escaped. */
static void label(const struct page *p, const char *name, const char *value, const char *before)
{
    fprintf(p->f, "%s%s=\"", before, name);
    for (; *value; value++) {
        if (*value == '\n')
            fputs("\\n", p->f);
        else if (*value == '"' || *value == '\\')
            fprintf(p->f, "\\%c", *value);
        else
            fputc(*value, p->f);
    }
    fputc('"', p->f);
}

/* `model` and the pair `key`, `value` may be NULL. */
static void begin(const struct page *p, const char *name, const char *model, const char *key,
                  const char *value)
{
    fputs(name, p->f);
    if (model || key)
        fputc('{', p->f);
    if (model)
        label(p, "model", model, "");
    if (key)
        label(p, key, value, model ? "," : "");
    fputs(model || key ? "} " : " ", p->f);
}

static void whole(const struct page *p, const char *name, const char *model, const char *key,
                  const char *value, uint64_t n)
{
    begin(p, name, model, key, value);
    fprintf(p->f, "%" PRIu64 "\n", n);
}

static void seconds(const struct page *p, const char *name, const char *model, const char *key,
                    const char *value, uint64_t us)
{
    begin(p, name, model, key, value);
    fprintf(p->f, "%" PRIu64 ".%06" PRIu64 "\n", us / 1000000, us % 1000000);
}

static void one_gauge(const struct page *p, const char *name, const char *help, uint64_t n)
{
    family(p, name, "gauge", help);
    whole(p, name, NULL, NULL, NULL, n);
}

/* A counter of each model: `offset` of it in struct figures_counters. */
static void model_counter(const struct page *p, const char *name, const char *help, size_t offset)
{
    char full[80];
    snprintf(full, sizeof full, "%s_total", name);
    family(p, name, "counter", help);
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        uint64_t n;
        memcpy(&n, (const char *)&m->counters + offset, sizeof n);
        whole(p, full, m->name, NULL, NULL, n);
    }
}

static void model_gauge(const struct page *p, const char *name, const char *help, size_t offset)
{
    family(p, name, "gauge", help);
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        uint32_t n;
        memcpy(&n, (const char *)m + offset, sizeof n);
        whole(p, name, m->name, NULL, NULL, n);
    }
}

static void model_histogram(const struct page *p, const char *name, const char *help, size_t offset)
{
    char bucket[80], sum[80], count[80], bound[32];
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    snprintf(sum, sizeof sum, "%s_sum", name);
    snprintf(count, sizeof count, "%s_count", name);
    family(p, name, "histogram", help);
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        const struct figures_histogram *h =
            (const struct figures_histogram *)((const char *)&m->counters + offset);
        uint64_t below = 0;
        for (uint32_t b = 0; b < FIGURES_BOUNDS; b++) {
            below += h->counts[b];
            snprintf(bound, sizeof bound, "%.4f", (double)figures_bounds_us[b] / 1e6);
            whole(p, bucket, m->name, "le", bound, below);
        }
        whole(p, bucket, m->name, "le", "+Inf", h->n);
        seconds(p, sum, m->name, NULL, NULL, h->sum_us);
        whole(p, count, m->name, NULL, NULL, h->n);
    }
}

/* ---- what there is ----------------------------------------------------------------------------- */

#define COUNTER(field) offsetof(struct figures_counters, field)
#define GAUGE(field)   offsetof(struct figures_model, field)

static void request_families(const struct page *p)
{
    family(p, "quern_requests", "counter", "Requests that ended, by how.");
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        whole(p, "quern_requests_total", m->name, "outcome", "finished", m->counters.n_finished);
        whole(p, "quern_requests_total", m->name, "outcome", "cancelled", m->counters.n_cancelled);
        whole(p, "quern_requests_total", m->name, "outcome", "failed", m->counters.n_failed);
    }
    model_counter(p, "quern_requests_received", "Requests that came in.", COUNTER(n_requests));
    family(p, "quern_tokens", "counter", "Tokens: of prompts, of these from the cache, generated.");
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        whole(p, "quern_tokens_total", m->name, "kind", "prompt", m->counters.n_prompt_tokens);
        whole(p, "quern_tokens_total", m->name, "kind", "cached", m->counters.n_cached_tokens);
        whole(p, "quern_tokens_total", m->name, "kind", "generated",
              m->counters.n_generated_tokens);
    }
    model_gauge(p, "quern_sequences_running", "Sequences that are computed now.", GAUGE(running));
    model_gauge(p, "quern_sequences_waiting", "Sequences in the queue.", GAUGE(waiting));
    model_gauge(p, "quern_sequences_limit", "Sequences that may run at once.",
                GAUGE(sequences_max));
    model_histogram(p, "quern_queue_seconds", "From a request's arrival to its first computation.",
                    COUNTER(queue));
    model_histogram(p, "quern_prefill_seconds", "From the first computation to the first token.",
                    COUNTER(prefill));
    model_histogram(p, "quern_time_to_first_token_seconds", "From arrival to the first token.",
                    COUNTER(first_token));
    model_histogram(p, "quern_token_gap_seconds", "Between two tokens of a sequence.",
                    COUNTER(token_gap));
    model_histogram(p, "quern_request_seconds", "From arrival to the final event.",
                    COUNTER(request));
}

static void engine_families(const struct page *p)
{
    model_counter(p, "quern_steps", "Steps of the engine.", COUNTER(n_steps));
    model_counter(p, "quern_rows", "Tokens computed, repeated ones included.", COUNTER(n_rows));
    model_counter(p, "quern_sequences_set_back", "Sequences that had to make room.",
                  COUNTER(n_set_back));
    model_counter(p, "quern_chunks_cut_short", "Prefill chunks given up for somebody else.",
                  COUNTER(n_cut_short));
    model_histogram(p, "quern_step_seconds", "Steps of the engine.", COUNTER(step));
    family(p, "quern_step_phase_seconds", "counter", "Of the steps: outside of the model.");
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        const char *name = "quern_step_phase_seconds_total";
        seconds(p, name, m->name, "phase", "plan", m->counters.plan_us);
        seconds(p, name, m->name, "phase", "sample", m->counters.sample_us);
        seconds(p, name, m->name, "phase", "hand_out", m->counters.hand_out_us);
    }
}

static void memory_families(const struct page *p)
{
    family(p, "quern_kv_pages", "gauge", "Pages of the KV cache, by what they hold.");
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        whole(p, "quern_kv_pages", m->name, "state", "used", m->kv_pages_used);
        whole(p, "quern_kv_pages", m->name, "state", "cached", m->kv_pages_cached);
        whole(p, "quern_kv_pages", m->name, "state", "free",
              m->kv_pages - m->kv_pages_used - m->kv_pages_cached);
    }
    model_gauge(p, "quern_kv_pages_reserved", "Pages promised to running sequences.",
                GAUGE(kv_pages_reserved));
    model_gauge(p, "quern_kv_pages_pinned", "Pages of pinned prefixes.", GAUGE(kv_pages_pinned));
    model_gauge(p, "quern_kv_page_positions", "Positions in a page.", GAUGE(page_len));
    family(p, "quern_weights_bytes", "gauge", "Memory of the weights, by the kind of its pages.");
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        whole(p, "quern_weights_bytes", m->name, "pages",
              mm_page_kind_name((enum mm_page_kind)m->weights_pages), m->weights_bytes);
    }
    family(p, "quern_kv_bytes", "gauge", "Memory of the KV cache, by the kind of its pages.");
    for (uint32_t i = 0; i < p->s->figures.n_models; i++) {
        const struct figures_model *m = &p->s->figures.models[i];
        whole(p, "quern_kv_bytes", m->name, "pages",
              mm_page_kind_name((enum mm_page_kind)m->kv_pages_kind), m->kv_bytes);
    }
    struct mm_stats heap;
    if (mm_stats_query(&heap) == 0) {
        family(p, "quern_heap_bytes", "gauge", "The ordinary heap, as jemalloc counts it.");
        whole(p, "quern_heap_bytes", NULL, "state", "allocated", heap.allocated);
        whole(p, "quern_heap_bytes", NULL, "state", "active", heap.active);
        whole(p, "quern_heap_bytes", NULL, "state", "resident", heap.resident);
        whole(p, "quern_heap_bytes", NULL, "state", "mapped", heap.mapped);
    }
    struct mm_memory memory;
    if (mm_memory_query(&memory, "") == 0) {
        const char *name = "quern_memory_available_bytes";
        family(p, name, "gauge", "Memory that is still to be had.");
        whole(p, name, NULL, "kind", "ordinary", memory.ordinary);
        whole(p, name, NULL, "kind", "hugetlb", memory.hugetlb);
    }
}

static void client_families(const struct page *p)
{
    const struct ipc_session_counters *r = &p->s->ring;
    one_gauge(p, "quern_clients", "Connected clients.", p->s->figures.clients);
    family(p, "quern_refusals", "counter", "What the policy refused, by cause.");
    for (int i = 0; i < POLICY_N_CAUSES; i++)
        whole(p, "quern_refusals_total", NULL, "cause", policy_cause_name((enum policy_cause)i),
              p->s->refused[i]);
    family(p, "quern_ring_records", "counter", "Records that went through the rings.");
    whole(p, "quern_ring_records_total", NULL, "direction", "in", r->requests);
    whole(p, "quern_ring_records_total", NULL, "direction", "out", r->events);
    family(p, "quern_ring_bytes", "counter", "Bytes that went through the rings' arenas.");
    whole(p, "quern_ring_bytes_total", NULL, "direction", "in", r->bytes_in);
    whole(p, "quern_ring_bytes_total", NULL, "direction", "out", r->bytes_out);
    family(p, "quern_ring_doorbells", "counter", "System calls that woke the other side.");
    whole(p, "quern_ring_doorbells_total", NULL, "direction", "in", r->doorbells_received);
    whole(p, "quern_ring_doorbells_total", NULL, "direction", "out", r->doorbells_sent);
    family(p, "quern_ring_full", "counter", "Events that had to wait for a client to read.");
    whole(p, "quern_ring_full_total", NULL, NULL, NULL, r->parked);
}

static uint64_t n_open_files(void)
{
    uint64_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    for (const struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n ? n - 1 : 0; /* the folder's own */
}

static void process_families(const struct page *p)
{
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use) == 0) {
        family(p, "process_cpu_seconds", "counter", "Processor time of the service.");
        seconds(p, "process_cpu_seconds_total", NULL, NULL, NULL,
                (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 +
                    (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec));
    }
    unsigned long long size, resident;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu", &size, &resident) == 2)
        one_gauge(p, "process_resident_memory_bytes", "Resident memory, huge pages not included.",
                  resident * (uint64_t)sysconf(_SC_PAGESIZE));
    if (f)
        fclose(f);
    one_gauge(p, "process_open_fds", "Open file descriptors.", n_open_files());
}

char *metrics_text(const struct metrics_snapshot *snapshot, bool open_metrics, size_t *ret_n)
{
    char *text = NULL;
    struct page p = {
        .f = open_memstream(&text, ret_n), .open_metrics = open_metrics, .s = snapshot};
    if (!p.f)
        return NULL;
    family(&p, "quern_build_info", "gauge", "The version, and the instruction set in use.");
    fputs("quern_build_info{", p.f);
    label(&p, "version", QUERN_VERSION, "");
    label(&p, "isa", ops_isa_name(ops_isa()), ",");
    fputs("} 1\n", p.f);
    family(&p, "quern_uptime_seconds", "gauge", "Since the start.");
    seconds(&p, "quern_uptime_seconds", NULL, NULL, NULL, snapshot->figures.uptime_us);
    one_gauge(&p, "quern_ready", "1 when the models are loaded.", snapshot->figures.is_ready);
    family(&p, "quern_loading_bytes", "gauge", "While a model is loading: read, and in all.");
    whole(&p, "quern_loading_bytes", NULL, "part", "done", snapshot->load_done);
    whole(&p, "quern_loading_bytes", NULL, "part", "total", snapshot->load_total);
    client_families(&p);
    request_families(&p);
    engine_families(&p);
    memory_families(&p);
    process_families(&p);
    if (open_metrics)
        fputs("# EOF\n", p.f);
    if (fclose(p.f) == 0)
        return text;
    free(text);
    return NULL;
}

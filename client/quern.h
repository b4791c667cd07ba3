/*
 * libquern: talk to quernd, the language model service of this machine, through shared memory.
 *
 *     quern *q;
 *     if (quern_connect(&q, NULL) < 0)
 *         die(quern_connect_error());
 *     struct quern_request r;
 *     quern_request_init(&r);
 *     r.input = "The mill by the river";
 *     r.input_size = strlen(r.input);
 *     struct quern_result result;
 *     quern_generate(q, &r, print_text, NULL, &result);
 *     quern_close(q);
 *
 * Ownership. A handle belongs to whoever connected it and is freed by quern_close. Everything in a
 * quern_request belongs to the caller and is copied before quern_submit returns. A quern_event
 * owns a buffer that grows as needed (as getline's does): begin with QUERN_EVENT_INIT, reuse it for
 * as many events as you like, free it with quern_event_done.
 *
 * Threads. All calls on one handle but quern_close may come from several threads at once: any may
 * submit, and each may wait for the events of its own requests (quern_next with that id); one of
 * them listens for all. Waiting for any request (id 0) in one thread and for a certain one in
 * another at the same time is not defined. quern_close comes last, when no thread is inside.
 *
 * Event loops. quern_fd becomes readable when there is something to read, by one rule: only when
 * quern_next with timeout 0 has just returned -EAGAIN may you wait for the fd. That empty call asks
 * the service for a doorbell and looks once more; while you keep getting events, no system call is
 * made. The same holds for a quern_submit that returned -EAGAIN: the fd wakes you when there is room.
 *
 * Errors. Calls return 0 or a negative errno value; quern_error says one sentence about the last
 * one on this handle in this thread. -ECONNRESET: the service is gone; every later call says the
 * same, and requests that had no final event will get none. -EPROTO: the service wrote nonsense.
 * -EOWNERDEAD: the process forked and this is the child: only quern_close still does anything.
 *
 * The library never prints, installs no signal handlers, and starts no threads.
 */
#ifndef QUERN_H
#define QUERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUERN_VERSION_MAJOR 0
#define QUERN_VERSION_MINOR 1
#define QUERN_VERSION_PATCH 0

#if defined(__GNUC__)
#define QUERN_API __attribute__((visibility("default")))
#else
#define QUERN_API
#endif

typedef struct quern quern;

/* ---- Connection ------------------------------------------------------------------------------ */

/* Connects to the service at path, or, where path is NULL, to $QUERN_SOCKET, else to
 * $XDG_RUNTIME_DIR/quern/quern.sock, else to /run/quern/quern.sock (the first that exists). Waits
 * for the handshake. -ENOENT, -ECONNREFUSED: no service there; -EACCES: may not; -ECONNABORTED: the
 * service refused, quern_connect_error has its reason; -EBUSY: refused because a quota is full;
 * -EPROTO: whoever listens there is not quernd; -EPROTONOSUPPORT: no common version. */
QUERN_API int quern_connect(quern **ret, const char *path);

/* One sentence about this thread's last quern_connect that failed. */
QUERN_API const char *quern_connect_error(void);

/* Ends the connection; requests in flight are cancelled by the service. NULL is fine. */
QUERN_API void quern_close(quern *q);

/* Readable when there is something to look at; see "Event loops" above. Never read from it. */
QUERN_API int quern_fd(const quern *q);

/* One sentence about this thread's last call on q that failed; "" when none did. Valid until this
 * thread's next call of the library. */
QUERN_API const char *quern_error(const quern *q);

/* The version of the library that runs, e.g. "0.1.0". */
QUERN_API const char *quern_version(void);

/* How long quern_next watches memory before it sleeps, in microseconds (default 0: sleep at once).
 * Spinning makes the first look faster and burns a core meanwhile. */
QUERN_API int quern_set_spin(quern *q, unsigned spin_us);

/* ---- Requests -------------------------------------------------------------------------------- */

enum quern_op {
    QUERN_OP_GENERATE = 1,
    QUERN_OP_TOKENIZE = 3,
    QUERN_OP_DETOKENIZE = 4,
    QUERN_OP_SCORE = 5,
    QUERN_OP_EMBED = 6,
    QUERN_OP_INFO = 7,
    QUERN_OP_STATUS = 8,
    QUERN_OP_PIN = 9,   /* see quern_prefix_pin */
    QUERN_OP_UNPIN = 10 /* see quern_prefix_unpin */
};

enum quern_input {
    QUERN_INPUT_TEXT = 1, /* input, input_size bytes of UTF-8 */
    QUERN_INPUT_CHAT = 2, /* messages, n_messages */
    QUERN_INPUT_IDS = 3,  /* ids, n_ids */
    QUERN_INPUT_SEGMENTS =
        4,                /* segments, n_segments: a prompt whose template the caller rendered */
    QUERN_INPUT_TEXTS = 5 /* embed: segments, n_segments ≤ 64, texts all: one vector each */
};

enum quern_role {
    QUERN_ROLE_SYSTEM = 0,
    QUERN_ROLE_USER = 1,
    QUERN_ROLE_ASSISTANT = 2,
    QUERN_ROLE_TOOL = 3 /* what a tool said */
};

enum quern_segment_kind {
    QUERN_SEGMENT_TEXT = 0,    /* text, whatever it spells */
    QUERN_SEGMENT_CONTROL = 1, /* a control token, by its name: the model must have it */
    QUERN_SEGMENT_TOKEN = 2    /* a token where the model has one of this name, else text */
};

enum quern_priority {
    QUERN_PRIORITY_NORMAL = 0,
    QUERN_PRIORITY_INTERACTIVE = 1,
    QUERN_PRIORITY_BATCH = 2
};

#define QUERN_SPECIAL    1u  /* text may spell control tokens; detokenize writes them */
#define QUERN_IGNORE_EOS 2u  /* go on after an end-of-sequence token */
#define QUERN_RAW_CHAT   4u  /* chat: no default system message */
#define QUERN_MEAN       8u  /* embed: the mean over all positions; else the last one's vector */
#define QUERN_NORMALIZE  16u /* embed: scaled to length 1 */
#define QUERN_ECHO       32u /* generate: QUERN_DATA_SCORES of the prompt before the first token */

#define QUERN_KEEP 64u /* pin: the prefix outlives this connection */

/* Which parameters are given; the others are the model's defaults. */
#define QUERN_GIVEN_TEMPERATURE 0x001u
#define QUERN_GIVEN_TOP_K       0x002u
#define QUERN_GIVEN_TOP_P       0x004u
#define QUERN_GIVEN_MIN_P       0x008u
#define QUERN_GIVEN_REPETITION  0x010u
#define QUERN_GIVEN_PRESENCE    0x020u
#define QUERN_GIVEN_FREQUENCY   0x040u
#define QUERN_GIVEN_SEED        0x080u
#define QUERN_GIVEN_MAX_TOKENS  0x100u
#define QUERN_GIVEN_MIN_TOKENS  0x200u

struct quern_message {
    enum quern_role role;
    const char *text;
    size_t text_size;
};

struct quern_segment {
    enum quern_segment_kind kind;
    const char *text;
    size_t text_size;
};

/* Added to the logit of a token before all else: −100 … 100, or −INFINITY, and it is never drawn. */
struct quern_bias {
    uint32_t token;
    float bias;
};

struct quern_request {
    size_t size;           /* of this struct, for later versions: set by quern_request_init */
    enum quern_op op;      /* QUERN_OP_GENERATE */
    enum quern_input kind; /* QUERN_INPUT_TEXT; not looked at for info and status */
    const char *input;     /* text */
    size_t input_size;
    const struct quern_message *messages; /* chat */
    size_t n_messages;
    const uint32_t *ids; /* token ids */
    size_t n_ids;
    const char *const *stops; /* stop strings, each ends with a zero byte; at most 16 */
    size_t n_stops;
    const char *model; /* name; NULL: the model of `prefix`, else the service's first */
    uint32_t flags;    /* QUERN_SPECIAL, … */
    uint32_t given;    /* QUERN_GIVEN_…: which of the following count */
    uint32_t max_tokens;
    uint32_t top_k;    /* 0: no limit */
    float temperature; /* 0 … 100; 0 takes the likeliest token each time */
    float top_p;       /* 0 < p ≤ 1 */
    float min_p;       /* 0 … 1 */
    float repetition;  /* 0 < r ≤ 100; 1: none */
    float presence;    /* −100 … 100 */
    float frequency;   /* −100 … 100 */
    uint64_t seed;     /* same request, same seed: same answer; not given: the service draws one */
    uint32_t n_logprobs;  /* alternatives to report with each token, 0 … 20 */
    uint32_t samples;     /* answers in parallel; 0 and 1 mean one */
    uint32_t deadline_ms; /* 0: none */
    enum quern_priority priority;
    const struct quern_segment *segments;
    size_t n_segments;
    const struct quern_bias *biases; /* at most 1,024, each token once */
    size_t n_biases;
    uint32_t min_tokens; /* no end of sequence before so many tokens */
    uint32_t n_stop_ids; /* at most 64 */
    uint64_t prefix;     /* generate, pin: the input follows the tokens of this prefix; 0: none */
    const uint32_t *stop_ids; /* tokens that end the answer; their text is not in it */
    uint64_t reserved;        /* zero */
};

/* Sets size, op QUERN_OP_GENERATE, kind QUERN_INPUT_TEXT, everything else zero. */
#define quern_request_init(r) quern_request_init_size((r), sizeof(struct quern_request))
QUERN_API void quern_request_init_size(struct quern_request *r, size_t size);

/* Sends a request; *ret_id names it in every event. -EAGAIN: the ring is full, read events and try
 * again; -EINVAL: quern_error says what is wrong with it; -EMSGSIZE: larger than this connection
 * carries (quern_input_max). */
QUERN_API int quern_submit(quern *q, const struct quern_request *r, uint64_t *ret_id);

/* Asks for the end of a request, which still gets its final event (cancelled, or as it ended if it
 * was faster). -EAGAIN as quern_submit. */
QUERN_API int quern_cancel(quern *q, uint64_t id);

/* The most bytes that input, stop strings and model name of one request may have together. */
QUERN_API size_t quern_input_max(const quern *q);

/* ---- Events ------------------------------------------------------------------------------------ */

enum quern_event_type {
    QUERN_EVENT_ACCEPTED = 1,
    QUERN_EVENT_QUEUED = 2,   /* u.queued */
    QUERN_EVENT_PROGRESS = 3, /* u.progress */
    QUERN_EVENT_TOKEN = 4,    /* u.token; data: text, whole UTF-8 characters, may be empty */
    QUERN_EVENT_DATA = 5,     /* u.data; data: a piece of the result */
    QUERN_EVENT_FINAL = 6     /* u.final; data: with a code, one sentence. Nothing follows it */
};

enum quern_queued {
    QUERN_QUEUED_TURN = 0, /* its turn has not come */
    QUERN_QUEUED_SHARE = 1 /* other requests of your user hold its share of the cache */
};

enum quern_phase { QUERN_PHASE_LOADING = 1, QUERN_PHASE_PREFILL = 2 };

enum quern_data {
    QUERN_DATA_IDS = 1,     /* uint32_t */
    QUERN_DATA_TEXT = 2,    /* UTF-8; of info and status: lines of key=value */
    QUERN_DATA_SCORES = 3,  /* struct quern_score, one for each token of the input */
    QUERN_DATA_FLOATS = 4,  /* float */
    QUERN_DATA_HANDLE = 6,  /* uint64_t, of pin */
    QUERN_DATA_LOGPROBS = 5 /* struct quern_score: alternatives of the token before */
};

struct quern_score {
    uint32_t token;
    float logprob; /* natural logarithm; NaN for the first token of a text */
};

enum quern_reason {
    QUERN_REASON_DONE = 0,
    QUERN_REASON_EOS = 1,
    QUERN_REASON_STOP = 2,
    QUERN_REASON_LENGTH = 3,
    QUERN_REASON_CANCELLED = 4,
    QUERN_REASON_FAILED = 5
};

enum quern_code {
    QUERN_CODE_OK = 0,
    QUERN_CODE_INVALID = 1,
    QUERN_CODE_TOO_LONG = 2,
    QUERN_CODE_UNSUPPORTED = 3,
    QUERN_CODE_BUSY = 4,
    QUERN_CODE_DENIED = 5,
    QUERN_CODE_NO_MODEL = 6,
    QUERN_CODE_NO_MEMORY = 7,
    QUERN_CODE_NUMERIC = 8,
    QUERN_CODE_DEADLINE = 9,
    QUERN_CODE_SHUTDOWN = 10,
    QUERN_CODE_INTERNAL = 11,
    QUERN_CODE_VERSION = 12
};

struct quern_final {
    enum quern_reason reason;
    enum quern_code code;
    uint32_t prompt_tokens;
    uint32_t cached_tokens;
    uint32_t generated;
    uint64_t queue_us;
    uint64_t prefill_us;
    uint64_t decode_us;
};

struct quern_event {
    uint64_t id;
    enum quern_event_type type;
    uint32_t sample; /* which of the parallel answers */
    char *data;      /* data_size bytes and a zero byte after them; NULL before the first event */
    size_t data_size;
    size_t capacity; /* of data; the library's */
    union {
        struct {
            uint32_t position; /* requests before this one */
            uint32_t total;
            uint64_t wait_us; /* estimate; 0: none */
            enum quern_queued reason;
            uint64_t limit; /* QUERN_QUEUED_SHARE: cache positions that your user may hold */
        } queued;
        struct {
            enum quern_phase phase;
            uint64_t done;
            uint64_t total;
        } progress;
        struct {
            uint32_t token;
            float logprob;
            uint32_t index;
            uint32_t gap_us; /* since the token before of this sample; 0: the first */
        } token;
        struct {
            enum quern_data kind;
            uint64_t index; /* bytes of this kind before these */
            uint64_t total; /* bytes of this kind in all; 0: not known yet */
        } data;
        struct quern_final final_;
        uint64_t reserved[8];
    } u;
};
#define QUERN_EVENT_INIT                                                                           \
    {                                                                                              \
        0, (enum quern_event_type)0, 0, NULL, 0, 0,                                                \
        {                                                                                          \
            {                                                                                      \
                0, 0, 0, (enum quern_queued)0, 0                                                   \
            }                                                                                      \
        }                                                                                          \
    }
QUERN_API void quern_event_done(struct quern_event *event);

/* The next event of request id, or of any request where id is 0. Waits at most timeout_ms (−1:
 * without end, 0: not at all). 0; -EAGAIN: none came; -ENOENT: no such request, or its final event
 * was read already; -ENOBUFS: too much is waiting for other threads' requests, which they must
 * read first; -ECONNRESET, -EPROTO, -ENOMEM. */
QUERN_API int quern_next(quern *q, uint64_t id, struct quern_event *event, int timeout_ms);

/* ---- The easy way -------------------------------------------------------------------------------- */

struct quern_result {
    struct quern_final final_;
    char sentence[256]; /* with a code: why */
};

/* Called with each event of the request but the final one; a value ≠ 0 cancels the request. */
typedef int quern_event_fn(void *arg, const struct quern_event *event);

/* Submits r (of any operation), waits, and calls fn (may be NULL) for each event. 0 when the final
 * event came, whatever it says: look at ret->final_.reason. */
QUERN_API int quern_generate(quern *q, const struct quern_request *r, quern_event_fn *fn, void *arg,
                             struct quern_result *ret);

/* ---- Prefixes ------------------------------------------------------------------------------------ */

/* Computes the input of r (any kind; its op is not looked at) and keeps it in the service's cache
 * until it is unpinned or this connection ends (QUERN_KEEP: until the service ends). A request whose
 * `prefix` is the handle goes on after these tokens, without sending or computing them again, and
 * gets the bytes that it would get with the whole prompt. A chat is pinned without the beginning of
 * an answer, so that the next turns can follow. Any connection of the same user may use the handle.
 * 0: pinned, or, with ret->final_.code, refused; ret may be NULL. -EBUSY where ret is NULL and it
 * was refused. */
QUERN_API int quern_prefix_pin(quern *q, const struct quern_request *r, uint64_t *ret_prefix,
                               struct quern_result *ret);

/* The same for a prefix that begins with another one, which stays as it is. */
QUERN_API int quern_prefix_fork(quern *q, uint64_t prefix, const struct quern_request *r,
                                uint64_t *ret_prefix, struct quern_result *ret);

/* Gives a prefix up. Requests that go on from it already are not disturbed. -ENOENT: this user has
 * no such prefix. */
QUERN_API int quern_prefix_unpin(quern *q, uint64_t prefix);

/* Names in English for messages: "end of sequence", "busy". Never NULL. */
QUERN_API const char *quern_reason_name(enum quern_reason reason);
QUERN_API const char *quern_code_name(enum quern_code code);

#ifdef __cplusplus
}
#endif

#endif

/*
 * The shared layout: every byte that a client and the service both see.
 *
 * Two memory regions, both made by the service and handed over in the handshake:
 *
 *   request region  written by the client alone, which seals it first: its words, the submission ring,
 *                   request bytes
 *   reply region    written by the service alone: its words, the event ring, reply bytes
 *
 * Every word has exactly one writer, and lives in the region of that writer. Indices are 64-bit,
 * count records or bytes since the session began, and never wrap; a slot is the index modulo the
 * number of entries, which is a power of two. All numbers are little-endian, as the machine is.
 * docs/protocol.md says the same in words; the assertions here hold the two together.
 *
 * This file is types and constants only, so that either side (and the fuzzers) can include it.
 */
#ifndef QUERN_IPC_LAYOUT_H
#define QUERN_IPC_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define IPC_MAGIC       UINT64_C(0x314e524555510a0d) /* "\r\nQUERN1" in memory order */
#define IPC_VERSION_MIN 1
#define IPC_VERSION_MAX 1

/* Feature bits. */
#define IPC_FEATURE_SHUT_BELL UINT64_C(1) /* doorbells by shutdown(2): see ipc_bell_shut */
#define IPC_FEATURES          IPC_FEATURE_SHUT_BELL /* every one that this version knows */

/* Bounds that both sides check, whatever the other says. All sizes are multiples of IPC_PAGE. */
#define IPC_PAGE               4096u
#define IPC_SUBMIT_ENTRIES_MIN 8u
#define IPC_SUBMIT_ENTRIES_MAX 4096u
#define IPC_EVENT_ENTRIES_MIN  64u
#define IPC_EVENT_ENTRIES_MAX  65536u
#define IPC_BYTES_MIN          (16u * 1024u)
#define IPC_BYTES_MAX          (256u * 1024u * 1024u)
#define IPC_SENTENCE_MAX       240u  /* longest sentence in a final event or a refusal, in bytes */
#define IPC_DATA_MAX           4096u /* longest byte span of one event */

/* ---- Handshake: three packets on the SOCK_SEQPACKET socket -------------------------------- */

enum ipc_packet_type {
    IPC_PACKET_HELLO = 1,   /* client → service, first packet, no descriptors */
    IPC_PACKET_WELCOME = 2, /* service → client, with two descriptors: request, then reply region */
    IPC_PACKET_REFUSAL =
        3, /* service → client, instead of a welcome; the service hangs up after it */
};

/* After the welcome only doorbells travel: one byte of this value, either way. It means "look".
 * With IPC_FEATURE_SHUT_BELL nothing travels any more. */
#define IPC_DOORBELL 0x21

struct ipc_hello {
    uint64_t magic;       /* IPC_MAGIC */
    uint16_t type;        /* IPC_PACKET_HELLO */
    uint16_t version_min; /* the versions that the client speaks */
    uint16_t version_max; /*                                     */
    uint16_t reserved0;   /* zero */
    uint64_t features;    /* features that the client wants: the answer has those of them it gets */
    uint32_t
        submit_entries;     /* wanted sizes; 0 leaves one to the service; larger than the service */
    uint32_t event_entries; /* allows is cut down to what it allows */
    uint32_t request_bytes;
    uint32_t reply_bytes;
    uint64_t reserved[3]; /* zero */
};
_Static_assert(sizeof(struct ipc_hello) == 64, "hello is 64 bytes");
_Static_assert(offsetof(struct ipc_hello, features) == 16, "hello.features");
_Static_assert(offsetof(struct ipc_hello, submit_entries) == 24, "hello.submit_entries");
_Static_assert(offsetof(struct ipc_hello, reserved) == 40, "hello.reserved");

struct ipc_welcome {
    uint64_t magic;          /* IPC_MAGIC */
    uint16_t type;           /* IPC_PACKET_WELCOME */
    uint16_t version;        /* the version both speak from now on */
    uint32_t reserved0;      /* zero */
    uint64_t features;       /* the features in force */
    uint64_t session_id;     /* as the service's journal names this session */
    uint64_t request_size;   /* bytes of the request region: the memfd has exactly this size */
    uint64_t reply_size;     /* bytes of the reply region: likewise */
    uint64_t submit_offset;  /* in the request region: submission ring */
    uint64_t request_offset; /* in the request region: request bytes */
    uint64_t event_offset;   /* in the reply region: event ring */
    uint64_t reply_offset;   /* in the reply region: reply bytes */
    uint32_t submit_entries; /* power of two */
    uint32_t event_entries;  /* power of two */
    uint32_t request_bytes;
    uint32_t reply_bytes;
    uint32_t submit_stride; /* bytes of one submission slot, ≥ sizeof(struct ipc_request_record) */
    uint32_t event_stride;  /* bytes of one event slot, ≥ sizeof(struct ipc_event_record) */
    uint32_t requests_max;  /* requests that this client may have in flight at once */
    uint32_t reserved1;     /* zero */
    uint64_t reserved[2];   /* zero */
};
_Static_assert(sizeof(struct ipc_welcome) == 128, "welcome is 128 bytes");
_Static_assert(offsetof(struct ipc_welcome, features) == 16, "welcome.features");
_Static_assert(offsetof(struct ipc_welcome, request_size) == 32, "welcome.request_size");
_Static_assert(offsetof(struct ipc_welcome, event_offset) == 64, "welcome.event_offset");
_Static_assert(offsetof(struct ipc_welcome, submit_entries) == 80, "welcome.submit_entries");
_Static_assert(offsetof(struct ipc_welcome, submit_stride) == 96, "welcome.submit_stride");
_Static_assert(offsetof(struct ipc_welcome, reserved) == 112, "welcome.reserved");

struct ipc_refusal {
    uint64_t magic;       /* IPC_MAGIC */
    uint16_t type;        /* IPC_PACKET_REFUSAL */
    uint16_t code;        /* enum ipc_code */
    uint16_t version_min; /* what this service speaks, so that a client can say so */
    uint16_t version_max;
    char sentence[IPC_SENTENCE_MAX]; /* UTF-8, ends with a zero byte */
};
_Static_assert(sizeof(struct ipc_refusal) == 256, "refusal is 256 bytes");
_Static_assert(offsetof(struct ipc_refusal, sentence) == 16, "refusal.sentence");

/* ---- The words at the start of each region ------------------------------------------------- */

/*
 * A `wants` word says what its owner sleeps for: bits 0–1 are the reasons, bits 2–63 a count that
 * its owner raises each time it arms the word, so that the other side rings once for each arming.
 * Zero reasons: awake, do not ring.
 */
#define IPC_WANT_RECORDS                                                                           \
    UINT64_C(1)                   /* ring when a tail of yours moves: there is something to read */
#define IPC_WANT_ROOM UINT64_C(2) /* ring when a head of yours moves: there is room to write */
#define IPC_WANT_MASK UINT64_C(3)
#define IPC_WANT_STEP UINT64_C(4)

struct ipc_request_words { /* offset 0 of the request region; the client writes, no one else */
    uint64_t submit_tail;  /* submission records published */
    uint8_t pad0[56];
    uint64_t event_head; /* event records read: their slots may be used again */
    uint64_t reply_head; /* reply bytes read */
    uint8_t pad1[48];
    uint64_t client_wants; /* what the client sleeps for */
    uint8_t pad2[56];
};
_Static_assert(sizeof(struct ipc_request_words) == 192, "request words");
_Static_assert(offsetof(struct ipc_request_words, submit_tail) == 0, "submit_tail");
_Static_assert(offsetof(struct ipc_request_words, event_head) == 64, "event_head");
_Static_assert(offsetof(struct ipc_request_words, reply_head) == 72, "reply_head");
_Static_assert(offsetof(struct ipc_request_words, client_wants) == 128, "client_wants");

struct ipc_reply_words { /* offset 0 of the reply region; the service writes, no one else */
    uint64_t event_tail; /* event records published */
    uint8_t pad0[56];
    uint64_t submit_head; /* submission records taken, their request bytes copied: both are free */
    uint8_t pad1[56];
    uint64_t service_wants; /* what the service sleeps for */
    uint8_t pad2[56];
};
_Static_assert(sizeof(struct ipc_reply_words) == 192, "reply words");
_Static_assert(offsetof(struct ipc_reply_words, event_tail) == 0, "event_tail");
_Static_assert(offsetof(struct ipc_reply_words, submit_head) == 64, "submit_head");
_Static_assert(offsetof(struct ipc_reply_words, service_wants) == 128, "service_wants");

/* ---- Submission records ---------------------------------------------------------------------- */

enum ipc_op {
    IPC_OP_GENERATE = 1,   /* tokens after the input */
    IPC_OP_CANCEL = 2,     /* end the request named in `target`; gets no event of its own */
    IPC_OP_TOKENIZE = 3,   /* input text or chat → IPC_DATA_IDS */
    IPC_OP_DETOKENIZE = 4, /* input ids → IPC_DATA_TEXT */
    IPC_OP_SCORE = 5,      /* input → IPC_DATA_SCORES, one for each token of it */
    IPC_OP_EMBED = 6,      /* input → IPC_DATA_FLOATS */
    IPC_OP_INFO = 7,       /* the model → IPC_DATA_TEXT, lines of `key=value` */
    IPC_OP_STATUS = 8, /* the service and its counters → IPC_DATA_TEXT, lines of `key=value` */
    IPC_OP_PIN = 9,    /* input: computed, and kept in the prefix cache → IPC_DATA_HANDLE */
    IPC_OP_UNPIN = 10, /* gives up the pinned prefix named in `prefix` */
};
#define IPC_OP_LAST 10

enum ipc_input {
    IPC_INPUT_NONE = 0,
    IPC_INPUT_TEXT = 1, /* UTF-8 */
    IPC_INPUT_CHAT = 2, /* u32 count, then count × struct ipc_chat_entry, then the texts in order */
    IPC_INPUT_IDS = 3,  /* u32 token ids */
    IPC_INPUT_SEGMENTS = 4, /* a prompt as its template made it: as chat, role: enum ipc_segment */
    IPC_INPUT_TEXTS = 5,    /* embed, one vector each: as chat, role 0; at most IPC_TEXTS_MAX */
};
#define IPC_INPUT_LAST 5

enum ipc_role {
    IPC_ROLE_SYSTEM = 0,
    IPC_ROLE_USER = 1,
    IPC_ROLE_ASSISTANT = 2,
    IPC_ROLE_TOOL = 3, /* what a tool said */
};
#define IPC_ROLE_LAST         3
#define IPC_CHAT_MESSAGES_MAX 4096u

struct ipc_chat_entry {
    uint32_t role;   /* enum ipc_role; of segments enum ipc_segment */
    uint32_t length; /* bytes of this message's text */
};
_Static_assert(sizeof(struct ipc_chat_entry) == 8, "chat entry");

/* What a segment of a prompt is. */
enum ipc_segment {
    IPC_SEGMENT_TEXT = 0,    /* text, whatever it spells */
    IPC_SEGMENT_CONTROL = 1, /* a control token, by its name: the vocabulary must have it */
    IPC_SEGMENT_TOKEN = 2,   /* a token where the vocabulary has one of this name, else text */
};
#define IPC_SEGMENT_LAST 2

/* Flags of a request; all others are refused. */
#define IPC_FLAG_SPECIAL    1u  /* text may spell control tokens (and detokenize writes them) */
#define IPC_FLAG_IGNORE_EOS 2u  /* go on after an end-of-sequence token */
#define IPC_FLAG_RAW_CHAT   4u  /* chat: no default system message */
#define IPC_FLAG_MEAN       8u  /* embed: the mean over all positions, not the last one's */
#define IPC_FLAG_NORMALIZE  16u /* embed: scaled to length 1 */
#define IPC_FLAG_ECHO       32u /* generate: the scores of the prompt come before the first token */

#define IPC_FLAG_KEEP 64u /* pin: outlives the connection */

/* Bits of `given`: a parameter whose bit is clear must be zero, and means the model's default. */
#define IPC_GIVEN_TEMPERATURE 0x001u
#define IPC_GIVEN_TOP_K       0x002u
#define IPC_GIVEN_TOP_P       0x004u
#define IPC_GIVEN_MIN_P       0x008u
#define IPC_GIVEN_REPETITION  0x010u
#define IPC_GIVEN_PRESENCE    0x020u
#define IPC_GIVEN_FREQUENCY   0x040u
#define IPC_GIVEN_SEED        0x080u
#define IPC_GIVEN_MAX_TOKENS  0x100u
#define IPC_GIVEN_MIN_TOKENS  0x200u
#define IPC_GIVEN_ALL         0x3ffu

#define IPC_STOPS_MAX       16u
#define IPC_STOP_BYTES_MAX  256u /* of one stop string */
#define IPC_MODEL_BYTES_MAX 64u  /* of a model's name */
#define IPC_LOGPROBS_MAX    20u
#define IPC_SAMPLES_MAX     64u
#define IPC_TEXTS_MAX       64u
#define IPC_BIASES_MAX      1024u
#define IPC_STOP_IDS_MAX    64u

/* What is added to the logit of a token before all else. */
struct ipc_bias {
    uint32_t token;
    float bias; /* −100 … 100, or −infinity: never drawn */
};
_Static_assert(sizeof(struct ipc_bias) == 8, "bias");

enum ipc_priority { IPC_PRIORITY_NORMAL = 0, IPC_PRIORITY_INTERACTIVE = 1, IPC_PRIORITY_BATCH = 2 };
#define IPC_PRIORITY_LAST 2

struct ipc_request_record {
    uint64_t id;         /* not 0, larger than every id that this client used before */
    uint16_t op;         /* enum ipc_op */
    uint16_t input;      /* enum ipc_input */
    uint32_t flags;      /* IPC_FLAG_… */
    uint32_t given;      /* IPC_GIVEN_… */
    uint32_t max_tokens; /* not 0 when given */
    /* One span of the request bytes: input, stop list, name of the model, biases, stop ids, end to
     * end. */
    uint32_t offset; /* of the span in the request bytes */
    uint32_t input_bytes;
    uint32_t stop_bytes;  /* stop list: for each string u32 length, then its bytes */
    uint32_t model_bytes; /* 0: the model of `prefix`, else the service's first */
    float temperature;    /* 0 … 100; 0 is greedy */
    uint32_t top_k;       /* 0: no limit */
    float top_p;          /* 0 < p ≤ 1 */
    float min_p;          /* 0 ≤ p ≤ 1 */
    float repetition;     /* 0 < r ≤ 100; 1 is none */
    float presence;       /* −100 … 100 */
    float frequency;      /* −100 … 100 */
    uint32_t n_logprobs;  /* 0 … IPC_LOGPROBS_MAX alternatives with each token */
    uint64_t seed;
    uint64_t target;        /* cancel: the id of the request to end; else 0 */
    uint32_t deadline_ms;   /* from the moment it is taken; 0: none */
    uint16_t priority;      /* enum ipc_priority */
    uint16_t samples;       /* answers wanted in parallel; 0 means 1 */
    uint32_t min_tokens;    /* no end of sequence before so many; less than max_tokens */
    uint32_t bias_bytes;    /* struct ipc_bias each, tokens rising */
    uint64_t prefix;        /* handle of a pinned prefix: the input follows its tokens; or 0 */
    uint32_t stop_id_bytes; /* u32 token ids: the answer ends with the first of them */
    uint32_t reserved[3];   /* zero */
};
_Static_assert(sizeof(struct ipc_request_record) == 128, "request record is 128 bytes");
_Static_assert(offsetof(struct ipc_request_record, op) == 8, "request.op");
_Static_assert(offsetof(struct ipc_request_record, flags) == 12, "request.flags");
_Static_assert(offsetof(struct ipc_request_record, offset) == 24, "request.offset");
_Static_assert(offsetof(struct ipc_request_record, temperature) == 40, "request.temperature");
_Static_assert(offsetof(struct ipc_request_record, n_logprobs) == 68, "request.n_logprobs");
_Static_assert(offsetof(struct ipc_request_record, seed) == 72, "request.seed");
_Static_assert(offsetof(struct ipc_request_record, target) == 80, "request.target");
_Static_assert(offsetof(struct ipc_request_record, deadline_ms) == 88, "request.deadline_ms");
_Static_assert(offsetof(struct ipc_request_record, priority) == 92, "request.priority");
_Static_assert(offsetof(struct ipc_request_record, min_tokens) == 96, "request.min_tokens");
_Static_assert(offsetof(struct ipc_request_record, bias_bytes) == 100, "request.bias_bytes");
_Static_assert(offsetof(struct ipc_request_record, prefix) == 104, "request.prefix");
_Static_assert(offsetof(struct ipc_request_record, stop_id_bytes) == 112, "request.stop_id_bytes");
_Static_assert(offsetof(struct ipc_request_record, reserved) == 116, "request.reserved");

/* ---- Events ------------------------------------------------------------------------------------ */

enum ipc_event_type {
    IPC_EVENT_ACCEPTED = 1, /* taken and valid; first event of every request that is not refused */
    IPC_EVENT_QUEUED = 2,   /* waits for its turn: u.queued; again when the position changes */
    IPC_EVENT_PROGRESS = 3, /* u.progress */
    IPC_EVENT_TOKEN = 4,    /* u.token; bytes: the text that became certain with it, may be none */
    IPC_EVENT_DATA = 5,     /* u.data; bytes: one piece of the result */
    IPC_EVENT_FINAL = 6, /* u.final; bytes: with code ≠ 0 one sentence. The last of a request */
};
#define IPC_EVENT_LAST 6

enum ipc_queued {
    IPC_QUEUED_TURN = 0,  /* its turn has not come */
    IPC_QUEUED_SHARE = 1, /* what runs of the same user holds that user's share of the cache */
};
#define IPC_QUEUED_LAST 1

enum ipc_phase { IPC_PHASE_LOADING = 1, IPC_PHASE_PREFILL = 2 };

enum ipc_data {
    IPC_DATA_IDS = 1,      /* u32 token ids */
    IPC_DATA_TEXT = 2,     /* UTF-8 (of detokenize: whatever bytes the ids spell) */
    IPC_DATA_SCORES = 3,   /* struct ipc_score for each token of the input */
    IPC_DATA_FLOATS = 4,   /* float32 */
    IPC_DATA_LOGPROBS = 5, /* struct ipc_score: the alternatives of the token event before it */
    IPC_DATA_HANDLE = 6,   /* u64: a pinned prefix; only for who asked for one */
};
#define IPC_DATA_LAST 6

struct ipc_score {
    uint32_t token;
    float logprob; /* natural logarithm; NaN for the first token of a text, which has none */
};
_Static_assert(sizeof(struct ipc_score) == 8, "score");

enum ipc_reason {
    IPC_REASON_DONE = 0,      /* an operation other than generate has its result */
    IPC_REASON_EOS = 1,       /* the model ended its answer */
    IPC_REASON_STOP = 2,      /* a stop string, or a stop id */
    IPC_REASON_LENGTH = 3,    /* max_tokens, or the end of the context */
    IPC_REASON_CANCELLED = 4, /* cancel, or the deadline (then with a code) */
    IPC_REASON_FAILED = 5,    /* see code and sentence */
};
#define IPC_REASON_LAST 5

enum ipc_code {
    IPC_CODE_OK = 0,
    IPC_CODE_INVALID = 1,     /* the request says something that no service could do */
    IPC_CODE_TOO_LONG = 2,    /* longer than the context */
    IPC_CODE_UNSUPPORTED = 3, /* this service or model cannot do it */
    IPC_CODE_BUSY = 4,        /* a quota or a queue is full: try again later */
    IPC_CODE_DENIED = 5,      /* policy says no */
    IPC_CODE_NO_MODEL = 6,    /* no model of that name, or none loaded */
    IPC_CODE_NO_MEMORY = 7,
    IPC_CODE_NUMERIC = 8,   /* NaN or infinity in this sequence */
    IPC_CODE_DEADLINE = 9,  /* the deadline passed, or cannot be met */
    IPC_CODE_SHUTDOWN = 10, /* the service is ending */
    IPC_CODE_INTERNAL = 11, /* the service's own mistake */
    IPC_CODE_VERSION = 12,  /* refusal only: no common version */
};
#define IPC_CODE_LAST 12

struct ipc_event_record {
    uint64_t id;     /* of the request */
    uint16_t type;   /* enum ipc_event_type */
    uint16_t sample; /* which of the parallel answers, from 0 */
    uint32_t bytes;  /* length of the span in the reply bytes, ≤ IPC_DATA_MAX */
    uint64_t pos;    /* where it begins, counted since the session began; may run over the end */
    union {
        struct {
            uint32_t position; /* requests before this one; 0 is next */
            uint32_t total;    /* requests waiting */
            uint64_t wait_us;  /* estimate, 0 when there is none */
            uint32_t reason;   /* enum ipc_queued */
            uint32_t reserved;
            uint64_t limit; /* with IPC_QUEUED_SHARE: cache positions that its user may hold */
        } queued;
        struct {
            uint32_t phase; /* enum ipc_phase */
            uint32_t reserved;
            uint64_t done; /* tokens (prefill) or bytes (loading) */
            uint64_t total;
        } progress;
        struct {
            uint32_t token;
            float logprob;   /* of this token among all, before sampling; natural logarithm */
            uint32_t index;  /* 0 is the first token generated */
            uint32_t gap_us; /* since the token before; 0: the first */
        } token;
        struct {
            uint32_t kind; /* enum ipc_data */
            uint32_t reserved;
            uint64_t index; /* bytes of this kind that went before, in this request */
            uint64_t total; /* bytes of this kind in all; 0 when not known yet */
        } data;
        struct {
            uint16_t reason;        /* enum ipc_reason */
            uint16_t code;          /* enum ipc_code */
            uint32_t prompt_tokens; /* tokens of the input */
            uint32_t cached_tokens; /* of these, found in the prefix cache */
            uint32_t generated;     /* tokens generated */
            uint64_t queue_us;      /* taken → first computed */
            uint64_t prefill_us;    /* first computed → first token */
            uint64_t decode_us;     /* first token → this event */
        } final;
        uint8_t raw[40];
    } u; /* bytes that a type does not use are zero */
};
_Static_assert(sizeof(struct ipc_event_record) == 64, "event record is 64 bytes");
_Static_assert(offsetof(struct ipc_event_record, bytes) == 12, "event.bytes");
_Static_assert(offsetof(struct ipc_event_record, pos) == 16, "event.pos");
_Static_assert(offsetof(struct ipc_event_record, u) == 24, "event.u");
_Static_assert(offsetof(struct ipc_event_record, u.queued.reason) == 40, "event.queued.reason");
_Static_assert(offsetof(struct ipc_event_record, u.queued.limit) == 48, "event.queued.limit");
_Static_assert(offsetof(struct ipc_event_record, u.final.queue_us) == 40, "event.final.queue_us");

#endif

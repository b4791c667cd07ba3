/*
 * The protocol of ipc/ring.c, ipc/session.c and client/lib/events.c as a Spin model: submission
 * ring, event ring, sleep and wake, back-pressure, parking, disconnect.
 *
 * Spin's memory is sequentially consistent and real memory is not, so each side has an explicit
 * store buffer: a store goes into it, a process of its own moves stores to memory in order at any
 * later time, and a full fence waits until it is empty. Each side loads only words of the other
 * (its own it knows), so no load is ever served from a buffer. This is x86-TSO.
 *
 * The client submits REQUESTS requests, each answered by TOKENS token events and a final one (or, beyond
 * REQUESTS_MAX in flight, by a final one alone), and both sides sleep whenever they find nothing to do. A doorbell to a full socket is dropped.
 *
 *   no lost wake-up, no deadlock    an invalid end state otherwise
 *   nothing lost or repeated        each side asserts the exact content of what it reads
 *   one final event per request     asserted by the client; the kept slot by the service
 *
 * -DEDGES: the client's doorbells are edges, taken by the sleep that they end (the service's always are).
 * -DDISCONNECT=1 lets the client vanish between any two of its steps, 2 the service.
 * -DM_… breaks one rule; tests/spin/run.sh checks that each of these fails.
 */
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef TOKENS
#define TOKENS 1
#endif
#ifndef SUBMIT_ENTRIES
#define SUBMIT_ENTRIES 1
#endif
#ifndef EVENT_ENTRIES
#define EVENT_ENTRIES 2
#endif
#ifndef REQUESTS_MAX /* in flight; more than half of the ring and kept slots leave none for events */
#define REQUESTS_MAX (EVENT_ENTRIES / 2)
#endif
#ifndef BUFFER /* depth of a store buffer */
#define BUFFER 2
#endif
#ifndef SOCKET /* doorbells that fit */
#define SOCKET 1
#endif
#ifndef DISCONNECT
#define DISCONNECT 0
#endif

#define RECORDS 1 /* reasons in a wants word; the count of armings is above them */
#define ROOM 2
#define STEP 4

/* Memory: one array for the words of each writer. Ring slots follow the words. */
#define TAIL 0  /* submit_tail, event_tail */
#define HEAD 1  /* event_head, submit_head */
#define WANTS 2 /* client_wants, service_wants */
#define SLOT 3
byte request_memory[SLOT + SUBMIT_ENTRIES]; /* written by the client */
byte reply_memory[SLOT + EVENT_ENTRIES];    /* written by the service */
chan client_buffer = [BUFFER] of {byte, byte};
chan service_buffer = [BUFFER] of {byte, byte};

byte bell_to_client, bell_to_service; /* doorbells in the socket */
bool client_gone, service_gone;

active proctype drain_client_buffer()
{
    byte a, v;
end:
    do
    :: atomic { client_buffer?a, v -> request_memory[a] = v; a = 0; v = 0 }
    od
}

active proctype drain_service_buffer()
{
    byte a, v;
end:
    do
    :: atomic { service_buffer?a, v -> reply_memory[a] = v; a = 0; v = 0 }
    od
}

inline ring_bell(bell)
{
    d_step { if :: bell < SOCKET -> bell++ :: else fi }
}

/* An event says which request (1 …) and which of its events (0 … TOKENS; the last is final). */
#define EVENT(request, index) ((request) * 8 + (index))

#if DISCONNECT == 1
#define CLIENT_MAY_VANISH if :: true :: true -> goto gone fi
#else
#define CLIENT_MAY_VANISH skip
#endif
#if DISCONNECT == 2
#define SERVICE_MAY_VANISH if :: true :: true -> goto gone fi
#else
#define SERVICE_MAY_VANISH skip
#endif

/* ---- Client: quern_submit and quern_next -------------------------------------------------------- */

active proctype client()
{
    byte submitted, read;    /* private indices */
    byte next_event[REQUESTS + 1]; /* per request: the event it must get next */
    byte finals;
    byte want, rung, word, slot, tail, head;
    bool moved_records, moved_room, room_wanted;

    do
    :: finals == REQUESTS -> break
    :: else ->
        CLIENT_MAY_VANISH;
        /* Submit, when there is room. */
        if
        :: submitted < REQUESTS ->
            head = reply_memory[HEAD];
            assert(head <= submitted);
            if
            :: submitted - head < SUBMIT_ENTRIES ->
                room_wanted = false;
#ifdef M_TAIL_BEFORE_SLOT
                client_buffer!TAIL, submitted + 1;
                client_buffer!(SLOT + submitted % SUBMIT_ENTRIES), submitted + 1;
#else
                client_buffer!(SLOT + submitted % SUBMIT_ENTRIES), submitted + 1;
                client_buffer!TAIL, submitted + 1;
#endif
                submitted++;
                moved_records = true
            :: else -> room_wanted = true
            fi
        :: else -> room_wanted = false
        fi;
        /* Read one event. */
        tail = reply_memory[TAIL];
        assert(tail >= read && tail - read <= EVENT_ENTRIES);
        if
        :: tail > read ->
#ifdef M_HEAD_BEFORE_COPY
            client_buffer!HEAD, read + 1;
#endif
            slot = reply_memory[SLOT + read % EVENT_ENTRIES];
            assert(slot / 8 >= 1 && slot / 8 <= submitted);
            /* None lost, none twice, none after the final one; a refusal is the final one alone. */
            assert(slot % 8 == next_event[slot / 8] ||
                   (slot % 8 == TOKENS && next_event[slot / 8] == 0));
            d_step {
                next_event[slot / 8] = slot % 8 + 1;
                if :: slot % 8 == TOKENS -> finals++ :: else fi;
                slot = 0
            }
            read++;
#ifndef M_HEAD_BEFORE_COPY
            client_buffer!HEAD, read;
#endif
            moved_room = true
        :: else
        fi;
        /* Ring: ipc_bell_due. */
        if
        :: moved_records || moved_room ->
#ifndef M_NO_FENCE_B_CLIENT
            len(client_buffer) == 0;
#endif
            word = reply_memory[WANTS];
            if
            :: word != rung && ((moved_records && word & RECORDS) || (moved_room && word & ROOM)) ->
                rung = word;
                ring_bell(bell_to_service)
            :: else
            fi;
            d_step { moved_records = false; moved_room = false; word = 0 }
        :: else ->
            if
            :: tail > read || (submitted < REQUESTS && !room_wanted) -> skip
            :: else ->
                /* Nothing to do: arm_and_look, then poll. */
#if !defined(M_DRAIN_AFTER_ARM) && !defined(EDGES)
                bell_to_client = 0;
#endif
#ifdef M_LOOK_THEN_FLAG
                tail = reply_memory[TAIL];
                head = reply_memory[HEAD];
#endif
                d_step {
#ifdef M_NO_COUNT
                    want = RECORDS | (room_wanted -> ROOM : 0)
#else
                    want = (want & 252) + STEP + RECORDS + (room_wanted -> ROOM : 0)
#endif
                }
                client_buffer!WANTS, want;
#ifndef M_NO_FENCE_A_CLIENT
                len(client_buffer) == 0;
#endif
#ifdef M_DRAIN_AFTER_ARM
                bell_to_client = 0;
#endif
#ifndef M_LOOK_THEN_FLAG
                tail = reply_memory[TAIL];
                head = reply_memory[HEAD];
#endif
                CLIENT_MAY_VANISH;
                if
                :: tail > read || (room_wanted && submitted - head < SUBMIT_ENTRIES) -> skip
                :: else ->
                    if
#ifdef EDGES
                    :: bell_to_client > 0 -> bell_to_client = 0
#else
                    :: bell_to_client > 0 -> skip
#endif
#ifndef M_DEAF_TO_HANG_UP
                    :: service_gone -> break
#endif
                    fi
                fi
            fi
        fi;
        d_step { tail = 0; head = 0 }
    od;
gone:
    client_gone = true
}

/* ---- Service: the session, and an engine that steps each request by one event ------------------- */

/* Takes one submission, if there is room to keep a slot for its final event. */
inline take()
{
    tail = request_memory[TAIL];
    assert(tail >= taken && tail - taken <= SUBMIT_ENTRIES);
    if
    :: tail > taken ->
        consumed = request_memory[HEAD];
#ifdef M_NO_FINAL_SLOT
        if
        :: true ->
#else
        if
        :: EVENT_ENTRIES - (written - consumed) >= n_in_flight + 1 ->
#endif
            held = false;
            slot = request_memory[SLOT + taken % SUBMIT_ENTRIES];
            assert(slot == taken + 1); /* none lost, none twice */
            taken++;
            service_buffer!HEAD, taken;
            d_step { moved_room = true; worked = true };
            if
#ifdef M_TOO_MANY_IN_FLIGHT
            :: true -> d_step { in_flight[slot] = true; n_in_flight++ }
#else
            :: n_in_flight < REQUESTS_MAX -> d_step { in_flight[slot] = true; n_in_flight++ }
            :: else -> /* refused: answer_refused */
                service_buffer!(SLOT + written % EVENT_ENTRIES), EVENT(slot, TOKENS);
                service_buffer!TAIL, written + 1;
                d_step { written++; moved_records = true }
#endif
            fi;
            slot = 0
        :: else -> held = true
        fi
    :: else
    fi
}

/* Slots that must be free for an event, in all. */
#ifdef M_NO_FINAL_SLOT
#define NEEDED 1
#else
#define NEEDED (n_in_flight + 1)
#endif

/* Posts the next token event of request i, or parks: ipc_session_post. */
inline post()
{
    consumed = request_memory[HEAD];
    assert(consumed <= written);
    if
    :: EVENT_ENTRIES - (written - consumed) < NEEDED ->
        parked = true;
#ifndef M_PARK_WHILE_ARMED
        if
        :: asleep -> /* armed before, and for records only: arm again, look again */
            d_step { want = (want & 252) + STEP + RECORDS + ROOM };
            service_buffer!WANTS, want;
            len(service_buffer) == 0;
            consumed = request_memory[HEAD];
            if
            :: EVENT_ENTRIES - (written - consumed) >= NEEDED -> parked = false
            :: else
            fi
        :: else
        fi;
#endif
        parked_head = consumed
    :: else
    fi;
    if
    :: !parked ->
#ifdef M_EVENT_TAIL_BEFORE_SLOT
        service_buffer!TAIL, written + 1;
        service_buffer!(SLOT + written % EVENT_ENTRIES), EVENT(i, step[i]);
#else
        service_buffer!(SLOT + written % EVENT_ENTRIES), EVENT(i, step[i]);
        service_buffer!TAIL, written + 1;
#endif
        d_step { written++; step[i]++; moved_records = true; worked = true }
    :: else
    fi
}

/* The final event of request i needs no look: its slot was kept. */
inline finish()
{
    consumed = request_memory[HEAD];
    assert(EVENT_ENTRIES - (written - consumed) >= 1);
    service_buffer!(SLOT + written % EVENT_ENTRIES), EVENT(i, TOKENS);
    service_buffer!TAIL, written + 1;
    d_step {
        written++;
        moved_records = true;
        worked = true;
#ifndef M_FINAL_TWICE
        in_flight[i] = false;
        n_in_flight--
#else
        if :: i == 1 -> i = 1 :: else -> in_flight[i] = false; n_in_flight-- fi
#endif
    }
}

active proctype service()
{
    byte taken, written;     /* private indices */
    byte step[REQUESTS + 1]; /* per request: the event to post next */
    bool in_flight[REQUESTS + 1];
    byte n_in_flight, i;
    byte consumed; /* event_head as last looked at */
    byte parked_head;
    byte want, rung, word, slot, tail;
    bool moved_records, moved_room, parked, held, worked;
    bool asleep; /* armed; the ring is not looked at before a doorbell, though work goes on */

    do
    :: client_gone -> break /* hang-up: noticed between two rounds, or in the sleep below */
    :: else ->
        SERVICE_MAY_VANISH;
        worked = false;
        if
        :: asleep && bell_to_service > 0 -> /* drained, disarmed: looked at again */
            bell_to_service = 0;
            d_step { asleep = false; want = want & 252 };
            service_buffer!WANTS, want
        :: else
        fi;
        if
        :: !asleep ->
            /* Poll: did the client read since something was parked? */
            if
            :: parked ->
                consumed = request_memory[HEAD];
                if
                :: consumed != parked_head ->
                    d_step { parked = false; parked_head = 0; worked = true }
                :: else
                fi
            :: else
            fi;
            take()
        :: else
        fi;
        /* Step each request in flight by one event, unless parked. */
        i = 1;
        do
        :: i > REQUESTS -> break
        :: else ->
            if
            :: in_flight[i] && step[i] < TOKENS && !parked -> post()
            :: in_flight[i] && step[i] == TOKENS -> finish()
            :: else
            fi;
            i++
        od;
        i = 0;
        /* Ring: ipc_session_ring. */
        if
        :: moved_records || moved_room ->
#ifndef M_NO_FENCE_B_SERVICE
            len(service_buffer) == 0;
#endif
            word = request_memory[WANTS];
            if
            :: word != rung && ((moved_records && word & RECORDS) || (moved_room && word & ROOM)) ->
                rung = word;
                ring_bell(bell_to_client)
            :: else
            fi;
            d_step { moved_records = false; moved_room = false; word = 0 }
        :: else
        fi;
        if
        :: worked -> skip
        :: !asleep -> /* also while work goes on: a ring that was quiet for a while is parked */
            /* ipc_session_arm. */
            d_step {
#ifdef M_PARK_WITHOUT_ROOM
                want = (want & 252) + STEP + RECORDS
#else
                want = (want & 252) + STEP + RECORDS + ((parked || held) -> ROOM : 0)
#endif
            }
            service_buffer!WANTS, want;
#ifndef M_NO_FENCE_A_SERVICE
            len(service_buffer) == 0;
#endif
#ifndef M_PARK_WITHOUT_LOOK
            tail = request_memory[TAIL];
            consumed = request_memory[HEAD];
#endif
            if
#ifndef M_PARK_WITHOUT_LOOK
            :: tail > taken && (!held || EVENT_ENTRIES - (written - consumed) >= n_in_flight + 1)
               -> skip
            :: parked && consumed != parked_head -> skip
#endif
            :: else -> asleep = true
            fi
        :: asleep && !worked -> /* epoll_wait */
            SERVICE_MAY_VANISH;
            if
            :: bell_to_service > 0 -> skip
            :: client_gone -> break
            fi
        fi;
        d_step { tail = 0; slot = 0 }
    od;
gone:
    service_gone = true
}

#!/usr/bin/env python3
"""quern from Python by ctypes, nothing but the shared library: streams an answer.
    ask.py [PROMPT]        QUERN_LIBRARY names another libquern.so.0"""
import ctypes as c
import os
import sys

TOKEN, GIVEN_MAX_TOKENS = 4, 0x100


class Request(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("op", c.c_int), ("kind", c.c_int),
        ("input", c.c_char_p), ("input_size", c.c_size_t),
        ("messages", c.c_void_p), ("n_messages", c.c_size_t),
        ("ids", c.c_void_p), ("n_ids", c.c_size_t),
        ("stops", c.c_void_p), ("n_stops", c.c_size_t), ("model", c.c_char_p),
        ("flags", c.c_uint32), ("given", c.c_uint32),
        ("max_tokens", c.c_uint32), ("top_k", c.c_uint32),
        ("temperature", c.c_float), ("top_p", c.c_float), ("min_p", c.c_float),
        ("repetition", c.c_float), ("presence", c.c_float), ("frequency", c.c_float),
        ("seed", c.c_uint64), ("n_logprobs", c.c_uint32), ("samples", c.c_uint32),
        ("deadline_ms", c.c_uint32), ("priority", c.c_int), ("rest", c.c_uint64 * 16),
    ]


class Event(c.Structure):  # the head of struct quern_event: all that is read here
    _fields_ = [("id", c.c_uint64), ("type", c.c_int), ("sample", c.c_uint32),
                ("data", c.c_void_p), ("data_size", c.c_size_t)]


EventFn = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(Event))
quern = c.CDLL(os.environ.get("QUERN_LIBRARY", "libquern.so.0"))
for name in ("quern_connect_error", "quern_error"):
    getattr(quern, name).restype = c.c_char_p
quern.quern_error.argtypes = quern.quern_close.argtypes = [c.c_void_p]
quern.quern_request_init_size.argtypes = [c.POINTER(Request), c.c_size_t]
quern.quern_generate.argtypes = [c.c_void_p, c.POINTER(Request), EventFn, c.c_void_p, c.c_void_p]


def on_event(_, event):
    if event.contents.type == TOKEN:
        sys.stdout.buffer.write(c.string_at(event.contents.data, event.contents.data_size))
        sys.stdout.buffer.flush()
    return 0


handle = c.c_void_p()
if quern.quern_connect(c.byref(handle), None) < 0:
    sys.exit(quern.quern_connect_error().decode())
request = Request()
quern.quern_request_init_size(c.byref(request), Request.rest.offset + 64)
request.input = (sys.argv[1] if len(sys.argv) > 1 else "The mill by the river").encode()
request.input_size = len(request.input)
request.given, request.max_tokens = GIVEN_MAX_TOKENS, 16
result = c.create_string_buffer(1024)  # struct quern_result
if quern.quern_generate(handle, c.byref(request), EventFn(on_event), None, result) < 0:
    sys.exit(quern.quern_error(handle).decode())
print()
quern.quern_close(handle)

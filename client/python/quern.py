"""quern from Python: the language model service of this machine, by ctypes over libquern.

    import quern
    with quern.Service() as service:
        for piece in service.generate("The mill by the river", max_tokens=16):
            print(piece, end="", flush=True)
        print("".join(service.ask("list files by size")))

Options are those of struct quern_request: max_tokens, temperature, top_k, top_p, min_p, repetition,
presence, frequency, seed, min_tokens, deadline_ms, stops, stop_ids, model. What fails raises quern.Error.
One thread at a time may use a Service. QUERN_LIBRARY names another libquern.so.0."""
import ctypes as c
import os

_EVENT_TOKEN, _EVENT_DATA, _EVENT_FINAL = 4, 5, 6
_OP_TOKENIZE, _OP_STATUS = 3, 8
_INPUT_CHAT = 2
_ROLES = {"system": 0, "user": 1, "assistant": 2, "tool": 3}
_GIVEN = {"temperature": 0x1, "top_k": 0x2, "top_p": 0x4, "min_p": 0x8, "repetition": 0x10, "presence": 0x20,
          "frequency": 0x40, "seed": 0x80, "max_tokens": 0x100, "min_tokens": 0x200}


class _Message(c.Structure):
    _fields_ = [("role", c.c_int), ("text", c.c_char_p), ("text_size", c.c_size_t)]


class _Request(c.Structure):  # struct quern_request
    _fields_ = [
        ("size", c.c_size_t), ("op", c.c_int), ("kind", c.c_int), ("input", c.c_char_p), ("input_size", c.c_size_t),
        ("messages", c.POINTER(_Message)), ("n_messages", c.c_size_t), ("ids", c.c_void_p), ("n_ids", c.c_size_t),
        ("stops", c.POINTER(c.c_char_p)), ("n_stops", c.c_size_t), ("model", c.c_char_p), ("flags", c.c_uint32),
        ("given", c.c_uint32), ("max_tokens", c.c_uint32), ("top_k", c.c_uint32), ("temperature", c.c_float),
        ("top_p", c.c_float), ("min_p", c.c_float), ("repetition", c.c_float), ("presence", c.c_float),
        ("frequency", c.c_float), ("seed", c.c_uint64), ("n_logprobs", c.c_uint32), ("samples", c.c_uint32),
        ("deadline_ms", c.c_uint32), ("priority", c.c_int), ("segments", c.c_void_p), ("n_segments", c.c_size_t),
        ("biases", c.c_void_p), ("n_biases", c.c_size_t), ("min_tokens", c.c_uint32), ("n_stop_ids", c.c_uint32),
        ("prefix", c.c_uint64), ("stop_ids", c.POINTER(c.c_uint32)), ("reserved", c.c_uint64)]


class _Final(c.Structure):  # struct quern_final
    _fields_ = [("reason", c.c_int), ("code", c.c_int), ("prompt_tokens", c.c_uint32),
                ("cached_tokens", c.c_uint32), ("generated", c.c_uint32), ("queue_us", c.c_uint64),
                ("prefill_us", c.c_uint64), ("decode_us", c.c_uint64)]


class _Union(c.Union):
    _fields_ = [("final", _Final), ("reserved", c.c_uint64 * 8)]


class _Event(c.Structure):  # struct quern_event
    _fields_ = [("id", c.c_uint64), ("type", c.c_int), ("sample", c.c_uint32), ("data", c.c_void_p),
                ("data_size", c.c_size_t), ("capacity", c.c_size_t), ("u", _Union)]


_library = c.CDLL(os.environ.get("QUERN_LIBRARY", "libquern.so.0"))
for _name, _returns, _takes in (
        ("connect", c.c_int, [c.POINTER(c.c_void_p), c.c_char_p]), ("connect_error", c.c_char_p, []),
        ("close", None, [c.c_void_p]), ("error", c.c_char_p, [c.c_void_p]), ("version", c.c_char_p, []),
        ("request_init_size", None, [c.POINTER(_Request), c.c_size_t]),
        ("submit", c.c_int, [c.c_void_p, c.POINTER(_Request), c.POINTER(c.c_uint64)]),
        ("cancel", c.c_int, [c.c_void_p, c.c_uint64]), ("event_done", None, [c.POINTER(_Event)]),
        ("next", c.c_int, [c.c_void_p, c.c_uint64, c.POINTER(_Event), c.c_int])):
    _function = getattr(_library, "quern_" + _name)
    _function.restype, _function.argtypes = _returns, _takes


class Error(Exception):
    """A sentence, and as `code` that of the service (enum quern_code) or a negative errno."""

    def __init__(self, sentence, code):
        super().__init__(sentence)
        self.code = code


def version():
    return _library.quern_version().decode()


class Service:
    """A connection. `last` has the figures of the request that ended last: prompt_tokens, generated, …"""

    def __init__(self, socket=None):
        self._q, self.last = c.c_void_p(), None
        r = _library.quern_connect(c.byref(self._q), os.fsencode(socket) if socket else None)
        if r < 0:
            raise Error(_library.quern_connect_error().decode(), r)

    def close(self):
        q, self._q = self._q, None
        if q:
            _library.quern_close(q)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def generate(self, prompt, **options):
        """Goes on after a text, as it is: the pieces of the answer, as they come."""
        return self._text(self._request(0, prompt, options))

    def ask(self, messages, **options):
        """Answers a question, or a conversation: a list of (role, text)."""
        return self._text(self._request(0, [("user", messages)] if isinstance(messages, str) else messages, options))

    def tokenize(self, text):
        """Its token ids."""
        data = b"".join(self._pieces(self._request(_OP_TOKENIZE, text, {}), _EVENT_DATA))
        return list(memoryview(data).cast("I"))

    def status(self):
        """What the service runs and how it is: names and values, all text."""
        data = b"".join(self._pieces(self._request(_OP_STATUS, "", {}), _EVENT_DATA))
        return dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)

    def _text(self, request):
        return (piece.decode() for piece in self._pieces(request, _EVENT_TOKEN))

    def _request(self, op, text, options):
        r = _Request()
        _library.quern_request_init_size(c.byref(r), c.sizeof(r))
        r.op = op or r.op
        if isinstance(text, str):
            r.input = text.encode()
            r.input_size = len(r.input)
        else:
            said = [(_ROLES[role], part.encode()) for role, part in text]
            r.messages = (_Message * len(said))(*((role, part, len(part)) for role, part in said))
            r.kind, r.n_messages = _INPUT_CHAT, len(said)
        for name, value in options.items():
            if name == "stops":
                r.stops, r.n_stops = (c.c_char_p * len(value))(*(stop.encode() for stop in value)), len(value)
            elif name == "stop_ids":
                r.stop_ids, r.n_stop_ids = (c.c_uint32 * len(value))(*value), len(value)
            elif name == "model":
                r.model = value.encode()
            elif name in _GIVEN or name == "deadline_ms":
                setattr(r, name, value)
                r.given |= _GIVEN.get(name, 0)
            else:
                raise TypeError(f"no option {name}")
        return r

    def _pieces(self, request, wanted):
        if not self._q:
            raise ValueError("the connection is closed")
        number, event = c.c_uint64(), _Event()
        self._check(_library.quern_submit(self._q, c.byref(request), c.byref(number)))
        ended = False
        try:
            while not ended:
                r = _library.quern_next(self._q, number, c.byref(event), -1)
                ended = r < 0 or event.type == _EVENT_FINAL
                self._check(r)
                if event.type == wanted and event.data_size:
                    yield c.string_at(event.data, event.data_size)
            self.last = _Final.from_buffer_copy(event.u.final)
            if self.last.code:
                raise Error(c.string_at(event.data, event.data_size).decode(), self.last.code)
        finally:  # who stops reading does not want the rest
            if not ended and self._q:
                _library.quern_cancel(self._q, number)
                while not _library.quern_next(self._q, number, c.byref(event), -1) and event.type != _EVENT_FINAL:
                    pass
            _library.quern_event_done(c.byref(event))

    def _check(self, r):
        if r < 0:
            raise Error(_library.quern_error(self._q).decode(), r)

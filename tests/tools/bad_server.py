"""An HTTP server that serves one file in good and bad ways: bad_server.py FILE PORT_FILE

Paths: good, drop (each answer breaks off; ranges work), whole (breaks off twice, no ranges), changed
(breaks off, then is another file), long (states more than it sends), redirect, loop, wrong (states another
digest), page (no model), range (lies about ranges), chunked (no length), size (states another size), slow,
and the hub's own paths of short names (one file, and a set of two). Everything ends in .gguf.
"""
import hashlib
import http.server
import re
import sys
import time

DATA = open(sys.argv[1], "rb").read()
DIGEST = hashlib.sha256(DATA).hexdigest()
OFFICIAL = [
    "/Qwen/Qwen2-0.5B-Instruct-GGUF/resolve/main/qwen2-0_5b-instruct-q4_k_m.gguf",
    "/Qwen/Qwen2.5-7B-Instruct-GGUF/resolve/main/qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf",
    "/Qwen/Qwen2.5-7B-Instruct-GGUF/resolve/main/qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf",
]
seen = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, body, code=200, begin=0, length=None, tag='"one"', cut=None, more=()):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if tag:
            self.send_header("ETag", tag)
        if code == 206:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{len(DATA)}")
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None or length is not None:
            self.close_connection = True

    def do_GET(self):
        name = re.sub(r"\.gguf$", "", self.path.rsplit("/", 1)[-1])
        seen[name] = seen.get(name, 0) + 1
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(match[1]) if match and self.headers.get("If-Range") == '"one"' else 0
        part = dict(body=DATA[begin:], code=206 if begin else 200, begin=begin)
        linked = [("X-Linked-ETag", f'"{DIGEST}"'), ("X-Linked-Size", str(len(DATA)))]
        if name == "good" or self.path in OFFICIAL:
            self.send(**part, more=linked if name != "good" else ())
        elif name == "drop":
            self.send(**part, cut=None if begin > len(DATA) * 2 // 3 else len(DATA) // 3)
        elif name == "whole":
            self.send(DATA, tag=None, cut=len(DATA) // 2 if seen[name] < 3 else None)
        elif name == "changed":
            if seen[name] == 1:
                self.send(b"GGUF" + bytes(len(DATA)), tag='"zero"', cut=len(DATA) // 2)
            else:
                self.send(DATA)
        elif name == "long":
            self.send(DATA[:1000], length=len(DATA) * 2, tag=None)
        elif name in ("redirect", "loop"):
            self.send_response(302)
            self.send_header("Location", "/loop.gguf" if name == "loop" else "/a/b/good.gguf")
            for header in linked:
                self.send_header(*header)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif name == "wrong":
            self.send(**part, more=[("X-Linked-ETag", f'"{DIGEST[::-1]}"')])
        elif name == "page":
            self.send(b"<html>Sign in to go on</html>")
        elif name == "range":
            if match and seen[name] == 2:
                self.send(DATA[begin // 2 :], code=206, begin=begin // 2)
            else:
                self.send(DATA, cut=len(DATA) // 2 if seen[name] == 1 else None)
        elif name == "size":
            self.send(DATA, more=[("X-Linked-Size", str(len(DATA) + 1))])
        elif name == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(DATA), 8192):
                piece = DATA[at : at + 8192]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif name == "slow":
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            half = len(DATA) // 2
            self.wfile.write(DATA[:half])
            self.wfile.flush()
            time.sleep(3)
            self.wfile.write(DATA[half:])
        else:
            self.send_error(404)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
with open(sys.argv[2], "w") as f:
    f.write(str(server.server_port))
try:
    server.serve_forever()
except KeyboardInterrupt:
    pass

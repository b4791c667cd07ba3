"""A client of quernd in plain Python (socket, mmap, struct), written from docs/protocol.md alone.

It has no memory fences, so it sends a doorbell after everything it stores and polls with a timeout
while it waits, as that page says a script does.

    plain_client.py SOCKET generate MAX_TOKENS TEXT    prints the text, then the reason and counts
    plain_client.py SOCKET tokenize TEXT               prints ids
    plain_client.py SOCKET status                      prints lines of key=value
    plain_client.py SOCKET cancel TEXT                 cancels after the third token
"""

import array
import fcntl
import mmap
import os
import select
import socket
import struct
import sys
import time

MAGIC = 0x314E524555510A0D
GENERATE, CANCEL, TOKENIZE, STATUS = 1, 2, 3, 8
NONE, TEXT = 0, 1
ACCEPTED, QUEUED, PROGRESS, TOKEN, DATA, FINAL = range(1, 7)
F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_FUTURE_WRITE = 1033, 1, 16
GIVEN_MAX_TOKENS = 0x100
REASONS = ["done", "end of sequence", "stop", "length", "cancelled", "failed"]


class Client:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(path)
        self.sock.send(struct.pack("<QHHHHQIIII24x", MAGIC, 1, 1, 1, 0, 0, 0, 0, 0, 0))
        packet, control, _, _ = self.sock.recvmsg(512, socket.CMSG_SPACE(8))
        magic, kind = struct.unpack_from("<QH", packet)
        if magic != MAGIC:
            raise SystemExit("no quernd")
        if kind == 3:
            raise SystemExit("refused: " + packet[16:].split(b"\0")[0].decode())
        (_, _, version, _, _, _, request_size, reply_size, self.submit_offset, self.request_offset,
         self.event_offset, self.reply_offset, self.submit_entries, self.event_entries,
         self.request_bytes, self.reply_bytes, self.submit_stride, self.event_stride, _, _, _,
         _) = struct.unpack("<QHHIQQQQQQQQIIIIIIIIQQ", packet)
        assert version == 1
        fds = array.array("i", control[0][2])
        assert [os.fstat(fd).st_size for fd in fds] == [request_size, reply_size]
        self.request = mmap.mmap(fds[0], request_size)
        fcntl.fcntl(fds[0], F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)
        self.reply = mmap.mmap(fds[1], reply_size, prot=mmap.PROT_READ)
        for fd in fds:
            os.close(fd)
        # Words go through views of 64 bits: struct's "<Q" moves byte by byte, and the other side
        # would see an index half written.
        self.request_words = memoryview(self.request).cast("Q")
        self.reply_words = memoryview(self.reply).cast("Q")
        self.submitted = self.read = self.bytes_read = self.last_id = 0

    def doorbell(self):
        try:
            self.sock.send(b"!", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def store(self, offset, value):
        self.request_words[offset // 8] = value

    def load(self, offset):
        return self.reply_words[offset // 8]

    def put(self, op, kind=NONE, data=b"", max_tokens=0, target=0):
        while self.submitted - self.load(64) > 0:  # one at a time: all request bytes are free then
            self.wait()
        self.request[self.request_offset:self.request_offset + len(data)] = data
        identity = 0
        if op != CANCEL:
            self.last_id += 1
            identity = self.last_id
        record = struct.pack("<QHHIIIIIIIfIfffffIQQIHH32x", identity, op, kind, 0,
                             GIVEN_MAX_TOKENS if max_tokens else 0, max_tokens, 0, len(data), 0, 0,
                             0, 0, 0, 0, 0, 0, 0, 0, 0, target, 0, 0, 0)
        at = self.submit_offset + self.submitted % self.submit_entries * self.submit_stride
        self.request[at:at + len(record)] = record
        self.submitted += 1
        self.store(0, self.submitted)
        self.doorbell()
        return identity

    def wait(self):
        """Sleeps for a doorbell, and no longer than 10 ms, since nothing here is a fence."""
        self.store(128, struct.unpack_from("<Q", self.request, 128)[0] // 4 * 4 + 4 + 3)
        if select.select([self.sock], [], [], 0.01)[0] and not self.sock.recv(16):
            raise SystemExit("the service hung up")

    def next(self):
        while self.load(0) == self.read:
            self.wait()
        at = self.event_offset + self.read % self.event_entries * self.event_stride
        event = self.reply[at:at + 64]
        identity, kind, _, size, pos = struct.unpack_from("<QHHIQ", event)
        assert pos == self.bytes_read and size <= 4096
        begin = pos % self.reply_bytes
        first = min(size, self.reply_bytes - begin)
        base = self.reply_offset
        data = self.reply[base + begin:base + begin + first] + self.reply[base:base + size - first]
        self.read += 1
        self.bytes_read += size
        self.store(64, self.read)
        self.store(72, self.bytes_read)
        self.doorbell()
        return identity, kind, event, data


def main():
    client = Client(sys.argv[1])
    verb = sys.argv[2]
    text = sys.argv[-1].encode()
    started = time.monotonic()
    if verb == "generate":
        wanted = client.put(GENERATE, TEXT, text, max_tokens=int(sys.argv[3]))
    elif verb == "cancel":
        wanted = client.put(GENERATE, TEXT, text, max_tokens=10000000)
    elif verb == "tokenize":
        wanted = client.put(TOKENIZE, TEXT, text)
    else:
        wanted = client.put(STATUS)
    tokens = 0
    while time.monotonic() < started + 60:
        identity, kind, event, data = client.next()
        assert identity == wanted
        if kind == TOKEN:
            token, _, index = struct.unpack_from("<IfI", event, 24)
            assert index == tokens
            tokens += 1
            if verb == "generate":
                sys.stdout.write(data.decode())
            if verb == "cancel" and tokens == 3:
                client.put(CANCEL, target=wanted)
        elif kind == DATA and verb == "tokenize":
            sys.stdout.write(" ".join(map(str, struct.unpack("<%dI" % (len(data) // 4), data))))
        elif kind == DATA:
            sys.stdout.write(data.decode())
        elif kind == FINAL:
            reason, code, prompt, _, generated = struct.unpack_from("<HHIII", event, 24)
            print("\nfinal: %s, code %d, %d in, %d out %s" %
                  (REASONS[reason], code, prompt, generated, data.decode()))
            return 0 if code == 0 else 1
    return 2


sys.exit(main())

#!/usr/bin/env python3
"""How fast quernd starts: cold from the GGUF file and from the packed image, beside what fio reads
from the same file with the same settings in the same round; warm from kept weights; and llama.cpp on
the same file where PEER is its program.

usage: start.py MODEL.gguf [ROUNDS]     BUILD: folder of the programs; HUGE: a hugetlbfs folder

A first start that is not counted takes the memory: a host may give it to its guest page by page when
it is touched first (0.4 GB/s where it was measured, and ten times that later), and with huge pages
reserved (vm.nr_hugepages, more than the weights take) it stays. Cold means read with direct I/O (what lies below it, the host's caches, is not emptied: use files larger
than it may hold); for llama.cpp the file's pages are dropped first. Each line: seconds to READY=1 from
exec, seconds to the first token at a client that was waiting, bytes over time, peak of resident memory
beyond the weights. Medians at the end.
"""
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

build = os.environ.get("BUILD", "build")
model = sys.argv[1]
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
image = model + ".quern"
huge = os.environ.get("HUGE")
peer = os.environ.get("PEER")
work = tempfile.mkdtemp()
figures = {}


def note(name, **values):
    for key, value in values.items():
        figures.setdefault((name, key), []).append(value)
    print(f"{name:18}", "  ".join(f"{k} {v:.3f}" for k, v in values.items()), flush=True)


def fio(name, path):
    """The disk's rate into small pages, as fio has them by itself, and into huge ones, as ours are."""
    rates = {}
    for key, memory in ("gb_per_s", "malloc"), ("huge_gb_per_s", "mmaphuge"):
        run = subprocess.run(["fio", "--name=r", "--filename=" + path, "--rw=read", "--direct=1", "--bs=1m",
                              "--iodepth=16", "--ioengine=io_uring", "--readonly", "--mem=" + memory,
                              "--output-format=terse"], capture_output=True, text=True)
        if run.returncode == 0:
            rates[key] = int(run.stdout.split(";")[6]) * 1024 / 1e9
    note(name, **rates)


def forget(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def memory_kib(pid, key):
    with open(f"/proc/{pid}/status") as f:
        found = re.search(key + r":\s+(\d+)", f.read())
    return int(found.group(1)) if found else 0


def start(name, path, *options):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(work + "/notify")
    notify.settimeout(600)
    env = dict(os.environ, NOTIFY_SOCKET=work + "/notify")
    log = open(work + "/log", "w")
    begin = time.monotonic()
    service = subprocess.Popen([build + "/quernd", "--model", model, "--socket", work + "/sock", "-v",
                                "--context", "2048", *options], env=env, stderr=log)
    while not os.path.exists(work + "/sock"):
        time.sleep(0.0005)
    client = subprocess.Popen([build + "/quern", "generate", "--socket", work + "/sock", "--prompt", "a",
                               "--max-tokens", "1", "--temperature", "0"], stdout=subprocess.DEVNULL)
    while b"READY=1" not in notify.recv(4096):
        pass
    ready = time.monotonic() - begin
    client.wait()
    first = time.monotonic() - begin
    peak = memory_kib(service.pid, "VmHWM") / 1024
    arena = int(re.search(r"weights_arena_bytes\s+(\d+)", subprocess.run(
        [build + "/quern", "status", "--socket", work + "/sock"], capture_output=True,
        text=True).stdout).group(1)) / 2**20
    service.terminate()
    service.wait()
    notify.close()
    os.unlink(work + "/notify")
    said = open(work + "/log").read()
    huge_pages = re.search(r", on (1 GiB|2 MiB) huge pages", said)
    values = {"ready_s": ready, "first_token_s": first,
              "beyond_weights_mib": peak if huge_pages else peak - arena}
    if path:
        values["gb_per_s"] = os.path.getsize(path) / 1e9 / ready
    note(name, **values)


def llama(name):
    begin = time.monotonic()
    subprocess.run([peer, "bench", model, "1", "1", "2", "1"], capture_output=True, check=True)
    note(name, seconds=time.monotonic() - begin)


if not os.path.exists(image):
    subprocess.run([build + "/quernd", "pack", model, image], check=True)
start("not counted", model, "--image", "off", "--store", "off")
figures.clear()
print(f"{model}: {os.path.getsize(model) / 1e9:.2f} GB, image {os.path.getsize(image) / 1e9:.2f} GB")
for _ in range(rounds):
    fio("fio, GGUF", model)
    start("cold, GGUF", model, "--image", "off", "--store", "off")
    fio("fio, image", image)
    start("cold, image", image, "--image", image, "--store", "off")
    if peer:
        forget(model)
        llama("llama.cpp, cold")
        llama("llama.cpp, cached")
if huge:
    start("kept for a restart", None, "--image", image, "--store", huge)
    for _ in range(max(rounds, 5)):
        start("warm", None, "--image", image, "--store", huge)
    subprocess.run([build + "/quernd", "--drop-weights", "--store", huge], check=True)
print("medians")
for (name, key), values in figures.items():
    print(f"  {name:18} {key:20} {statistics.median(values):9.3f}")

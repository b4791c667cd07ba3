#!/usr/bin/env python3
"""How fast quernd starts: cold from the GGUF file and from the packed image, beside what fio reads
from the same file with the same settings in the same round; warm from kept weights; and llama.cpp on
the same file where PEER is its program.

usage: start.py MODEL.gguf [ROUNDS]     BUILD: folder of the programs; HUGE: a hugetlbfs folder

As root it runs itself again with as many huge pages reserved as the model takes, and keeps weights for
warm starts in a folder of the first hugetlbfs mount, or of one of its own where there is none. A first start that is not counted takes the
memory: a host may give it to its guest page by page when it is touched first (0.4 to 0.8 GB/s where it
was measured, and 25 later), and with huge pages reserved it stays. Cold means read with direct I/O,
and what the page cache has of the file is dropped; what lies below, the host's caches, is not emptied:
use files larger than it may hold. Each line: seconds to READY=1 from exec, and to the first token at a
client that was waiting; from the last byte of the weights to both, in ms; the whole file over the time
to READY=1 in GB/s; peak of resident memory beyond the weights. Medians and ratios at the end: fio has
the settings of the reader (1 MiB, 8 in flight; an image: 2 MiB, 16), once into small pages, as it takes
them by itself, and once into huge ones, as ours are. "packing" is what all threads pack from memory to memory.
"""
import os
import re
import shutil
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
holder = build + "/tests/tools/with-huge-pages"
if os.geteuid() == 0 and "START_HELD" not in os.environ:
    pages = os.path.getsize(model) // (2 << 20) + 256
    os.execve(holder, [holder, str(pages), sys.executable, *sys.argv], dict(os.environ, START_HELD="1"))
work = tempfile.mkdtemp()
mounts = [line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "hugetlbfs"]
mounted = None
if not mounts and not os.environ.get("HUGE") and os.geteuid() == 0:
    os.mkdir(work + "/huge")
    if subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "quern-bench", work + "/huge"]).returncode == 0:
        mounts = [mounted := work + "/huge"]
huge = os.environ.get("HUGE") or (mounts[0] + "/quern-bench" if mounts and os.geteuid() == 0 else None)
peer = os.environ.get("PEER") and os.environ["PEER"] + "/peer_llama"
if peer:  # as in peer.sh
    os.environ.setdefault("PEER_LIB", os.environ["PEER"] + "/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64")
figures = {}


def note(name, **values):
    for key, value in values.items():
        figures.setdefault((name, key), []).append(value)
    print(f"{name:18}", "  ".join(f"{k} {v:.3f}" for k, v in values.items()), flush=True)


def fio(name, path, block, depth):
    """The disk's rate into small pages, as fio has them by itself, and into huge ones, as ours are."""
    if not shutil.which("fio"):
        return
    rates = {}
    for key, memory in ("gb_per_s", "malloc"), ("huge_gb_per_s", "mmaphuge"):
        run = subprocess.run(["fio", "--name=r", "--filename=" + path, "--rw=read", "--direct=1", "--bs=" + block,
                              f"--iodepth={depth}", "--ioengine=io_uring", "--readonly", "--mem=" + memory,
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
    forget(model)
    begin = time.monotonic()
    service = subprocess.Popen([build + "/quernd", "--model", model, "--socket", work + "/sock", "-v",
                                "--context", "2048", *options], env=env, stderr=log)
    while not os.path.exists(work + "/sock"):
        time.sleep(0.0005)
    client = subprocess.Popen([build + "/quern", "generate", "--socket", work + "/sock", "--prompt", "a",
                               "--max-tokens", "1", "--temperature", "0"], stdout=subprocess.DEVNULL)
    last = None
    while b"READY=1" not in (said := notify.recv(4096)):
        if b" 100 %" in said:
            last = time.monotonic() - begin
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
        values["last_byte_to_ready_ms"] = 1e3 * (ready - last)
        values["last_byte_to_token_ms"] = 1e3 * (first - last)
        values["gb_per_s"] = os.path.getsize(path) / 1e9 / ready
    note(name, **values)


def llama(name):
    begin = time.monotonic()
    subprocess.run([peer, "bench", model, "1", "1", "2", "1"], capture_output=True, check=True)
    note(name, seconds=time.monotonic() - begin)


if not os.path.exists(image):
    subprocess.run([build + "/quernd", "pack", model, image], check=True)
def packing():
    """What all threads pack, each type as often as the file has it."""
    said = subprocess.run([build + "/quernd", "inspect", model], capture_output=True, text=True).stdout
    seconds = total = 0
    for kind, mib in re.findall(r"^(\w+) +\d+ tensors, ([\d.]+) MiB", said, re.M):
        run = subprocess.run([build + "/tests/bench/pack_bench", kind], capture_output=True, text=True)
        total += float(mib) * 2**20 / 1e9
        seconds += float(mib) * 2**20 / 1e9 / float(run.stdout.split()[1])
    note("packing", gb_per_s=total / seconds)


def ratio(name, key, of, of_key):
    if (name, key) in figures and (of, of_key) in figures:
        part = statistics.median(figures[name, key]) / statistics.median(figures[of, of_key])
        print(f"  {name} over {of} ({of_key}): {100 * part:.0f} %")


start("not counted", model, "--image", "off", "--store", "off")
figures.clear()
print(f"{model}: {os.path.getsize(model) / 1e9:.2f} GB, image {os.path.getsize(image) / 1e9:.2f} GB")
packing()
for _ in range(rounds):
    fio("fio, GGUF", model, "1m", 8)
    start("cold, GGUF", model, "--image", "off", "--store", "off")
    fio("fio, image", image, "2m", 16)
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
for kind in "GGUF", "image":
    for key in "gb_per_s", "huge_gb_per_s":
        ratio("cold, " + kind, "gb_per_s", "fio, " + kind, key)
ratio("cold, GGUF", "gb_per_s", "packing", "gb_per_s")
if mounted:
    subprocess.run(["umount", mounted], check=True)
shutil.rmtree(work)

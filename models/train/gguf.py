"""GGUF version 3, as much as this model needs: write F32 and Q8_0, read the same back."""

import struct

import numpy as np

ALIGNMENT = 32
F32, Q8_0 = 0, 8
U32, I32, FLOAT, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
FORMATS = {U32: "<I", I32: "<i", FLOAT: "<f", BOOL: "<?"}


def quantize_q8_0(x):
    """As ggml's reference: per block of 32, d = amax / 127 in float32, q = x * (1 / d) rounded half away from zero,
    d stored as float16."""
    blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, 32)
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    scaled = blocks * inverse
    # The fraction is exact in float32 here (|scaled| <= 127), unlike scaled + 0.5.
    whole = np.trunc(scaled)
    q = whole + np.where(np.abs(scaled - whole) >= np.float32(0.5), np.sign(scaled), 0)
    out = np.empty(len(blocks), dtype=[("d", "<f2"), ("q", "i1", 32)])
    out["d"], out["q"] = d[:, 0], q
    return out


def string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def value(kind, content):
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        inner, items = content
        return struct.pack("<IQ", inner, len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack(FORMATS[kind], content)


def write(path, metadata, tensors, matrix_type):
    """metadata: [(key, kind, content)]; tensors: {name: float32 array}. Matrices get matrix_type, vectors stay F32."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, kind, content in metadata:
        header += string(key) + struct.pack("<I", kind) + value(kind, content)
    data, offset = [], 0
    for name, array in tensors.items():
        kind = matrix_type if array.ndim == 2 else F32
        packed = quantize_q8_0(array) if kind == Q8_0 else np.ascontiguousarray(array, dtype="<f4")
        shape = array.shape[::-1]  # GGUF puts the fastest dimension first
        header += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        packed = packed.tobytes()
        packed += bytes(-len(packed) % ALIGNMENT)
        data.append(packed)
        offset += len(packed)
    header += bytes(-len(header) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(header)
        file.writelines(data)


def read(path):
    """-> metadata {key: content}, tensors {name: float32 array}"""
    with open(path, "rb") as file:
        raw = file.read()
    at = 0

    def take(form):
        nonlocal at
        content = struct.unpack_from(form, raw, at)
        at += struct.calcsize(form)
        return content if len(content) > 1 else content[0]

    def take_string():
        nonlocal at
        size = take("<Q")
        at += size
        return raw[at - size : at].decode("utf-8")

    def take_value(kind):
        if kind == STRING:
            return take_string()
        if kind == ARRAY:
            inner, count = take("<IQ")
            return [take_value(inner) for _ in range(count)]
        return take(FORMATS[kind])

    magic, version, tensor_count, pair_count = take("<4sIQQ")
    if magic != b"GGUF" or version != 3:
        raise ValueError(f"{path}: not GGUF version 3")
    metadata = {}
    for _ in range(pair_count):
        key = take_string()
        metadata[key] = take_value(take("<I"))
    infos = []
    for _ in range(tensor_count):
        name, dims = take_string(), take("<I")
        shape = [take("<Q") for _ in range(dims)][::-1]
        infos.append((name, shape, *take("<IQ")))
    at += -at % ALIGNMENT
    tensors = {}
    for name, shape, kind, offset in infos:
        count = int(np.prod(shape))
        if kind == F32:
            array = np.frombuffer(raw, "<f4", count, at + offset)
        elif kind == Q8_0:
            blocks = np.frombuffer(raw, [("d", "<f2"), ("q", "i1", 32)], count // 32, at + offset)
            array = blocks["d"].astype(np.float32)[:, None] * blocks["q"].astype(np.float32)
        else:
            raise ValueError(f"{path}: {name} has type {kind}")
        tensors[name] = array.reshape(shape).copy()
    return metadata, tensors

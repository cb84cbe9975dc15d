"""Write digests of what ggml makes of difficult matrices in its block types, and of difficult blocks as values.

usage: golden_ggml.py OUT_FILE [--check]

OUT_FILE is Tests/Fixtures/golden/ggml.json. Nothing is compiled: `xllamacpp` is a prebuilt llama.cpp that exports ggml's functions. With
--check the file is compared instead of written.

    pip install numpy xllamacpp==2026.10.11549

Inputs are not stored but made again from a seed, by SplitMix64 and F32 arithmetic (TestSupport's SeededGenerator), one value after another
in the order of rows. `normal(s)` is the sum of twelve draws of (next >> 40) / 2^24 in F32, less 6, times s; `unit` is one such draw. Kinds:

    normal      normal(0.02)
    uniform     unit * 2 - 1
    blocks      before each 32 values e = next % 25; then normal(1) * 2^(e - 16)
    zeros       before each 16 values next; if that is odd they are 0 (nothing is drawn), else normal(0.5)
    spike       before each row c = next % columns and v = normal(4); all 0 but v in column c
    subnormal   normal(1e-40)
    huge        (unit * 2 - 1) * 65504
    overflow    normal(1e30): squares are infinite, searches may find nothing; without importance all is well
    negative    -|normal(3)|
    constant    before each row normal(1), which all of the row are
    ties        (next % 17 - 8) * 0.125
    offset      normal(0.01) + 1

Importance comes from a generator of its own, of the matrix' seed + 1000: for each column u = unit, z = next; 0 if z % 8 is 0, else u * u.
Blocks of arbitrary bytes are the bytes of successive draws, little-endian, the last draw cut short; then bit 6 of the upper byte of
each F16 field is cleared, so that scales are below 2 and finite.

JSON: {"matrices": [{kind, seed, rows, columns, values, importance}],
       "encoded": {type: [[bytes, bytes with importance, values of the former, values of the latter], ... one for each matrix]},
       "blocks": {type: {seed, count, bytes, values}}}
with SHA-256 digests; null where the type cannot hold the row's width, or where decoded values hold a NaN.
"""
import ctypes
import glob
import hashlib
import importlib.util
import json
import os
import sys

import numpy as np

# Name: ggml's number, values and bytes of a block, upper bytes of the F16 fields, whether there is an encoder here.
TYPES = {
    'Q4_0': (2, 32, 18, [1], True), 'Q4_1': (3, 32, 20, [1, 3], True), 'Q5_0': (6, 32, 22, [1], True), 'Q5_1': (7, 32, 24, [1, 3], True),
    'Q8_0': (8, 32, 34, [1], True), 'Q2_K': (10, 256, 84, [81, 83], True), 'Q3_K': (11, 256, 110, [109], True),
    'Q4_K': (12, 256, 144, [1, 3], True), 'Q5_K': (13, 256, 176, [1, 3], True), 'Q6_K': (14, 256, 210, [209], True),
    'IQ4_NL': (20, 32, 18, [1], True), 'IQ4_XS': (23, 256, 136, [1], True), 'MXFP4': (39, 32, 17, [], True), 'NVFP4': (40, 64, 36, [], True),
    'TQ1_0': (34, 256, 54, [53], False), 'TQ2_0': (35, 256, 66, [65], False), 'IQ1_S': (19, 256, 50, [1], False),
    'IQ1_M': (29, 256, 56, [55], False), 'IQ2_XXS': (16, 256, 66, [1], False), 'IQ2_XS': (17, 256, 74, [1], False),
    'IQ2_S': (22, 256, 82, [1], False), 'IQ3_XXS': (18, 256, 98, [1], False), 'IQ3_S': (21, 256, 110, [1], False),
}
KINDS = ['normal', 'uniform', 'blocks', 'zeros', 'spike', 'subnormal', 'huge', 'overflow', 'negative', 'constant', 'ties', 'offset']
SHAPES = [(5, 768), (20, 320), (3, 32)]
BLOCKS = 100


class SplitMix64:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    def unit(self):
        return np.float32(self.next() >> 40) / np.float32(1 << 24)

    def normal(self, scale):
        total = np.float32(0)
        for _ in range(12):
            total += self.unit()
        return (total - np.float32(6)) * np.float32(scale)


def matrix(kind, seed, rows, columns):
    draw, out, one = SplitMix64(seed), np.zeros((rows, columns), np.float32), np.float32(1)
    for r in range(rows):
        if kind == 'spike':
            column = draw.next() % columns
            out[r, column] = draw.normal(4)
            continue
        if kind == 'constant':
            out[r] = draw.normal(1)
            continue
        for c in range(columns):
            if kind == 'blocks' and c % 32 == 0:
                scale = np.float32(2.0 ** (draw.next() % 25 - 16))
            if kind == 'zeros' and c % 16 == 0:
                zero = draw.next() % 2
            if kind == 'zeros' and zero:
                continue
            out[r, c] = {'normal': lambda: draw.normal(0.02), 'uniform': lambda: draw.unit() * np.float32(2) - one,
                         'blocks': lambda: draw.normal(1) * scale, 'zeros': lambda: draw.normal(0.5), 'subnormal': lambda: draw.normal(1e-40),
                         'huge': lambda: (draw.unit() * np.float32(2) - one) * np.float32(65504), 'overflow': lambda: draw.normal(1e30),
                         'negative': lambda: -abs(draw.normal(3)), 'ties': lambda: np.float32(draw.next() % 17 - 8) * np.float32(0.125),
                         'offset': lambda: draw.normal(0.01) + one}[kind]()
    return out


def importance(seed, columns):
    draw, out = SplitMix64(seed + 1000), np.zeros(columns, np.float32)
    for c in range(columns):
        u, z = draw.unit(), draw.next()
        out[c] = 0 if z % 8 == 0 else u * u
    return out


def arbitrary_blocks(seed, count, size, fields):
    draw = SplitMix64(seed)
    words = [draw.next() for _ in range(-(-count * size // 8))]
    out = np.frombuffer(b''.join(w.to_bytes(8, 'little') for w in words)[:count * size], np.uint8).reshape(count, size).copy()
    for field in fields:
        out[:, field] &= 0xBF
    return out


def library():
    folder = os.path.dirname(importlib.util.find_spec('xllamacpp').origin)
    ggml = ctypes.CDLL(glob.glob(os.path.join(folder, 'xllamacpp*.so'))[0])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    return ggml


def encode(ggml, name, values, weights):
    number, width, size, _, _ = TYPES[name]
    out = np.zeros(values.size // width * size, np.uint8)
    ggml.ggml_quantize_init(number)
    ggml.ggml_quantize_chunk(number, values.ctypes.data, out.ctypes.data, 0, values.shape[0], values.shape[1],
                             None if weights is None else weights.ctypes.data)
    return out


def decode(ggml, name, blocks):
    _, width, size, _, _ = TYPES[name]
    stem = name.lower().replace('_k', '_K') if name[0] == 'Q' else name.lower()
    count = blocks.size // size * width
    out, function = np.zeros(count, np.float32), getattr(ggml, 'dequantize_row_' + stem)
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(blocks.ctypes.data, out.ctypes.data, count)
    return out


def digest(array):
    return None if array.dtype == np.float32 and np.isnan(array).any() else hashlib.sha256(array.tobytes()).hexdigest()


def results():
    ggml = library()
    matrices, encoded, blocks = [], {}, {}
    for s, (rows, columns) in enumerate(SHAPES):
        for k, kind in enumerate(KINDS):
            seed = s * 100 + k
            values, weights = matrix(kind, seed, rows, columns), importance(seed, columns)
            matrices.append({'kind': kind, 'seed': seed, 'rows': rows, 'columns': columns, 'values': digest(values), 'importance': digest(weights)})
            for name, (_, width, _, _, encodes) in TYPES.items():
                if not encodes:
                    continue
                entry = None
                if columns % width == 0:
                    plain, weighted = encode(ggml, name, values, None), encode(ggml, name, values, weights)
                    entry = [digest(plain), digest(weighted), digest(decode(ggml, name, plain)), digest(decode(ggml, name, weighted))]
                encoded.setdefault(name, []).append(entry)
    for i, (name, (_, _, size, fields, _)) in enumerate(TYPES.items()):
        some = arbitrary_blocks(5000 + i, BLOCKS, size, fields)
        blocks[name] = {'seed': 5000 + i, 'count': BLOCKS, 'bytes': digest(some), 'values': digest(decode(ggml, name, some))}
    return {'matrices': matrices, 'encoded': encoded, 'blocks': blocks}


def main():
    made, target = results(), sys.argv[1]
    if '--check' in sys.argv:
        expected = json.load(open(target))
        failed = [('matrix', i) for i, (a, b) in enumerate(zip(made['matrices'], expected['matrices'], strict=True)) if a != b]
        failed += [(name, i) for name in TYPES for i, (a, b) in enumerate(zip(made['encoded'].get(name, []), expected['encoded'].get(name, []), strict=True)) if a != b]
        failed += [(name, 'blocks') for name in TYPES if made['blocks'][name] != expected['blocks'].get(name)]
        for item in failed[:20]:
            print('different', *item)
        total = len(made['matrices']) + sum(len(v) for v in made['encoded'].values()) + len(made['blocks'])
        print(f'{total - len(failed)} passed, {len(failed)} failed')
        sys.exit(bool(failed))
    with open(target, 'w') as file:
        json.dump(made, file, separators=(',', ':'), sort_keys=True)
        file.write('\n')
    print(f'{len(made["matrices"])} matrices, {len(TYPES)} types')


if __name__ == '__main__':
    with np.errstate(over='ignore', under='ignore', invalid='ignore'):
        main()

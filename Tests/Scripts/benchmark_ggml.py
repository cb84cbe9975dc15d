"""Encoding and decoding of ggml's blocks, per core, beside ggml's own functions, in one run and in turns.

usage: benchmark_ggml.py RECAST_BENCHMARKS [--rows 2048] [--columns 7168] [--rounds 5]      (pip install numpy xllamacpp==2026.10.11549)

ggml's functions take F32 and give F32; Recast's take and give BF16, the widening counted. Prints values a second of both and the ratio for every
type; exits non-zero if an encoder is slower than ggml's.
"""
import argparse
import re
import subprocess
import sys
import time

import numpy as np

import golden_ggml

# The layout's name on the command line, and the type of most of its blocks.
TYPES = {'Q8_0': 'Q8_0', 'Q4_0': 'Q4_0', 'Q4_1': 'Q4_1', 'Q5_0': 'Q5_0', 'Q5_1': 'Q5_1', 'Q2_K': 'Q2_K', 'Q3_K_M': 'Q3_K', 'Q4_K_M': 'Q4_K',
         'Q5_K_M': 'Q5_K', 'Q6_K': 'Q6_K', 'IQ4_NL': 'IQ4_NL', 'IQ4_XS': 'IQ4_XS', 'MXFP4_MOE': 'MXFP4'}


def best(function, rounds):
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('benchmarks')
    parser.add_argument('--rows', type=int, default=2048)
    parser.add_argument('--columns', type=int, default=7168)
    parser.add_argument('--rounds', type=int, default=5)
    options = parser.parse_args()
    ggml = golden_ggml.library()
    values = (np.random.default_rng(1).standard_normal((options.rows, options.columns)) * 0.02).astype(np.float32)
    slow = []
    for layout, kind in TYPES.items():
        ran = subprocess.run([options.benchmarks, 'kernels', '--rows', str(options.rows), '--columns', str(options.columns), '--rounds', str(options.rounds),
                              '--layouts', layout], capture_output=True, text=True, check=True).stdout
        line = next(line for line in ran.splitlines() if line.startswith(layout + ':'))
        # GB/s of BF16 values.
        mine = [float(x) / 2 for x in re.search(r'encode ([0-9.]+) GB/s.*decode ([0-9.]+) GB/s', line).groups()]
        blocks = golden_ggml.encode(ggml, kind, values, None)
        theirs = [values.size / best(lambda: golden_ggml.encode(ggml, kind, values, None), options.rounds) / 1e9,
                  values.size / best(lambda: golden_ggml.decode(ggml, kind, blocks), options.rounds) / 1e9]
        ratios = [a / b for a, b in zip(mine, theirs)]
        print(f'{kind}: encode {mine[0]:.3f} of {theirs[0]:.3f} billion values/s = {ratios[0]:.1f} x ggml, '
              f'decode {mine[1]:.2f} of {theirs[1]:.2f} = {ratios[1]:.1f} x', flush=True)
        slow += [kind] if ratios[0] < 1 else []
    if slow:
        sys.exit(f'slower than ggml: {", ".join(slow)}')


main()

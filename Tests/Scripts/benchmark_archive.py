"""Archive size and speed of trained weights, beside zstd, xz and ZipNN, in one run.

usage: benchmark_archive.py RECAST FIXTURES      (pip install 'torch==2.13.0' safetensors zipnn; tools: zstd, xz)

Each tool has one thread and the fastest of several rounds counts. Recast (`recast-benchmarks archive`) and ZipNN
work from memory to memory, zstd and xz as processes that read files and write pipes. What zstd and
xz are given is all files of the model in one.
"""
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time

import zipnn
from bundled_model import Conversions

recast, fixtures = sys.argv[1:3]
benchmarks = os.path.join(os.path.dirname(recast), 'recast-benchmarks')
work = tempfile.mkdtemp()
conversions = Conversions(recast, fixtures, work)
models = {'bf16': conversions.bf16, 'fp8-block': conversions.fp8, 'int4-g128': conversions.convert(conversions.bf16, 'int4-g128')}


def timed(action, rounds=3):
    best = float('inf')
    for _ in range(rounds):
        start = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - start)
    return result, best


print(f'{"weights":10} {"tool":22} {"size":>7} {"pack MB/s":>10} {"unpack MB/s":>12}')
for kind, model in models.items():
    files = sorted(glob.glob(model + '/*.safetensors'))
    content = b''.join(open(name, 'rb').read() for name in files)
    total = len(content)

    def line(tool, size, pack, unpack):
        print(f'{kind:10} {tool:22} {100 * size / total:6.2f}% {total / pack / 1e6:10.0f} {total / unpack / 1e6:12.0f}', flush=True)

    subprocess.run([benchmarks, 'archive', model], check=True)
    plain = f'{work}/plain'
    open(plain, 'wb').write(content)
    for tool, pack, unpack in (('zstd -3', ['zstd', '-3', '--single-thread'], ['zstd', '-d']), ('zstd -19', ['zstd', '-19', '--single-thread'], ['zstd', '-d']),
                               ('xz -6', ['xz', '-6', '-T1'], ['xz', '-d'])):
        rounds = 3 if tool == 'zstd -3' else 1
        packed, forth = timed(lambda: subprocess.run([*pack, '-c', plain], capture_output=True, check=True).stdout, rounds)
        open(plain + '.packed', 'wb').write(packed)
        restored, back = timed(lambda: subprocess.run(['sh', '-c', ' '.join([*unpack, '-c']) + f' < {plain}.packed'], capture_output=True, check=True).stdout, rounds)
        assert restored == content
        line(tool, len(packed), forth, back)
    # ZipNN takes the dtype of all bytes. It has none for packed integers.
    dtype = {'bf16': 'bfloat16', 'fp8-block': 'float8_e4m3fn'}.get(kind)
    if dtype:
        tool = zipnn.ZipNN(bytearray_dtype=dtype, input_format='byte', threads=1)
        try:
            packed, forth = timed(lambda: tool.compress(bytearray(content)), 5)
            restored, back = timed(lambda: tool.decompress(packed), 5)
            assert bytes(restored) == content
            line(f'ZipNN {zipnn.__version__ if hasattr(zipnn, "__version__") else ""} {dtype}', len(packed), forth, back)
        except Exception as error:
            print(f'{kind:10} ZipNN {dtype}: {type(error).__name__}: {error}')

shutil.rmtree(work)

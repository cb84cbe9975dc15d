"""Time FP8 -> BF16 as DeepSeek's fp8_cast_bf16.py does it, with PyTorch on the CPU, beside Recast on the same files.

usage: benchmark_pytorch.py RECAST [--directory /dev/shm] [--experts 64]      (pip install torch safetensors)

The Python side loads a shard, dequantizes its weights with the 128x128 scales, and saves it; single process, PyTorch's own
threads. Recast converts, reads back and digests. Prints the median of three rounds in turns and compares every byte.
"""
import argparse
import glob
import os
import shutil
import subprocess
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file

parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('--directory', default='/dev/shm')
parser.add_argument('--experts', type=int, default=64)
options = parser.parse_args()
work = tempfile.mkdtemp(dir=options.directory)
torch.manual_seed(0)


def dequantize(weight, scale):
    rows, columns = weight.shape
    full = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return (weight.float() * full).to(torch.bfloat16)


def python_side():
    shutil.rmtree(work + '/python', ignore_errors=True)
    os.makedirs(work + '/python')
    for path in sorted(glob.glob(work + '/source/*.safetensors')):
        tensors = load_file(path)
        out = {n: dequantize(t, tensors[n + '_scale_inv']) for n, t in tensors.items() if n.endswith('.weight')}
        save_file(out, work + '/python/' + os.path.basename(path))


def recast_side():
    shutil.rmtree(work + '/recast', ignore_errors=True)
    subprocess.run([options.recast, 'convert', work + '/source', work + '/recast', '--to', 'bf16', '--quiet'], check=True, stdout=subprocess.DEVNULL)


try:
    os.makedirs(work + '/source')
    for shard in range(options.experts // 16):
        tensors = {}
        for expert in range(16 * shard, 16 * shard + 16):
            name = f'model.layers.0.mlp.experts.{expert}.up_proj.weight'
            tensors[name] = (torch.randn(2048, 7168) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors[name + '_scale_inv'] = torch.rand(16, 56) * 1e-4 + 1e-5
        save_file(tensors, f'{work}/source/model-{shard}.safetensors')
    times = {python_side: [], recast_side: []}
    for round in range(4):
        for side in times:
            start = time.monotonic()
            side()
            times[side].append(time.monotonic() - start)
    python, recast = (sorted(t[1:])[1] for t in times.values())
    equal = 0
    theirs, ours = {}, {}
    for folder, found in (('python', theirs), ('recast', ours)):
        for path in glob.glob(f'{work}/{folder}/*.safetensors'):
            found.update(load_file(path))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[n], ours[n]) for n in ours)
    size = sum(t.numel() * 2 for t in ours.values()) / 1e9
    print(f'{size:.2f} GB of BF16: PyTorch {torch.__version__} {python:.2f} s ({size / python:.2f} GB/s), '
          f'recast {recast:.2f} s ({size / recast:.2f} GB/s), {python / recast:.1f} times as fast; {len(ours)} tensors equal')
finally:
    shutil.rmtree(work)

"""Hold `recast` to its promise about memory where sequences, heads and vocabularies are as large as V3's.

usage: memory_rehearsal.py RECAST [--tokens 32768] [--small] [--folder DIR]        (needs numpy; 5 GB of room without --small)

- verify: one layer with V3's 128 attention heads over one sequence of so many tokens, two checkpoints side by side;
- sweep: f16 of an embedding and a head of V3's size (129,280 x 7,168), in an eighth of the memory that one of them takes;
- convert: a BF16 shard of the same size packed as zstd, HDF5 and PyTorch files.

Peak memory may be 150 MB above --memory. With --small the sizes are what CI has time for. Exits non-zero if a promise is broken.
"""
import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

ALLOWANCE = 150e6


def bf16(generator, shape, scale):
    """Normal numbers, rounded towards zero: as good as any here."""
    values = generator.standard_normal(shape, np.float32) * np.float32(scale)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write(folder, tensors, config):
    os.makedirs(folder)
    header, at = {'__metadata__': {'format': 'pt'}}, 0
    for name, array in tensors.items():
        header[name] = {'dtype': 'BF16' if array.dtype == np.uint16 else 'F32', 'shape': list(array.shape), 'data_offsets': [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(folder + '/model.safetensors', 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())
    json.dump(config, open(folder + '/config.json', 'w'))


def model(hidden, heads, sizes, vocabulary, generator):
    """One dense layer: sizes are (nope, rope, value, latent, inner)."""
    nope, rope, value, latent, inner = sizes
    shapes = {
        'self_attn.q_proj': (heads * (nope + rope), hidden), 'self_attn.kv_a_proj_with_mqa': (latent + rope, hidden),
        'self_attn.kv_b_proj': (heads * (nope + value), latent), 'self_attn.o_proj': (hidden, heads * value),
        'mlp.gate_proj': (inner, hidden), 'mlp.up_proj': (inner, hidden), 'mlp.down_proj': (hidden, inner),
    }
    tensors = {'model.embed_tokens.weight': bf16(generator, (vocabulary, hidden), 1)}
    for name, shape in shapes.items():
        tensors[f'model.layers.0.{name}.weight'] = bf16(generator, shape, shape[1] ** -0.5)
    for name, size in (('input_layernorm', hidden), ('post_attention_layernorm', hidden), ('self_attn.kv_a_layernorm', latent)):
        tensors[f'model.layers.0.{name}.weight'] = np.full(size, 0x3F80, np.uint16)
    tensors['model.norm.weight'] = np.full(hidden, 0x3F80, np.uint16)
    tensors['lm_head.weight'] = bf16(generator, (vocabulary, hidden), hidden ** -0.5)
    config = dict(
        architectures=['DeepseekV3ForCausalLM'], model_type='deepseek_v3', hidden_size=hidden, num_hidden_layers=1, num_attention_heads=heads,
        q_lora_rank=None, kv_lora_rank=latent, qk_nope_head_dim=nope, qk_rope_head_dim=rope, v_head_dim=value, intermediate_size=inner,
        vocab_size=vocabulary, rms_norm_eps=1e-6, num_nextn_predict_layers=0, torch_dtype='bfloat16')
    return tensors, config


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('recast')
    parser.add_argument('--tokens', type=int, default=32768)
    parser.add_argument('--small', action='store_true')
    parser.add_argument('--folder')
    options = parser.parse_args()
    work = tempfile.mkdtemp(prefix='memory-', dir=options.folder)
    generator = np.random.default_rng(1)
    failed = False

    def measure(what, budget, *arguments):
        nonlocal failed
        started = time.monotonic()
        process = subprocess.Popen([options.recast, *arguments, '--memory', str(budget)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, errors = process.communicate()
        # The largest of all children so far: the runs are in ascending order of their budgets.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        holds = process.returncode == 0 and peak <= budget + ALLOWANCE
        failed = failed or not holds
        print(f'{what}: {time.monotonic() - started:.1f} s, peak memory {peak / 1e6:.0f} MB of {budget / 1e6:.0f} + 150: '
              f'{"holds" if holds else "FAILS"}{"" if process.returncode == 0 else " " + errors.strip()[-300:]}', flush=True)

    try:
        vocabulary = 16160 if options.small else 129280
        tensors, config = model(7168, 2, (32, 16, 32, 64, 256), vocabulary, generator)
        write(work + '/wide', tensors, config)
        size = vocabulary * 7168 * 2
        tensors = None
        json.dump({'sequences': [list(range(48))]}, open(work + '/few.json', 'w'))
        for container in ('zstd', 'hdf5', 'torch'):
            measure(f'convert --container {container} of two matrices of {size / 1e6:.0f} MB', 256 << 20, 'convert', work + '/wide',
                    f'{work}/{container}', '--to', 'keep', '--container', container, '--quiet')
            shutil.rmtree(f'{work}/{container}', ignore_errors=True)
        budget = max(384 << 20, size // 4)
        measure(f'sweep --layouts f16 with an embedding and a head of {size / 1e6:.0f} MB', budget, 'sweep', work + '/wide', '--layouts', 'f16',
                '--tokens', work + '/few.json', '--report', work + '/sweep.html', '--quiet')
        shutil.rmtree(work + '/wide')
        tokens = 4096 if options.small else options.tokens
        tensors, config = model(64, 128, (16, 8, 16, 32, 128), 256, generator)
        write(work + '/heads', tensors, config)
        json.dump({'sequences': [[(i * 7919) % 256 for i in range(tokens)]]}, open(work + '/many.json', 'w'))
        measure(f'verify of 128 heads over one sequence of {tokens} tokens', (1 << 30) if options.small else (2 << 30), 'verify', work + '/heads', work + '/heads',
                '--tokens', work + '/many.json', '--no-noise-floor')
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(failed)


main()

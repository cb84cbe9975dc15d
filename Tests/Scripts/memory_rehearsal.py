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
import shutil
import struct
import subprocess
import sys
import tempfile
import time

ALLOWANCE = 150e6


def bf16(generator, shape, scale):
    """Normal numbers, rounded towards zero: as good as any here."""
    import numpy as np
    values = generator.standard_normal(shape, np.float32) * np.float32(scale)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write(folder, tensors, config):
    os.makedirs(folder)
    header, at = {'__metadata__': {'format': 'pt'}}, 0
    for name, array in tensors.items():
        header[name] = {'dtype': 'BF16', 'shape': list(array.shape), 'data_offsets': [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(folder + '/model.safetensors', 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())
    json.dump(config, open(folder + '/config.json', 'w'))


def make(folder, hidden, heads, sizes, vocabulary):
    """One dense layer: sizes are (nope, rope, value, latent, inner)."""
    import numpy as np
    generator = np.random.default_rng(1)
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
    write(folder, tensors, config)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('recast')
    parser.add_argument('--tokens', type=int, default=32768)
    parser.add_argument('--small', action='store_true')
    parser.add_argument('--folder')
    parser.add_argument('--make', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return make(*json.loads(options.make))
    work = tempfile.mkdtemp(prefix='memory-', dir=options.folder)
    failed = False

    def made(*arguments):
        # In a process of its own: what this one takes would count as its children's.
        subprocess.run([sys.executable, __file__, options.recast, '--make', json.dumps(arguments)], check=True)

    def measure(what, budget, *arguments):
        nonlocal failed
        started = time.monotonic()
        with open(work + '/errors', 'w+') as errors:
            process = subprocess.Popen([options.recast, *arguments, '--memory', str(budget)], stdout=subprocess.DEVNULL, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            sentence = errors.read().strip()[-300:]
        peak = usage.ru_maxrss * 1024
        holds = process.returncode == 0 and peak <= budget + ALLOWANCE
        failed = failed or not holds
        print(f'{what}: {time.monotonic() - started:.1f} s, peak memory {peak / 1e6:.0f} MB of {budget / 1e6:.0f} + 150: '
              f'{"holds" if holds else "FAILS"}{"" if process.returncode == 0 else " " + sentence}', flush=True)

    try:
        vocabulary = 16160 if options.small else 129280
        made(work + '/wide', 7168, 2, (32, 16, 32, 64, 256), vocabulary)
        size = vocabulary * 7168 * 2
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
        made(work + '/heads', 64, 128, (16, 8, 16, 32, 128), 256)
        json.dump({'sequences': [[(i * 7919) % 256 for i in range(tokens)]]}, open(work + '/many.json', 'w'))
        measure(f'verify of 128 heads over one sequence of {tokens} tokens', (1 << 30) if options.small else (2 << 30), 'verify', work + '/heads', work + '/heads',
                '--tokens', work + '/many.json', '--no-noise-floor')
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(failed)


main()

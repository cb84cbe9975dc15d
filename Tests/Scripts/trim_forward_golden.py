"""Cut the golden outputs of the forward pass down to what the tests compare.

usage: trim_forward_golden.py GOLDEN_DIR OUT_DIR      (pip install safetensors numpy)

GOLDEN_DIR holds `{bf16,fp8}.f32.safetensors` and `{bf16.bf16,fp8.bf16,fp8.fp8}.safetensors`, written by transformers: logits of
8 sequences, and for sequence 0 the residual stream, expert choices and multi-token-prediction logits. Kept: the logits of the
short sequences 3 to 6, of every fourth position of sequence 0, everything of sequence 0's first 64 positions; as F32.
"""
import sys
import numpy as np
from safetensors.numpy import load_file, save_file

source, target = sys.argv[1:3]
LENGTHS = [160, 128, 97, 64, 33, 2, 1, 160]
for name in ('bf16.f32', 'fp8.f32', 'bf16.bf16', 'fp8.bf16', 'fp8.fp8'):
    golden = load_file(f'{source}/{name}.safetensors')
    kept = {'logits.0.every4': golden['logits'][0, ::4]}
    if len(golden['logits']) == 8:
        for sequence in (4, 5, 6):
            kept[f'logits.{sequence}'] = golden['logits'][sequence, :LENGTHS[sequence]]
    for key, tensor in golden.items():
        if key.startswith('hidden.') or key == 'mtp.logits':
            kept[key] = tensor[::8] if key.startswith('hidden.') else tensor[::8]
        elif key.startswith('router.'):
            kept[key] = tensor[:64]
    kept = {k: np.ascontiguousarray(v.astype(np.int64) if 'experts' in k else v.astype(np.float32)) for k, v in kept.items()}
    save_file(kept, f'{target}/{name}.safetensors')

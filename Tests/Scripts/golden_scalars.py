"""Write the golden tables of scalar conversions, made with ml_dtypes and PyTorch.

usage: golden_scalars.py OUT_DIR      (pip install ml_dtypes numpy 'torch==2.13.0')

values.bin    F32 values of all codes: E4M3 256, E5M2 256, E8M0 256, E2M1 16, BF16 65536, F16 65536, in this order
rounded.bin   for input i = 0..65535, the F32 pattern i << 16 | low(i), low from a linear congruential generator, except that
              every fourth input has low = 0x8000, a tie of BF16, and the next low = 0, ties of the narrow types: BF16 u16, F16 u16, E4M3 u8, E5M2 u8, E8M0 u8, E2M1 u8 (8 bytes)
E4M3 is clamped to +-448 first, because casts of larger values differ between libraries. NaN results are stored as the
library's own; the test compares them as NaN.
"""
import sys
import ml_dtypes
import numpy as np
import torch

out = sys.argv[1]
codes = np.arange(256, dtype=np.uint8)
words = np.arange(65536, dtype=np.uint32).astype(np.uint16)
values = [codes.view(t).astype(np.float32) for t in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu)]
values.append(np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32))
values += [words.view(ml_dtypes.bfloat16).astype(np.float32), words.view(np.float16).astype(np.float32)]
np.concatenate(values).tofile(out + '/values.bin')

state, low = 12345, np.zeros(65536, dtype=np.uint32)
for i in range(65536):
    state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
    low[i] = 0x8000 if i % 4 == 0 else 0 if i % 4 == 1 else state >> 16
inputs = (np.arange(65536, dtype=np.uint32) << 16 | low).view(np.float32)
record = np.zeros(65536, dtype=[('bf16', '<u2'), ('f16', '<u2'), ('e4m3', 'u1'), ('e5m2', 'u1'), ('e8m0', 'u1'), ('e2m1', 'u1')])
with np.errstate(all='ignore'):
    record['bf16'] = torch.from_numpy(inputs.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    record['f16'] = inputs.astype(np.float16).view(np.uint16)
    record['e4m3'] = torch.from_numpy(inputs.copy()).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    record['e5m2'] = inputs.astype(ml_dtypes.float8_e5m2).view(np.uint8)
    record['e8m0'] = inputs.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    record['e2m1'] = inputs.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
record.tofile(out + '/rounded.bin')

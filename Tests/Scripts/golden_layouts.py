"""Write golden vectors of every quantized layout on difficult matrices, made with compressed-tensors and PyTorch.

usage: golden_layouts.py OUT_FILE     (pip install compressed-tensors==0.19.0 safetensors 'torch==2.13.0')

One safetensors file. For each case C: `C.input` BF16 [rows, columns]; for each layout L that can hold it: the stored tensors
`C.L.<leaf>` and `C.L.decoded` BF16, what the library makes of them.
"""
import sys
import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.compressors.mxfp8 import MXFP8QuantizationCompressor
from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(20)


def normal(rows, columns, scale=0.02):
    return (torch.randn(rows, columns, generator=generator) * scale).to(torch.bfloat16)


def cases():
    yield 'normal', normal(40, 256)
    yield 'row', normal(1, 384)
    yield 'wide', normal(3, 640, 30.0)
    zero = normal(16, 256)
    zero[:, 128:] = 0
    zero[5] = 0
    yield 'zeros', zero
    yield 'negativezero', -torch.zeros(2, 128).to(torch.bfloat16)
    tiny = normal(9, 128, 1e-38)
    yield 'subnormal', tiny
    yield 'minute', normal(8, 128, 1e-7)
    huge = normal(8, 256, 1.0)
    huge[0, 0] = 3.0e38
    huge[1, 130] = -2.5e38
    yield 'huge', huge
    yield 'constant', torch.full((8, 128), 0.75).to(torch.bfloat16)
    yield 'positive', normal(8, 256).abs()
    yield 'negative', -normal(8, 256).abs()
    ties = (torch.arange(-64, 64).float() * 0.5).repeat(8, 2).to(torch.bfloat16)
    yield 'ties', ties
    every = torch.arange(0, 65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[torch.isfinite(every.float()) & (every.float().abs() < 1e30) & (every.float().abs() > 1e-30)]
    every = every[torch.randperm(len(every), generator=generator)][:128 * 160]
    yield 'everyexponent', every.reshape(160, 128)
    yield 'narrow', normal(80, 64)
    yield 'odd', normal(33, 320)


def grouped(weight, args):
    if args.strategy == 'group':
        return weight.unflatten(-1, (-1, args.group_size)).aminmax(dim=-1)
    return weight.aminmax(dim=-1, keepdim=True)


def block(weight, power_of_two=False, greatest=448):
    """E4M3 codes of blocks by DeepSeek's formula, or, with 127, INT8 codes by the same."""
    w = weight.float()
    rows, columns = w.shape
    R, C = -(-rows // 128), -(-columns // 128)
    padded = torch.zeros(R * 128, C * 128)
    padded[:rows, :columns] = w
    blocks = padded.view(R, 128, C, 128)
    scale = blocks.abs().amax(dim=(1, 3)).clamp(min=1e-4) / float(greatest)
    if power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale.double()))).float()
    quotients = (blocks / scale[:, None, :, None]).clamp(-greatest, greatest).view(R * 128, C * 128)[:rows, :columns]
    codes = quotients.to(torch.float8_e4m3fn) if greatest == 448 else quotients.round().to(torch.int8)
    full = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return {'weight': codes, 'weight_scale_inv': scale, 'decoded': (codes.float() * full).to(torch.bfloat16)}


INTEGER = {
    'int4-g128': dict(num_bits=4, type='int', symmetric=True, strategy='group', group_size=128),
    'int4-g32': dict(num_bits=4, type='int', symmetric=True, strategy='group', group_size=32),
    'int4-g128-asym': dict(num_bits=4, type='int', symmetric=False, strategy='group', group_size=128),
    'int8-channel': dict(num_bits=8, type='int', symmetric=True, strategy='channel'),
    'fp8-channel': dict(num_bits=8, type='float', symmetric=True, strategy='channel'),
    'w8a8-int8': dict(num_bits=8, type='int', symmetric=True, strategy='channel'),
    'mxfp8': dict(num_bits=8, type='float', symmetric=True, strategy='group', group_size=32, scale_dtype=torch.uint8),
}
# Widths that are read but never written: stored with the library's own packing.
READ_ONLY = {
    'int3-g64': dict(num_bits=3, type='int', symmetric=True, strategy='group', group_size=64),
    'int5-g64-asym': dict(num_bits=5, type='int', symmetric=False, strategy='group', group_size=64),
    'int2-g64-asym': dict(num_bits=2, type='int', symmetric=False, strategy='group', group_size=64),
    'int8-channel-asym': dict(num_bits=8, type='int', symmetric=False, strategy='channel'),
    'int7-channel': dict(num_bits=7, type='int', symmetric=True, strategy='channel'),
}

tensors = {}
for case, weight in cases():
    tensors[f'{case}.input'] = weight.contiguous()
    for name, made in (('fp8-block', block(weight)), ('fp8-block-ue8m0', block(weight, True)), ('int8-block', block(weight, greatest=127))):
        for leaf, tensor in made.items():
            tensors[f'{case}.{name}.{leaf}'] = tensor
    for name, arguments in {**INTEGER, **(READ_ONLY if case in ('normal', 'odd') else {})}.items():
        args = QuantizationArgs(**arguments)
        if args.group_size and weight.shape[1] % args.group_size:
            continue
        low, high = grouped(weight, args)
        scale, zero = calculate_qparams(low, high, args)
        scheme = QuantizationScheme(targets=['Linear'], weights=args)
        packs = args.type == 'int' and name != 'w8a8-int8'
        compressor = PackedQuantizationCompressor if packs else MXFP8QuantizationCompressor if name == 'mxfp8' else NaiveQuantizationCompressor
        state = {'weight': weight.clone(), 'weight_scale': scale, 'weight_zero_point': zero.to(torch.int8)}
        if args.symmetric:  # as model_free_ptq: no zero point at all, which keeps the sign of zero
            del state['weight_zero_point']
        stored = compressor.compress(state, scheme)
        decoded = compressor.decompress(stored, scheme)['weight']
        for leaf, tensor in stored.items():
            tensors[f'{case}.{name}.{leaf}'] = tensor.contiguous()
        tensors[f'{case}.{name}.decoded'] = decoded.contiguous()

save_file(dict(sorted(tensors.items())), sys.argv[1])
print(len(tensors), 'tensors')

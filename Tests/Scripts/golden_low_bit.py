"""Write digests of what the peers make of difficult matrices in the 2- to 8-bit layouts.

usage: golden_low_bit.py LAYOUTS_FILE OUT_FILE [--check]

LAYOUTS_FILE is Tests/Fixtures/golden/layouts.safetensors, whose `CASE.input` BF16 matrices are read; OUT_FILE is JSON:
{case: {layout: {leaf: [SHA-256, dtype, shape]}}}, `decoded` being the BF16 values that the peer reads back. For awq and gptq the
rows are repeated up to a multiple of 32. With --check the file is
compared instead of written, layout by layout for the peers that are installed.

    pip install 'torch==2.13.0' compressed-tensors==0.19.0 safetensors 'mlx[cpu]==0.32.4' nvidia-modelopt==0.47.0
    pip install --no-deps autoawq==0.2.9 gptqmodel==7.7.0     # they ask for accelerators; their packing does not
"""
import contextlib
import hashlib
import json
import os
import sys
import warnings

import torch
from peer_encoders import awq_encode, gptq_encode
from safetensors.torch import load_file

warnings.simplefilter('ignore')
os.environ.setdefault('BUILD_CUDA_EXT', '0')
source, target = sys.argv[1:3]
inputs = {name[:-6]: tensor for name, tensor in load_file(source).items() if name.endswith('.input')}
NAMES = {torch.bfloat16: 'BF16', torch.float16: 'F16', torch.float32: 'F32', torch.uint8: 'U8', torch.int32: 'I32',
         torch.float8_e4m3fn: 'F8_E4M3'}
# Where a peer's exponent leaves its byte: compressed-tensors' becomes 127 from 1.75 * 2^127 on, MLX's wraps around below 2^-127.
OUT_OF_RANGE = {('huge', 'mxfp4'), ('subnormal', 'mlx-mxfp4')}
results = {}


def whole_words(weight):
    """The matrix with its rows repeated up to a multiple of 32, which AutoAWQ and GPTQModel ask for."""
    count = -(-weight.shape[0] // 32) * 32
    return weight.repeat(-(-count // weight.shape[0]), 1)[:count].contiguous()


def record(case, layout, tensors):
    if (case, layout) in OUT_OF_RANGE:
        return
    entry = results.setdefault(case, {}).setdefault(layout, {})
    for leaf, tensor in tensors.items():
        if isinstance(tensor, tuple):  # bytes, dtype, shape
            entry[leaf] = [hashlib.sha256(tensor[0]).hexdigest(), tensor[1], list(tensor[2])]
        else:
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            entry[leaf] = [hashlib.sha256(data).hexdigest(), NAMES[tensor.dtype], list(tensor.shape)]


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    for case, weight in inputs.items():
        for layout, size in (('mxfp4', 32), ('nvfp4', 16)):
            if weight.shape[1] % size:
                continue
            args = QuantizationArgs(num_bits=4, type='float', symmetric=True, group_size=size,
                                    strategy='group' if layout == 'mxfp4' else 'tensor_group',
                                    scale_dtype=torch.uint8 if layout == 'mxfp4' else torch.float8_e4m3fn)
            low, high = weight.unflatten(-1, (-1, size)).aminmax(dim=-1)
            state = {'weight': weight.clone()}
            if layout == 'nvfp4':
                state['weight_global_scale'] = generate_gparam(weight.amin(), weight.amax())
            state['weight_scale'], _ = calculate_qparams(low, high, args, global_scale=state.get('weight_global_scale'))
            scheme = QuantizationScheme(targets=['Linear'], weights=args)
            compressor = BaseCompressor.get_value_from_registry(layout + '-pack-quantized')
            stored = compressor.compress(state, scheme)
            record(case, layout, stored)
            record(case, layout, {'decoded': compressor.decompress(stored, scheme)['weight'].to(torch.bfloat16)})


def modelopt():
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
    for case, weight in inputs.items():
        if weight.shape[1] % 16 or not weight.any():
            continue  # a zero tensor divides by zero there
        packed, scale, scale2 = NVFP4QTensor.quantize(weight.clone(), 16)
        decoded = packed.dequantize(torch.bfloat16, scale=scale, double_scale=scale2, block_sizes={-1: 16})
        record(case, 'nvfp4-modelopt', {'weight': packed._quantized_data, 'weight_scale': scale, 'weight_scale_2': scale2, 'decoded': decoded})


def mlx():
    import mlx.core as mx
    import numpy as np
    names = {mx.uint32: 'U32', mx.uint8: 'U8', mx.bfloat16: 'BF16'}

    def stored(array):
        flat = array if array.dtype != mx.bfloat16 else array.view(mx.uint16)
        return np.array(flat).tobytes(), names[array.dtype], array.shape

    for case, weight in inputs.items():
        matrix = mx.array(weight.view(torch.int16).numpy().astype('uint16')).view(mx.bfloat16)
        for bits in (2, 3, 4, 5, 6, 8):
            for group in (32, 64, 128):
                if weight.shape[1] % group:
                    continue
                codes, scales, biases = mx.quantize(matrix, group_size=group, bits=bits)
                decoded = mx.dequantize(codes, scales, biases, group_size=group, bits=bits)
                name = f'mlx-{bits}bit' + ('' if group == 64 else f'-g{group}')
                record(case, name, {'weight': stored(codes), 'scales': stored(scales), 'biases': stored(biases), 'decoded': stored(decoded)})
        if weight.shape[1] % 32 == 0:
            codes, scales = mx.quantize(matrix, group_size=32, bits=4, mode='mxfp4')
            decoded = mx.dequantize(codes, scales, group_size=32, bits=4, mode='mxfp4', dtype=mx.bfloat16)
            record(case, 'mlx-mxfp4', {'weight': stored(codes), 'scales': stored(scales), 'decoded': stored(decoded)})


def autoawq():
    from awq.utils.packing_utils import dequantize_gemm
    for case, weight in inputs.items():
        weight = whole_words(weight)
        if not torch.isfinite(weight.half()).all():
            continue
        for group, name in ((128, 'awq'), (32, 'awq-g32')):
            if weight.shape[1] % group:
                continue
            made = awq_encode(weight, group)
            record(case, name, made)
            record(case, name, {'decoded': dequantize_gemm(made['qweight'], made['qzeros'], made['scales'], 4, group).t().to(torch.bfloat16)})


def gptqmodel():
    for case, weight in inputs.items():
        weight = whole_words(weight)
        for bits in (2, 3, 4, 8):
            for symmetric, version in ((True, 1), (True, 2), (False, 2)):
                made = gptq_encode(weight, bits, symmetric, version, decode=True) if weight.shape[1] % 128 == 0 else None
                if made is None or not torch.isfinite(made['scales']).all() or (made['scales'] == 0).any():
                    continue
                width = '' if bits == 4 else f'-{bits}bit'
                record(case, 'gptq' + width + ('-asym' if not symmetric else '-v2' if version == 2 else ''), made)


ran = []
for peer in (compressed_tensors, modelopt, mlx, autoawq, gptqmodel):
    before = sum(len(layouts) for layouts in results.values())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            peer()
        ran.append(f'{peer.__name__} {sum(len(layouts) for layouts in results.values()) - before}')
    except ImportError as error:
        print(f'{peer.__name__} is not installed: {error}')
if '--check' in sys.argv:
    expected = json.load(open(target))
    different = [(case, layout) for case, layouts in results.items() for layout in layouts if expected.get(case, {}).get(layout) != layouts[layout]]
    for case, layout in different[:20]:
        print('different', case, layout)
    total = sum(len(layouts) for layouts in results.values())
    print(f'{total - len(different)} passed, {len(different)} failed ({", ".join(ran)})')
    sys.exit(bool(different))
with open(target, 'w') as file:
    json.dump(results, file, separators=(',', ':'), sort_keys=True)
    file.write('\n')
print(', '.join(ran))

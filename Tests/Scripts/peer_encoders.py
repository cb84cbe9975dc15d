"""Round-to-nearest by AutoAWQ's and GPTQModel's own code, one weight at a time, without their loops over a model."""
import types

import torch


def awq_encode(weight, group):
    """What awq/quantize/quantizer.py makes of a BF16 weight without calibration: qweight, qzeros, scales."""
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.quantize.quantizer import AwqQuantizer
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float16)
    settings = types.SimpleNamespace(group_size=group, zero_point=True, w_bit=4)
    linear.weight.data, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, weight.half())
    packed = WQLinear_GEMM.from_linear(linear, 4, group, False, scales.t().contiguous(), zeros.t().contiguous())
    return {'qweight': packed.qweight, 'qzeros': packed.qzeros, 'scales': packed.scales}


def gptq_encode(weight, bits, symmetric, version, group=128, decode=False):
    """What gptqmodel/quantization/rtn.py and the packing make of a BF16 weight: qweight, qzeros, scales, g_idx (and decoded BF16)."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.quantizer import Quantizer
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
    rows, columns = weight.shape
    parts = []
    for start in range(0, columns, group):
        quantizer = Quantizer(types.SimpleNamespace(bits=bits, sym=symmetric, mse=0.0))
        quantizer.configure(perchannel=True)
        block = weight[:, start:start + group].float()
        quantizer.find_params(block, weight=True)
        parts.append((quantizer.quantize(block), quantizer.scale, quantizer.zero))
    values, scales, zeros = (torch.cat([part[i].reshape(rows, -1) for part in parts], 1) for i in range(3))
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = values
    order = torch.arange(columns, dtype=torch.int32) // group
    packed = TorchLinear(bits=bits, group_size=group, sym=symmetric, desc_act=False, in_features=columns, out_features=rows, bias=False,
                         pack_dtype=torch.int32, register_buffers=True)
    packed.pack_original(linear, scales, zeros, order)
    made = {'scales': packed.scales, 'qweight': packed.qweight, 'g_idx': order}
    if decode:
        packed.post_init()
        made['decoded'] = packed.dequantize_weight().t().to(torch.bfloat16)
    if version == 1:
        convert_gptq_v2_to_v1_format_module(packed, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32))
    return {**made, 'qzeros': packed.qzeros}

"""Check Recast's output with the Python peers that read it.

usage: interop.py RECAST FIXTURES      (pip install 'torch==2.13.0' transformers==5.24.0 compressed-tensors==0.19.0 safetensors accelerate)

Converts the bundled model with the command RECAST and lets the peers load the result:
  safetensors         opens every file of every layout
  transformers        loads bf16 with from_pretrained; loads fp8-block and the compressed-tensors layouts to the same weights
  compressed-tensors  parses every quantization_config and decompresses every weight to exactly Recast's own bf16
Prints one line a check and ends with the count; exits non-zero if one fails.
"""
import json
import shutil
import sys
import tempfile

import torch
import transformers
from bundled_model import Conversions, tensors
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils import match_name

recast, fixtures = sys.argv[1:3]
work = tempfile.mkdtemp()
passed = failed = 0


def check(name, condition):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    print('ok  ' if condition else 'FAIL', name, flush=True)


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


conversions = Conversions(recast, fixtures, work)
convert, bf16, fp8 = conversions.convert, conversions.bf16, conversions.fp8

# compressed-tensors
for layout in ('int4-g128', 'int4-g32', 'int4-g128-asym', 'int8-channel', 'w8a8-int8', 'fp8-channel', 'mxfp8'):
    folder = convert(bf16, layout)
    stored, ours = tensors(folder), tensors(convert(folder, 'bf16'))
    config = QuantizationConfig.model_validate(json.load(open(folder + '/config.json'))['quantization_config'])
    scheme = next(iter(config.config_groups.values()))
    compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
    modules = sorted({k.rsplit('.', 1)[0] for k in stored if k.endswith('.weight_scale')})
    equal = bool(modules)
    for module in modules:
        parts = {k.rsplit('.', 1)[1]: v for k, v in stored.items() if k.rsplit('.', 1)[0] == module}
        decoded = compressor.decompress(parts, scheme)['weight']
        equal &= decoded.dtype == torch.bfloat16 and torch.equal(decoded, ours[module + '.weight'])
        equal &= not any(match_name(module, pattern) for pattern in config.ignore)
    check(f'compressed-tensors decompresses {layout} to our bf16 ({len(modules)} weights)', equal)
    dense = [k.rsplit('.', 1)[0] for k, v in stored.items() if k.endswith('.weight') and v.dim() == 2 and v.dtype == torch.bfloat16]
    check(f'every dense matrix of {layout} is on the ignore list ({len(dense)})', all(any(match_name(m, p) for p in config.ignore) for m in dense))

# transformers
transformers.logging.set_verbosity_error()
from transformers import (AutoModelForCausalLM, CompressedTensorsConfig, DeepseekV3ForCausalLM, FineGrainedFP8Config, Qwen3Config,  # noqa: E402
                          Qwen3ForCausalLM)

import random_model  # noqa: E402


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)


reference = load(convert(fp8, 'bf16'))
check('transformers loads fp8 -> bf16', isinstance(reference, DeepseekV3ForCausalLM))
weights = reference.state_dict()
ours = tensors(convert(fp8, 'bf16'))
check('its attention weights are ours', all(torch.equal(weights[k], ours[k]) for k in weights if 'self_attn' in k and k in ours))
quantized = load(convert(bf16, 'fp8-block'), quantization_config=FineGrainedFP8Config(dequantize=True))
expected = load(convert(f'{work}/tiny-deepseek-v3-bf16-fp8-block', 'bf16'))
check('transformers loads bf16 -> fp8-block and dequantizes it to our bf16', same(quantized.state_dict(), expected.state_dict()))
# transformers 5.24 gathers no zero points when it stacks experts, and takes no plain ones beside quantized weights, so asymmetric codes are asked of a
# model without experts.
torch.manual_seed(3)
dense = random_model.fill(Qwen3ForCausalLM(Qwen3Config(
    vocab_size=200, hidden_size=256, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64)))
dense.to(torch.bfloat16).save_pretrained(work + '/qwen3')
for layout in ('int4-g128', 'int4-g32', 'int4-g128-asym', 'int8-channel', 'fp8-channel'):
    folder = convert(work + '/qwen3' if 'asym' in layout else bf16, layout)
    state = load(folder, quantization_config=CompressedTensorsConfig(dequantize=True)).state_dict()
    wanted = load(convert(folder, 'bf16')).state_dict()
    check(f'transformers loads {layout} and decompresses it to our bf16 ({len(state)} tensors)', same(state, wanted))
tokens = torch.tensor([list(b'\x00First Citizen: Before we proceed')])
with torch.no_grad():
    check('and its logits are those of our bf16', torch.equal(quantized(tokens).logits, expected(tokens).logits))

for layout in ('keep', 'f16', 'f32', 'fp8-block', 'fp8-block-ue8m0', 'fp8-channel', 'int4-g32'):
    opened = tensors(convert(fp8, layout))
    check(f'safetensors opens {layout} ({len(opened)} tensors)', len(opened) >= 221)

shutil.rmtree(work)
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0)

"""Check Recast's low-bit output with the programs that read it.

usage: low_bit_interop.py RECAST FIXTURES

    pip install 'torch==2.13.0' transformers==5.24.0 compressed-tensors==0.19.0 safetensors accelerate 'mlx[cpu]==0.32.4' mlx-lm==0.32.2
    pip install --no-deps autoawq==0.2.9 gptqmodel==7.7.0 nvidia-modelopt==0.47.0     # and what they import; see .ci/run

Converts the bundled model with the command RECAST. For every layout each quantized weight must be read by its own program to exactly
the values that Recast's own bf16 conversion of the same files has, and where the program runs the model on a CPU its logits must be
those of `recast forward` on the same files. A program that is not installed is skipped by name.
"""
import glob
import json
import shutil
import subprocess
import sys
import tempfile
import warnings

import torch
from bundled_model import Conversions, tensors
from peer_encoders import awq_encode, gptq_encode
from safetensors.torch import load_file

warnings.simplefilter('ignore')
recast, fixtures = sys.argv[1:3]
work = tempfile.mkdtemp()
passed = failed = 0
sequences = json.load(open(fixtures + '/tokens-short.json'))['sequences']


def check(name, condition):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    print('ok  ' if condition else 'FAIL', name, flush=True)


def forward(folder):
    subprocess.run([recast, 'forward', folder, '--tokens', fixtures + '/tokens-short.json', '--logits', folder + '.logits'], check=True,
                   stdout=subprocess.DEVNULL)
    return load_file(folder + '.logits')['logits'][0][:len(sequences[0])]


def modules(stored, leaf):
    return sorted(name[:-len(leaf) - 1] for name in stored if name.endswith('.' + leaf))


def divergence(logits, reference):
    p, q = reference.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def near(name, logits, reference, bound):
    """Largest difference of logits, or mean KL divergence where the program rounds weights or activations by itself."""
    worst, kld = (logits - reference).abs().max().item(), divergence(logits, reference)
    same = (logits.argmax(-1) == reference.argmax(-1)).float().mean().item()
    good = worst <= bound and same == 1 if bound < 1e-3 else kld <= bound / 100 and same >= 0.97
    check(f'{name}: largest difference {worst:.2g}, mean KLD {kld:.2g}, same token {same:.3f}', good)


conversions = Conversions(recast, fixtures, work)
convert, bf16 = conversions.convert, conversions.bf16


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    for layout in ('nvfp4', 'mxfp4'):
        folder = convert(bf16, layout)
        stored, ours = tensors(folder), tensors(convert(folder, 'bf16'))
        config = QuantizationConfig.model_validate(json.load(open(folder + '/config.json'))['quantization_config'])
        scheme = next(iter(config.config_groups.values()))
        compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
        names = modules(stored, 'weight_packed')
        equal = all(torch.equal(compressor.decompress({k.rsplit('.', 1)[1]: v for k, v in stored.items() if k.rsplit('.', 1)[0] == name}, scheme)
                                ['weight'].to(torch.bfloat16), ours[name + '.weight']) for name in names)
        check(f'compressed-tensors decompresses {layout} to our bf16 ({len(names)} weights)', equal and len(names) == 184)


def transformers_models():
    import transformers
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig
    transformers.logging.set_verbosity_error()

    def load(folder, **options):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)

    folder = convert(bf16, 'mxfp4')
    model = load(folder, quantization_config=CompressedTensorsConfig(dequantize=True))
    with torch.no_grad():
        near('transformers runs mxfp4', model.float().eval()(torch.tensor(sequences[:1])).logits[0], forward(folder), 2e-4)
    # transformers 5.24 stacks NVFP4 experts without their tensor scales, so only the other weights can be asked about.
    folder = convert(bf16, 'nvfp4')
    state = load(folder, quantization_config=CompressedTensorsConfig(dequantize=True)).state_dict()
    wanted = load(convert(folder, 'bf16')).state_dict()
    names = [name for name in wanted if '.experts.' not in name]
    check(f'transformers loads nvfp4 and decompresses it to our bf16 ({len(names)} tensors)', all(torch.equal(state[n], wanted[n]) for n in names))


def mlx():
    from pathlib import Path

    import mlx.core as mx
    import mlx_lm.models.deepseek_v3 as deepseek
    import numpy as np
    from mlx_lm.utils import load_model

    def select(gates, bias, top_k, n_group, topk_group, scaling, normalise):
        # mlx-lm 0.32 masks the groups that are not kept with 0 instead of minus infinity, which prefers them to kept experts whose
        # score with its bias is negative, as some of this model's are. DeepSeek and transformers mask with minus infinity.
        scores = mx.sigmoid(gates.astype(mx.float32))
        biased = mx.unflatten(scores + bias, axis=-1, shape=(n_group, -1))
        best = mx.topk(biased, 2, axis=-1).sum(axis=-1, keepdims=True)
        dropped = mx.argpartition(best, kth=n_group - topk_group - 1, axis=-2)[..., :n_group - topk_group, :]
        biased = mx.flatten(mx.put_along_axis(biased, dropped, mx.array(-mx.inf), axis=-2), -2, -1)
        chosen = mx.argpartition(-biased, kth=top_k - 1, axis=-1)[..., :top_k]
        weights = mx.take_along_axis(scores, chosen, axis=-1)
        return chosen, (weights / weights.sum(axis=-1, keepdims=True) if normalise else weights) * scaling

    deepseek.group_expert_select = select
    for layout in ('mlx-4bit', 'mlx-8bit', 'mlx-4bit-g32', 'mlx-2bit', 'mlx-3bit', 'mlx-5bit', 'mlx-6bit', 'mlx-mxfp4'):
        folder = convert(bf16, layout)
        settings = json.load(open(folder + '/config.json'))['quantization']
        stored, ours = {}, tensors(convert(folder, 'bf16'))
        for path in sorted(glob.glob(folder + '/*.safetensors')):
            stored.update(mx.load(path))
        count, equal = 0, True
        for name in modules(stored, 'scales'):
            if name.endswith(('embed_q', 'unembed_out')):
                continue
            value = mx.dequantize(stored[name + '.weight'], stored[name + '.scales'], stored.get(name + '.biases'), dtype=mx.bfloat16, **settings)
            value = torch.from_numpy(np.array(value.astype(mx.float32)).copy())
            for index, matrix in enumerate(value if value.dim() == 3 else [value]):
                mine = ours[(name.replace('.switch_mlp.', f'.experts.{index}.') if value.dim() == 3 else name) + '.weight']
                equal &= torch.equal(matrix, mine.float())
                count += 1
        check(f'MLX dequantizes {layout} to our bf16 ({count} weights)', equal and count > 100)
        model, _ = load_model(Path(folder))
        model.set_dtype(mx.float32)
        logits = torch.from_numpy(np.array(model(mx.array(sequences[:1])).astype(mx.float32)).copy())[0]
        # In F32 affine weights are not rounded to BF16 as our decoder's are; MXFP4's are the same numbers.
        near(f'mlx-lm runs {layout}', logits, forward(folder), 2e-4 if 'mxfp4' in layout else 0.1)


def autoawq():
    from awq.utils.packing_utils import dequantize_gemm
    for layout, group in (('awq', 128), ('awq-g64', 64)):
        folder = convert(bf16, layout)
        stored, ours = tensors(folder), tensors(convert(folder, 'bf16'))
        names = modules(stored, 'qweight')
        equal = all(torch.equal(dequantize_gemm(stored[n + '.qweight'], stored[n + '.qzeros'], stored[n + '.scales'], 4, group).t()
                                .to(torch.bfloat16), ours[n + '.weight']) for n in names)
        check(f'AutoAWQ dequantizes {layout} to our bf16 ({len(names)} weights)', equal and len(names) >= 179)
        # from_linear drops the last words of weights whose rows do not divide by 32; those it cannot encode.
        count, equal, source = 0, True, tensors(bf16)
        for name in names:
            weight = source[name + '.weight']
            if weight.shape[0] % 32 == 0 and '.experts.1' not in name and '.layers.3' not in name:
                made = awq_encode(weight, group)
                equal &= all(torch.equal(made[leaf], stored[f'{name}.{leaf}']) for leaf in made)
                count += 1
        check(f'AutoAWQ quantizes {count} weights of the model to our {layout}', equal and count > 80)


def gptqmodel():
    from gptqmodel import BACKEND, GPTQModel
    for layout in ('gptq', 'gptq-asym', 'gptq-v2', 'gptq-2bit', 'gptq-3bit', 'gptq-8bit', 'awq-g64'):
        folder = convert(bf16, layout)
        ours = tensors(convert(folder, 'bf16'))
        model = GPTQModel.load(folder, device='cpu', backend=BACKEND.TORCH, dtype=torch.float16).model.eval()
        count, equal = 0, True
        for name, module in model.named_modules():
            if not hasattr(module, 'qweight') or not hasattr(module, 'dequantize_weight') or name + '.weight' not in ours:
                continue
            count += 1
            equal &= torch.equal(module.dequantize_weight().t().to(torch.bfloat16), ours[name + '.weight'])
        if layout in ('gptq', 'gptq-asym'):
            stored, source, made = tensors(folder), tensors(bf16), 0
            same = True
            for name in modules(stored, 'qweight'):
                if source[name + '.weight'].shape[0] % 32 == 0 and '.experts.1' not in name:
                    parts = gptq_encode(source[name + '.weight'], 4, layout == 'gptq', 1 if layout == 'gptq' else 2)
                    same &= all(torch.equal(parts[leaf], stored[f'{name}.{leaf}']) for leaf in parts)
                    made += 1
            check(f'GPTQModel quantizes {made} weights of the model to our {layout}', same and made > 80)
        if 'awq' not in layout:  # whose class hands out another orientation
            check(f'GPTQModel dequantizes {layout} to our bf16 ({count} weights)', equal and count > 100)
        with torch.no_grad():
            logits = model(torch.tensor(sequences[:1])).logits[0].float()
        near(f'GPTQModel runs {layout} in F16', logits, forward(folder), 0.5)


def modelopt():
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
    folder = convert(bf16, 'nvfp4-modelopt')
    stored, ours = tensors(folder), tensors(convert(folder, 'bf16'))
    names = modules(stored, 'weight_scale_2')
    equal = True
    for name in names:
        packed = stored[name + '.weight']
        tensor = NVFP4QTensor(torch.Size([packed.shape[0], packed.shape[1] * 2]), torch.bfloat16, packed)
        value = tensor.dequantize(torch.bfloat16, scale=stored[name + '.weight_scale'], double_scale=stored[name + '.weight_scale_2'],
                                  block_sizes={-1: 16})
        equal &= torch.equal(value, ours[name + '.weight'])
    check(f'ModelOpt dequantizes nvfp4-modelopt to our bf16 ({len(names)} weights)', equal and len(names) == 140)
    equal, source = True, tensors(bf16)
    for name in names:
        # Gate and up projections share their range, as ModelOpt's export joins them.
        # So do the two that engines load as fused_qkv_a_proj, which its export leaves apart.
        pairs = [('gate_proj', 'up_proj'), ('up_proj', 'gate_proj'), ('q_a_proj', 'kv_a_proj_with_mqa'), ('kv_a_proj_with_mqa', 'q_a_proj')]
        partner = next((name.replace(mine, other) for mine, other in pairs if name.endswith('.' + mine)), name)
        amax = max(source[name + '.weight'].abs().max(), source[partner + '.weight'].abs().max())
        packed, scale, scale2 = NVFP4QTensor.quantize(source[name + '.weight'].clone(), 16, weights_scaling_factor_2=amax.float() / (6 * 448))
        equal &= torch.equal(packed._quantized_data, stored[name + '.weight']) and torch.equal(scale2, stored[name + '.weight_scale_2'])
        equal &= torch.equal(scale.view(torch.uint8), stored[name + '.weight_scale'].view(torch.uint8))
    check(f'ModelOpt quantizes the model to our nvfp4-modelopt ({len(names)} weights)', equal)


for peer in (compressed_tensors, transformers_models, mlx, autoawq, gptqmodel, modelopt):
    try:
        peer()
    except ImportError as error:
        print(f'{peer.__name__} is not installed: {error}', flush=True)
shutil.rmtree(work)
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0)

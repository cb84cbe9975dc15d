"""Random weights for small models of transformers, for the scripts that compare with it."""
import glob
import json
import os

import torch
from safetensors.torch import load_file, save_file


def fill(model):
    """Matrices that keep the size of what they multiply, norms about 1, biases and choices of experts small."""
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if tensor.dim() > 1:
                tensor.normal_(0, tensor.shape[-1] ** -0.5)
            elif 'norm' in key:
                tensor.normal_(1, 0.1)
            else:
                tensor.normal_(0, 0.1)
        for key, tensor in model.named_buffers():
            if key.endswith('e_score_correction_bias'):
                tensor.normal_(0, 0.05)
    return model


def as_blocks(source, target):
    """A gpt-oss with random MXFP4 blocks for experts, under the names of its release, beside whatever else lies in `source`."""
    tensors = {}
    for path in glob.glob(source + '/*.safetensors'):
        tensors |= load_file(path)
    for key in [key for key in tensors if key.endswith(('.gate_up_proj', '.down_proj'))]:
        experts, columns, rows = tensors.pop(key).shape
        tensors[key + '_blocks'] = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
        tensors[key + '_scales'] = torch.randint(121, 125, (experts, rows, columns // 32), dtype=torch.uint8)
    os.makedirs(target)
    save_file(tensors, target + '/model.safetensors', metadata={'format': 'pt'})
    with open(source + '/config.json') as file:
        config = json.load(file)
    config['quantization_config'] = {'quant_method': 'mxfp4', 'modules_to_not_convert': [
        'model.layers.*.self_attn', 'model.layers.*.mlp.router', 'model.embed_tokens', 'lm_head']}
    with open(target + '/config.json', 'w') as file:
        json.dump(config, file)

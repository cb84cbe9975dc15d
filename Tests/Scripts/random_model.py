"""Random weights for small models of transformers, for the scripts that compare with it."""
import torch


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

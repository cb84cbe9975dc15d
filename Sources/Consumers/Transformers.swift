extension Consumer {
    /// huggingface/transformers:src/transformers/quantizers; conversion_mapping.py of 5.17, which stacks no experts of Mistral 4.
    package static let transformers = Consumer(
        "transformers", methods: ["fp8", "compressed-tensors", "awq", "gptq", "mxfp4"], needsTokenizer: true, stackedTypes: ["mistral4"])
}

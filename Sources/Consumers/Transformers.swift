extension Consumer {
    /// huggingface/transformers:src/transformers/quantizers.
    package static let transformers = Consumer(
        "transformers", methods: ["fp8", "compressed-tensors", "awq", "gptq", "mxfp4"], needsTokenizer: true, needsStacks: true)
}

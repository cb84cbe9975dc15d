extension Consumer {
    /// sgl-project/sglang:python/sglang/srt/models/deepseek_v2.py and layers/quantization.
    package static let sglang = Consumer(
        "sglang",
        methods: ["fp8", "compressed-tensors", "awq", "gptq", "modelopt", "modelopt_fp4", "w4afp8", "mxfp4", "blockwise_int8", "w8a8_int8", "mxfp8"],
        fusesModules: true,
        exemptsByParts: false)
}

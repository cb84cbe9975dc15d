extension Consumer {
    /// vllm-project/vllm:vllm/model_executor/models/deepseek_v2.py and layers/quantization.
    package static let vllm = Consumer(
        "vllm", methods: ["fp8", "compressed-tensors", "awq", "gptq", "modelopt", "modelopt_fp4", "mxfp4", "quark", "w4afp8", "mxfp8"],
        fusesModules: true, listsRouters: true)
}

extension Consumer {
    /// ggml-org/llama.cpp:convert_hf_to_gguf.py (`dequant_model`) of safetensors; its loader of GGUF files.
    package static let llamaCpp = Consumer(
        "llama.cpp", methods: ["fp8", "compressed-tensors", "gptq", "modelopt"], needsTokenizer: true, readsFiles: true,
        obstacle: { quantization in
            if quantization.groups.count > 1 { return "more than one config group is not read" }
            guard let group = quantization.groups.first else { return nil }
            let format = quantization.json["format"]?.string ?? ""
            if format == "pack-quantized", group.strategy != "group" { return "pack-quantized weights must be in groups, not by \(group.strategy)" }
            if format == "float-quantized", group.strategy != "channel" && group.strategy != "block" {
                return "float-quantized weights must be by channel or block, not by \(group.strategy)"
            }
            return ["pack-quantized", "float-quantized", "int-quantized", "naive-quantized", "nvfp4-pack-quantized"].contains(format)
                ? nil : "the format \(format) is not read"
        })
}

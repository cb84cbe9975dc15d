import Architectures
import Checkpoints

extension Consumer {
    /// ml-explore/mlx-lm:mlx_lm/utils.py and models/deepseek_v3.py.
    package static let mlx = Consumer(
        "mlx", methods: ["fp8", "compressed-tensors", "awq", "gptq", "modelopt", "mxfp4", "mlx"], readsReleasedNames: false,
        droppedModules: (
            "multi-token-prediction weights are where it drops them",
            { checkpoint in
                // DeepSeek-V3's code drops names that begin with model.layers.61, whatever num_hidden_layers says.
                guard checkpoint.config["model_type"]?.string == "deepseek_v3" else { return nil }
                let layers = try ModelConfiguration(config: checkpoint.config).layers
                let extra = checkpoint.weights.map(\.name).filter { (WeightName.layer($0) ?? 0) >= layers && !$0.hasPrefix("model.layers.61.") }
                return ConsumerContract.list(extra, "multi-token-prediction weights are not in layer 61, the only one it drops")
            }
        ),
        obstacle: { quantization in
            let format = quantization.json["format"]?.string ?? ""
            guard ["pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized"].contains(format) else {
                return "the format \(format) is not read"
            }
            guard format == "pack-quantized", let group = quantization.groups.first else { return nil }
            // It takes any pack-quantized checkpoint for 4 bits in groups of 32 without zero points.
            return quantization.groups.count == 1 && group.bits == 4 && group.groupSize == 32 && group.symmetric
                ? nil : "pack-quantized is read as symmetric 4-bit in groups of 32 only"
        })
}

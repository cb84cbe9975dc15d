import Architectures

/// What the inner norms of latent attention add under the root. The field has two truths: the code of DeepSeek and
/// transformers takes 1e-6 whatever the configuration says, vLLM and SGLang take `rms_norm_eps`. They part where that is another number, as it is
/// in Kimi-K2-Thinking and GLM-5.
public enum LatentNorms: String, Sendable, CaseIterable {
    /// 1e-6.
    case transformers
    /// `rms_norm_eps`.
    case config

    func epsilon(_ configuration: ModelConfiguration) -> Double { self == .config ? configuration.epsilon : 1e-6 }

    /// What was taken, in words, where the two part; nil where they do not, or the model has no such norms.
    package func sentence(of configuration: ModelConfiguration) -> String? {
        guard case .latent = configuration.attention, configuration.epsilon != Self.transformers.epsilon(configuration) else { return nil }
        let (taken, other) =
            self == .transformers
            ? ("1e-06, as transformers has it", "vLLM and SGLang take rms_norm_eps") : ("rms_norm_eps", "transformers takes 1e-06")
        return "inner norms of the latent attention add \(taken); \(other) (\(configuration.epsilon) here; --latent-norms)"
    }
}

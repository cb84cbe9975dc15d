import Architectures

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Llama 3's rotation as llama.cpp has it: what the frequency of every pair is divided by.
///
/// Source: ggml-org/llama.cpp:conversion/llama.py (`generate_extra_tensors`), in F32 step by step as PyTorch computes it.
extension ModelConfiguration.Rotary.Llama3 {
    /// - Parameters:
    ///   - base: of the frequencies.
    ///   - size: channels that turn.
    func factors(base: Double, size: Int) -> [Float] {
        let (factor, low, high, length) = (Float(self.factor), Float(lowFrequencyFactor), Float(highFrequencyFactor), Float(originalLength))
        return stride(from: 0, to: size, by: 2).map { channel in
            let frequency = 1 / Float(pow(base, Double(Float(channel) / Float(size))))
            let wave = Float(2 * Double.pi) / frequency
            if wave < Float(originalLength / highFrequencyFactor) { return 1 }
            if wave > Float(originalLength / lowFrequencyFactor) { return factor }
            let smooth = (length / wave - low) / (high - low)
            return 1 / ((1 - smooth) / factor + smooth)
        }
    }

    /// The rotation that has such factors. They alone do not say it: 1 and 4, as all published models have, are tried with lengths that are powers
    /// of two, theirs first.
    init?(factors: [Float], base: Double) {
        guard let greatest = factors.max(), greatest.isFinite, greatest > 1 else { return nil }
        let found = ([8192] + (5...20).map { Double(1 << $0) }).lazy.map { length in
            Self(factor: Double(greatest), lowFrequencyFactor: 1, highFrequencyFactor: 4, originalLength: length)
        }.first { $0.factors(base: base, size: factors.count * 2) == factors }
        guard let found else { return nil }
        self = found
    }
}

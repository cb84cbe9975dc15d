import Architectures

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Rotary position embedding with YaRN (arXiv 2309.00071): elements 2i and 2i + 1 turn with frequency i, or i and i + n/2 where halves turn.
struct RotaryEmbedding: Sendable {
    /// Radians a position, one for each pair.
    let frequencies: [Float]
    /// Multiplies cosine and sine.
    let attentionFactor: Float
    /// Multiplies the scores: (width of a head)^-1/2, times m^2 where YaRN is beside latent attention.
    let softmaxScale: Float

    init(_ configuration: ModelConfiguration) {
        let dimension = Double(configuration.attention.ropeSize)
        let base = configuration.rotary.base
        let plain = (0..<configuration.attention.ropeSize / 2).map { pow(base, -2 * Double($0) / dimension) }
        var scale = 1 / Double(configuration.attention.headSize).squareRoot()
        guard let yarn = configuration.rotary.yarn else {
            frequencies = plain.map { Float(configuration.rotary.llama3?.stretched($0) ?? $0) }
            attentionFactor = 1
            softmaxScale = Float(scale)
            return
        }
        func mscale(_ weight: Double) -> Double { yarn.factor <= 1 ? 1 : 0.1 * weight * log(yarn.factor) + 1 }
        /// The dimension that turns `rotations` times within the original length.
        func correction(_ rotations: Double) -> Double { dimension * log(yarn.originalLength / (rotations * 2 * Double.pi)) / (2 * log(base)) }
        let (first, last) = (correction(yarn.betaFast), correction(yarn.betaSlow))
        let low = max(yarn.truncates ? first.rounded(.down) : first, 0)
        var high = min(yarn.truncates ? last.rounded(.up) : last, dimension - 1)
        if low == high { high += 0.001 }
        frequencies = plain.enumerated().map { index, frequency in
            let ramp = min(max((Double(index) - low) / (high - low), 0), 1)
            return Float(frequency / yarn.factor * ramp + frequency * (1 - ramp))
        }
        if let factor = yarn.attentionFactor {
            attentionFactor = Float(factor)
        } else if let m = yarn.mscale, let all = yarn.mscaleAllDimensions, m != 0, all != 0 {
            attentionFactor = Float(mscale(m) / mscale(all))
        } else {
            attentionFactor = Float(mscale(1))
        }
        // Scores of latent attention only: elsewhere transformers has the factor in cosines and sines.
        if case .latent = configuration.attention, let all = yarn.mscaleAllDimensions, all != 0 { scale *= mscale(all) * mscale(all) }
        softmaxScale = Float(scale)
    }

    /// Cosines and sines of all positions below `length`: [length, pairs] each.
    func table(length: Int, precision: Precision = .f32) -> (cosines: [Float], sines: [Float]) {
        var cosines: [Float] = []
        var sines: [Float] = []
        for position in 0..<length {
            for frequency in frequencies {
                // The angle is an F32 product, as in the reference; its cosine is rounded once.
                let angle = Double(Float(position) * frequency)
                cosines.append(precision.round(Float(cos(angle)) * attentionFactor))
                sines.append(precision.round(Float(sin(angle)) * attentionFactor))
            }
        }
        return (cosines, sines)
    }

    /// What the queries of a position are multiplied by, in F32 as the reference has it.
    func queryScale(_ growth: ModelConfiguration.Rotary.QueryGrowth, at position: Int, precision: Precision = .f32) -> Float {
        let turns = (Float(position) / Float(growth.length)).rounded(.down)
        return precision.round(1 + Float(growth.beta) * Float(log(Double(1 + turns))))
    }

    /// Turns one head's rope part in place.
    func rotate(
        _ x: UnsafeMutablePointer<Float>, pairs: Int, isInterleaved: Bool, cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>,
        precision: Precision
    ) {
        for i in 0..<pairs {
            let (first, second) = isInterleaved ? (2 * i, 2 * i + 1) : (i, i + pairs)
            let (a, b) = (x[first], x[second])
            x[first] = precision.round(precision.round(a * cosines[i]) - precision.round(b * sines[i]))
            x[second] = precision.round(precision.round(b * cosines[i]) + precision.round(a * sines[i]))
        }
    }
}

extension ModelConfiguration.Rotary.Llama3 {
    /// The frequency that takes the place of a plain one.
    fileprivate func stretched(_ frequency: Double) -> Double {
        let wave = 2 * Double.pi / frequency
        if wave > originalLength / lowFrequencyFactor { return frequency / factor }
        if wave < originalLength / highFrequencyFactor { return frequency }
        let share = (originalLength / wave - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor)
        return (1 - share) * frequency / factor + share * frequency
    }
}

import CKernels

/// down(silu(gate(x)) * up(x)), dense or as a mixture of experts (arXiv 2002.05202, 2401.06066).
struct FeedForward {
    let configuration: ModelConfiguration
    let weights: ModelWeights
    /// `model.layers.N.mlp.`
    let prefix: String

    func dense(_ x: Activations, prefix: String, width: Int) throws -> Activations {
        let result = try mlps([(prefix, x)], width: width)
        return result[0]
    }

    /// Several networks at once, each on its own tokens.
    private func mlps(_ members: [(prefix: String, x: Activations)], width: Int) throws -> [Activations] {
        let gates = try members.map { try weights.product($0.prefix + "gate_proj.weight", $0.x, outputs: width) }
        let ups = try members.map { try weights.product($0.prefix + "up_proj.weight", $0.x, outputs: width) }
        try weights.run(gates + ups)
        for (gate, up) in zip(gates, ups) { gateInPlace(gate.output, up.output) }
        let downs = try zip(members, gates).map { try weights.product($0.prefix + "down_proj.weight", $1.output, outputs: configuration.hiddenSize) }
        try weights.run(downs)
        return downs.map(\.output)
    }

    /// gate = silu(gate) * up with silu(x) = x / (1 + e^-x).
    private func gateInPlace(_ gate: Activations, _ up: Activations) {
        let count = gate.rows * gate.columns
        let exponentials = Activations(rows: gate.rows, columns: gate.columns)
        for i in 0..<count { exponentials.base[i] = -gate.base[i] }
        ck_exp(exponentials.base, count)
        for i in 0..<count { gate.base[i] = gate.base[i] / (1 + exponentials.base[i]) }
        weights.precision.round(gate)
        for i in 0..<count { gate.base[i] *= up.base[i] }
        weights.precision.round(gate)
    }

    /// The intermediate width, from the stored gate projection.
    private func width(_ prefix: String) throws -> Int {
        let name = prefix + "gate_proj.weight"
        guard let weight = weights.checkpoint.weights.first(where: { $0.name == name }), weight.dimensions.count == 2 else {
            throw ReferenceFailure.missingWeight(name)
        }
        return weight.dimensions[0]
    }

    func apply(_ x: Activations, isMixture: Bool) throws -> (output: Activations, routing: Routing?) {
        guard isMixture, let router = configuration.router else {
            return (try dense(x, prefix: prefix, width: width(prefix)), nil)
        }
        let logits = try weights.exactLinear(prefix + "gate.weight", x, outputs: router.experts)
        let biasName = prefix + "gate.e_score_correction_bias"
        let bias =
            router.hasSelectionBias && weights.contains(biasName)
            ? try weights.vector(biasName, count: router.experts) : [Float](repeating: 0, count: router.experts)
        let routing = ExpertRouter(configuration: router, bias: bias).route(logits)
        let output = try experts(x, routing)
        if router.sharedExperts > 0 {
            let shared = prefix + "shared_experts."
            output.add(try dense(x, prefix: shared, width: width(shared)))
            weights.precision.round(output)
        }
        return (output, routing)
    }

    /// The routed part: sum of w_e Expert_e(x), experts in ascending order. Only experts that a token chose are read.
    private func experts(_ x: Activations, _ routing: Routing) throws -> Activations {
        var members: [Int: [(token: Int, weight: Float)]] = [:]
        for token in routing.experts.indices {
            for (expert, weight) in zip(routing.experts[token], routing.weights[token]) { members[expert, default: []].append((token, weight)) }
        }
        let output = Activations(rows: x.rows, columns: x.columns)
        let chosen = members.keys.sorted()
        guard let first = chosen.first else { return output }
        let width = try width(prefix + "experts.\(first).")
        let precision = weights.precision
        // A few experts at a time keep all workers busy without holding every expert's activations.
        for start in stride(from: 0, to: chosen.count, by: 16) {
            let batch = chosen[start..<min(start + 16, chosen.count)]
            let inputs = batch.map { (prefix: prefix + "experts.\($0).", x: x.gathered(members[$0]!.map(\.token))) }
            for (expert, result) in zip(batch, try mlps(inputs, width: width)) {
                for (row, member) in members[expert]!.enumerated() {
                    let (target, source) = (output[member.token], result[row])
                    for i in 0..<x.columns { target[i] = precision.round(target[i] + precision.round(source[i] * member.weight)) }
                }
            }
        }
        return output
    }
}

import Architectures
import CKernels
import Checkpoints
import Runtime
import Tensors

/// down(act(gate(x), up(x))), dense or as a mixture of experts (arXiv 2002.05202, 2401.06066).
struct FeedForward {
    let configuration: ModelConfiguration
    let weights: ModelWeights
    /// Tokens whose inner activations are held at once.
    let stretch: Int
    let observer: (any WeightObserver)?
    /// Tokens, from the first, that the observer sees.
    let observed: Int
    let layer: Int

    /// One of a layer's networks: its matrices, the last one down. Gate and up are two, or one with interleaved rows.
    struct Network {
        struct Matrix {
            let weight: String
            /// The name of its bias, if it has one.
            let bias: String?
        }
        let inner: [Matrix]
        let down: Matrix

        var innerNames: [String] { inner.map(\.weight) }
        var names: [String] { innerNames + [down.weight] }
    }

    private func network(_ roles: [ModuleRole], expert: Int? = nil) -> Network {
        let matrices = roles.map { role in
            let module = configuration.module(role, layer: layer, expert: expert)
            return Network.Matrix(weight: module + ".weight", bias: configuration.biased.contains(role) ? module + ".bias" : nil)
        }
        return Network(inner: Array(matrices.dropLast()), down: matrices[matrices.count - 1])
    }

    private var dense: Network { network([.gate, .up, .down]) }
    private var shared: Network { network([.sharedGate, .sharedUp, .sharedDown]) }
    private func expert(_ number: Int) -> Network { network(configuration.expertRoles, expert: number) }

    /// How many inputs at most stand for those of an expert that few tokens reach.
    static let pooledLimit = 4096

    /// One network over all tokens.
    private func run(_ network: Network, _ x: Activations, width: Int) throws -> Activations {
        guard x.rows > stretch else { return try mlps([(network, x)], width: width)[0] }
        let result = try Activations(rows: x.rows, columns: configuration.hiddenSize)
        for rows in TileSequence(rows: x.rows, step: stretch) {
            let part = try mlps([(network, x.gathered(Array(rows)))], width: width)[0]
            result[rows.lowerBound].update(from: part.base, count: rows.count * result.columns)
        }
        return result
    }

    /// Several networks at once, each on its own tokens.
    private func mlps(_ members: [(network: Network, x: Activations)], width: Int) throws -> [Activations] {
        let gates = try inner(members, width: width)
        return try products(zip(members, gates).map { ($0.network.down, $1) }, outputs: configuration.hiddenSize)
    }

    /// Several products at once, with their biases.
    private func products(_ members: [(matrix: Network.Matrix, x: Activations)], outputs: Int) throws -> [Activations] {
        let products = try members.map { try weights.product($0.matrix.weight, $0.x, outputs: outputs) }
        try weights.run(products)
        for (member, product) in zip(members, products) {
            if let bias = member.matrix.bias { try weights.addBias(bias, to: product.output) }
        }
        return products.map(\.output)
    }

    /// act(gate(x), up(x))
    private func inner(_ members: [(network: Network, x: Activations)], width: Int) throws -> [Activations] {
        if members.first?.network.inner.count == 1 {
            return try products(members.map { ($0.network.inner[0], $0.x) }, outputs: 2 * width).map(clamped)
        }
        let both = try products((0...1).flatMap { part in members.map { ($0.network.inner[part], $0.x) } }, outputs: width)
        let (gates, ups) = (Array(both.prefix(members.count)), Array(both.suffix(members.count)))
        let pairs = zip(gates, ups).map { ($0, $1) }
        let rounds: Int32 = weights.precision == .bf16 ? 1 : 0
        let rows = pairs.enumerated().flatMap { index, pair in TileSequence(rows: pair.0.rows, step: 64).map { (index, $0) } }
        try ParallelLoop.run(count: rows.count, workers: weights.workers, state: {}) { item, _ in
            let (gate, up) = pairs[rows[item].0]
            let part = rows[item].1
            ck_silu_gate(KernelLevel.active.rawValue, gate[part.lowerBound], up[part.lowerBound], part.count * gate.columns, rounds)
        }
        return gates
    }

    /// (up + 1) * gate * sigmoid(alpha * gate) of interleaved columns, clamped (huggingface/transformers:models/gpt_oss, `_apply_gate`).
    private func clamped(_ gateUp: Activations) throws -> Activations {
        guard case .clamped(let alpha, let limit) = configuration.activation else {
            throw ReferenceFailure.unknownWeight(configuration.weight(.expertGateUp, layer: layer, expert: 0))
        }
        let result = try Activations(rows: gateUp.rows, columns: gateUp.columns / 2)
        let precision = weights.precision
        try weights.forRows(gateUp.rows) { rows in
            for row in rows {
                let (source, target) = (gateUp[row], result[row])
                // A NaN stays one: it is above no limit.
                for i in 0..<result.columns {
                    let gate = source[2 * i] > limit ? limit : source[2 * i]
                    target[i] = -precision.round(gate * alpha)
                }
                ck_exp(KernelLevel.active.rawValue, target, result.columns)
                for i in 0..<result.columns {
                    let gate = source[2 * i] > limit ? limit : source[2 * i]
                    let up = source[2 * i + 1] > limit ? limit : source[2 * i + 1] < -limit ? -limit : source[2 * i + 1]
                    let swish = precision.round(gate * precision.round(1 / (1 + target[i])))
                    target[i] = precision.round(precision.round(up + 1) * swish)
                }
            }
        }
        return result
    }

    /// Shows the weights of one network to the observer, with the inputs of some tokens.
    private func observe(
        _ observer: any WeightObserver, _ network: Network, width: Int, _ x: Activations, tokens: [Int], pooled: [Int]? = nil
    ) throws {
        func pieces(_ tokens: [Int], _ body: (Activations) throws -> Void) throws {
            for part in TileSequence(rows: tokens.count, step: stretch) { try body(x.gathered(Array(tokens[part]))) }
        }
        func outer(_ tokens: [Int]) -> ObservedInputs {
            ObservedInputs(columns: x.columns, count: tokens.count) { body in try pieces(tokens, body) }
        }
        func inside(_ tokens: [Int]) -> ObservedInputs {
            ObservedInputs(columns: width, count: tokens.count) { body in try pieces(tokens) { try body(inner([(network, $0)], width: width)[0]) } }
        }
        try observer.willUse(network.innerNames, inputs: outer(tokens), pooled: pooled.map(outer))
        try observer.willUse([network.down.weight], inputs: inside(tokens), pooled: pooled.map(inside))
    }

    /// One network over all tokens, shown to the observer first.
    private func observed(_ network: Network, _ x: Activations, width: Int) throws -> Activations {
        if let observer { try observe(observer, network, width: width, x, tokens: Array(0..<observed)) }
        defer { observer?.didUse(network.names) }
        return try run(network, x, width: width)
    }

    /// The inner width: as configured, or that of the stored gate projection.
    private func width(_ network: Network, _ configured: Int? = nil) throws -> Int {
        if let configured { return configured }
        guard let dimensions = weights.dimensions(network.innerNames[0]), dimensions.count == 2 else {
            throw ReferenceFailure.missingWeight(network.innerNames[0])
        }
        return dimensions[0] / (network.inner.count == 1 ? 2 : 1)
    }

    /// `x` is [tokens, hidden], normalised. Returns [tokens, hidden], and the routing of a mixture.
    func apply(_ x: Activations) throws -> (output: Activations, routing: Routing?) {
        guard configuration.isMixture(layer), let router = configuration.router else {
            return (try observed(dense, x, width: width(dense, configuration.intermediateSize)), nil)
        }
        let logits = try weights.exactLinear(configuration.weight(.router, layer: layer), x, outputs: router.experts)
        if configuration.biased.contains(.router) {
            try weights.addExactBias(configuration.module(.router, layer: layer) + ".bias", to: logits)
        }
        let biasName = configuration.selectionBias(layer: layer)
        let bias =
            router.hasSelectionBias
            ? try weights.vector(biasName, count: router.experts) : [Float](repeating: 0, count: router.experts)
        let routing = try observer?.routing(layer: layer) ?? ExpertRouter(configuration: router, bias: bias).route(logits)
        let output = try experts(x, routing, count: router.experts)
        if router.sharedExperts > 0 {
            try weights.add(observed(shared, x, width: width(shared)), to: output)
        }
        return (output, routing)
    }

    /// The routed part: sum of w_e Expert_e(x), experts in ascending order. Only experts that a token chose are read, unless they are
    /// to be observed.
    private func experts(_ x: Activations, _ routing: Routing, count: Int) throws -> Activations {
        var members: [Int: [(token: Int, weight: Float)]] = [:]
        for token in routing.experts.indices {
            for (expert, weight) in zip(routing.experts[token], routing.weights[token]) { members[expert, default: []].append((token, weight)) }
        }
        let output = try Activations(rows: x.rows, columns: x.columns)
        let chosen = members.keys.sorted()
        guard let first = chosen.first else { return output }
        let width = try width(expert(first), configuration.expertSize)
        guard let observer else {
            // A few experts at a time keep all workers busy without holding every expert's activations.
            for batch in Self.batches(chosen.map { ($0, members[$0] ?? []) }, stretch: stretch) { try add(batch, x, width, to: output) }
            return output
        }
        let step = max(1, ceilingDivide(observed, Self.pooledLimit))
        let pooled = Array(stride(from: 0, to: observed, by: step))
        for number in 0..<count {
            let network = expert(number)
            let share = members[number] ?? []
            try observe(observer, network, width: width, x, tokens: share.map(\.token).filter { $0 < observed }, pooled: pooled)
            for batch in Self.batches([(number, share)], stretch: stretch) { try add(batch, x, width, to: output) }
            observer.didUse(network.names)
        }
        return output
    }

    private func add(_ batch: [Share], _ x: Activations, _ width: Int, to output: Activations) throws {
        let inputs = try batch.map { (network: expert($0.expert), x: try x.gathered($0.members.map(\.token))) }
        let results = try mlps(inputs, width: width)
        let parts = zip(batch, results).map { (members: $0.members, result: $1) }
        let precision = weights.precision
        // Stripes of columns in parallel: every element is added to by one worker, experts in order.
        let stripe = 64
        try ParallelLoop.run(count: ceilingDivide(x.columns, stripe), workers: weights.workers, state: {}) { index, _ in
            let columns = index * stripe..<min(x.columns, (index + 1) * stripe)
            for part in parts {
                for (row, member) in part.members.enumerated() {
                    let (target, source) = (output[member.token], part.result[row])
                    for i in columns { target[i] = precision.round(target[i] + precision.round(source[i] * member.weight)) }
                }
            }
        }
    }

    typealias Share = (expert: Int, members: [(token: Int, weight: Float)])

    /// Experts in order, up to 16 at once and no more tokens than the stretch; an expert with more tokens is taken in pieces.
    private static func batches(_ shares: [Share], stretch: Int) -> [[Share]] {
        var batches: [[Share]] = [[]]
        var count = 0
        for share in shares {
            for part in TileSequence(rows: share.members.count, step: stretch) {
                if batches[batches.count - 1].count == 16 || count > 0 && count + part.count > stretch {
                    batches.append([])
                    count = 0
                }
                batches[batches.count - 1].append((share.expert, Array(share.members[part])))
                count += part.count
            }
        }
        return batches
    }
}

/// The canonical names of a model's weights, from its configuration.
package struct ExpectedWeights {
    package private(set) var required: [String] = []
    /// Names that released checkpoints have or lack without harm.
    package private(set) var optional: [String] = []

    package init(_ c: ModelConfiguration) {
        required = [c.weight(.embedding), c.weight(.finalNorm)]
        // A tied head may be stored all the same.
        if c.tiesHead { optional.append(c.weight(.head)) } else { required.append(c.weight(.head)) }
        for layer in 0..<min(c.layers, 1 << 12) {
            required += Self.layer(c, layer)
            if let indexer = c.indexer {
                // A layer that shares another's choice of tokens needs no indexer, and may have one.
                if indexer.sharingLayers.contains(layer) { optional += Self.indexer(c, layer) } else { required += Self.indexer(c, layer) }
            }
            if let frequencies = c.architecture.module(.rotaryFrequencies, layer: layer) { optional.append(frequencies + ".inv_freq") }
        }
        let prediction: [ModuleRole] = [
            .predictionJoin, .predictionEmbeddingNorm, .predictionStateNorm, .predictionEmbedding, .predictionNorm, .predictionHead,
        ]
        for module in 0..<min(c.mtpModules, 16) {
            // Releases without the module exist although the configuration counts it; `verify` against the source names a loss.
            let layer = c.layers + module
            optional += Self.layer(c, layer) + prediction.map { c.weight($0, layer: layer) }
            if c.indexer != nil { optional += Self.indexer(c, layer) }
        }
    }

    private static func indexer(_ c: ModelConfiguration, _ layer: Int) -> [String] {
        ModelConfiguration.Indexer.roles.map { c.weight($0, layer: layer) } + [c.module(.indexerKeyNorm, layer: layer) + ".bias"]
    }

    private static func layer(_ c: ModelConfiguration, _ layer: Int) -> [String] {
        var roles: [ModuleRole] = [.inputNorm, .postAttentionNorm]
        switch c.attention {
        case .latent(let latent):
            roles += [.keyValueDown, .keyValueNorm, .keyValueUp, .output]
            roles += latent.queryRank == nil ? [.query] : [.queryDown, .queryLatentNorm, .queryUp]
        case .grouped(let grouped):
            roles += [.query, .key, .value, .output]
            if grouped.norms != .none { roles += [.queryHeadNorm, .keyHeadNorm] }
        }
        var names: [String] = []
        let outer = c.biased.filter { !ModuleRole.routedExpert.contains($0) && ($0 != .router || c.isMixture(layer)) }
        var buffers = outer.map { c.module($0, layer: layer) + ".bias" }
        if let sinks = c.architecture.sinksName(layer: layer) { buffers.append(sinks) }
        if let router = c.router, c.isMixture(layer) {
            roles.append(.router)
            for expert in 0..<min(router.experts, 1 << 14) {
                names += c.expertRoles.map { c.weight($0, layer: layer, expert: expert) }
                for role in c.expertRoles where c.biased.contains(role) { buffers.append(c.module(role, layer: layer, expert: expert) + ".bias") }
            }
            if router.sharedExperts > 0 { roles += [.sharedGate, .sharedUp, .sharedDown] }
            if router.hasSelectionBias { buffers.append(c.selectionBias(layer: layer)) }
        } else {
            roles += [.gate, .up, .down]
        }
        return roles.map { c.weight($0, layer: layer) } + names + buffers
    }
}

extension ModelConfiguration {
    /// The canonical name of the bias that takes part in the choice of experts.
    package func selectionBias(layer: Int) -> String {
        architecture.selectionBias?.replacing("#", with: "\(layer)") ?? "selection bias of \(architecture.name)"
    }
}

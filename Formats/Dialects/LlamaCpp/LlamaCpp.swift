import Architectures
import StrictJSON
import Tensors

/// llama.cpp's names, stacks and types (ggml-org/llama.cpp:conversion/base.py, src/llama-quant.cpp): experts stacked, a latent's projection split by
/// head, norms and routers as F32, every other weight in the type that the rules of the file's type give it.
package struct LlamaCpp: Dialect {
    package let file: LlamaCppFileType
    /// Whether codes are chosen with an importance matrix, which changes some rules.
    package var hasImportance = false
    /// Whether the modules that predict further tokens are written, where llama.cpp loads them; nil for as its converter has it.
    package var keepsPrediction: Bool?
    /// llama.cpp's name of the way in which the tokenizer cuts text; nil to find it.
    package var preTokenizer: String?

    package init(_ file: LlamaCppFileType) { self.file = file }

    package var name: String { "llama.cpp" }
    package var readers: String { "llama.cpp" }
    package var format: String { "gguf" }
    package var container: String? { "gguf" }
    package var isSelfDescribing: Bool { true }

    /// What the rules leave alone is said by ``layout(of:as:in:)``.
    package func exemption(of module: String, dimensions: [Int], roles: ModelRoles, from layout: (any WeightLayout)?) -> ModelRoles.Exemption? { nil }

    package func pieces(of weight: LogicalTensor, in model: DialectModel) throws(DialectFailure) -> [StoredPiece] {
        let module = weight.module
        guard let architecture = model.roles.architecture, let known = LlamaCppArchitecture.named(architecture) else {
            throw DialectFailure(
                tensor: weight.name,
                reason: "llama.cpp's names of the architecture \(model.roles.architecture?.name ?? "unknown") are not known here")
        }
        // Towers are for a file of their own, which other programs write.
        if architecture.carries(weight.name) { return [] }
        if weight.name == LlamaCppNames.rotaryFactors { return [StoredPiece(module: weight.module)] }
        if model.isBeyondLayers(weight.name, takesPrediction: holdsPrediction(known)) { return [] }
        if let layer = WeightName.layer(weight.name), weight.name == architecture.selectionBiasName(layer: layer) {
            // Told from the router's own weight by its leaf.
            return known.module(ModulePlace(.router, layer: layer)).map { [StoredPiece(module: $0)] } ?? []
        }
        if let layer = WeightName.layer(weight.name), weight.name == architecture.sinksName(layer: layer) {
            return [StoredPiece(module: "blk.\(layer).\(LlamaCppNames.sinks)")]
        }
        guard let place = architecture.place(of: module) else {
            throw DialectFailure(tensor: weight.name, reason: "llama.cpp has no tensor for it")
        }
        if place.role == .expertGateUp, let layer = place.layer, let expert = place.expert {
            return zip(GptOssExperts.halves(of: weight), [ModuleRole.expertGate, .expertUp]).compactMap { half, role in
                known.module(ModulePlace(role, layer: layer)).map { StoredPiece(module: $0, view: half.view, stack: (expert, model.experts)) }
            }
        }
        if place.role == .rotaryFrequencies { return [] }
        if known.pairsHalves, let stored = known.module(place), let heads = [.query: model.heads, .key: model.keyHeads][place.role] {
            guard heads > 0, weight.shape.rows % heads == 0, weight.shape.rows / heads % 2 == 0 else {
                throw DialectFailure(tensor: weight.name, reason: "its \(weight.dimensions) are not \(heads) heads of pairs of rows")
            }
            return [StoredPiece(module: stored, view: WeightView(pairingHalvesOf: weight.shape.rows / heads, of: weight.shape))]
        }
        if place.role == .head, model.tiesHead { return [] }
        if place.role == .keyValueUp, let layer = place.layer {
            guard weight.dimensions.count == 2, model.heads > 0, weight.dimensions[0] == model.heads * (model.nope + model.value) else {
                throw DialectFailure(
                    tensor: weight.name, reason: "its \(weight.dimensions) are not \(model.heads) heads of \(model.nope) and \(model.value) rows")
            }
            return (0..<model.heads).flatMap { head in
                let start = head * (model.nope + model.value)
                let middle = start + model.nope
                return [
                    StoredPiece(
                        module: "blk.\(layer).\(LlamaCppNames.halves[0])",
                        view: WeightView(rows: start..<middle, of: weight.shape, isTransposed: true), stack: (head, model.heads)),
                    StoredPiece(
                        module: "blk.\(layer).\(LlamaCppNames.halves[1])",
                        view: WeightView(rows: middle..<middle + model.value, of: weight.shape, isTransposed: false), stack: (head, model.heads)),
                ]
            }
        }
        guard let stored = known.module(place) else {
            throw DialectFailure(tensor: weight.name, reason: "llama.cpp has no tensor for its role (\(place.role.rawValue))")
        }
        guard let expert = place.expert else { return [StoredPiece(module: stored)] }
        return [StoredPiece(module: stored, stack: (expert, model.experts))]
    }

    /// Whether the modules that predict further tokens are blocks of the file.
    private func holdsPrediction(_ known: LlamaCppArchitecture) -> Bool { keepsPrediction ?? known.holdsPrediction }

    package func madeTensors(of config: JSONValue, roles: ModelRoles) throws -> [MadeTensor] {
        guard let architecture = roles.architecture, LlamaCppArchitecture.named(architecture)?.pairsHalves == true else { return [] }
        let model = try ModelConfiguration(config: config)
        return model.rotary.llama3.map { rotation in
            [MadeTensor(name: LlamaCppNames.rotaryFactors, values: rotation.factors(base: model.rotary.base, size: model.attention.ropeSize))]
        } ?? []
    }

    /// What llama.cpp calls an architecture; nil where its names are not known here.
    package static func name(of architecture: Architecture) -> String? { LlamaCppArchitecture.named(architecture)?.name }

    /// The stored module of a canonical one, and which of its matrices it is; nil where llama.cpp has none.
    package static func place(of module: String, roles: ModelRoles) -> (name: String, matrix: Int)? {
        guard let architecture = roles.architecture, let known = LlamaCppArchitecture.named(architecture),
            let place = architecture.place(of: module)
        else { return nil }
        return known.module(place).map { ($0, place.expert ?? 0) }
    }

    package func storedName(of tensor: String, isStacked: Bool) -> String {
        guard let (place, layer, name, leaf) = LlamaCppNames.parse(tensor), let layer else { return tensor }
        if name == LlamaCppNames.sinks { return "blk.\(layer).\(name).weight" }
        guard place?.role == .router, leaf != "weight", leaf != "bias" else { return tensor }
        return "blk.\(layer).\(LlamaCppNames.selectionBias).bias"
    }

    /// Plain F32 for vectors, norms, routers and all that is no weight; for the rest what the file's rules say.
    package func layout(of piece: StoredPiece, leaf: String, as dimensions: [Int], from stored: (any WeightLayout)?, in model: DialectModel) -> (
        layout: any WeightLayout, reason: String
    )? {
        let name = piece.module + "." + leaf
        let role = LlamaCppNames.parse(name)?.place?.role
        if dimensions.count < 2 || leaf != "weight" || name.hasSuffix("_norm.weight") || role == .router
            || role == .indexerHeadWeights && file.isPlain
        {
            return (DenseLayout(.f32), "llama.cpp keeps it in F32")
        }
        // The converter takes gpt-oss's codes as they are, whatever the type of the rest.
        if file.isPlain, model.joinedExperts != nil, piece.stack != nil, Self.holdsMXFP4(stored), let blocks = GGMLBlockLayout(.mxfp4Block) {
            return (blocks, "--to \(file.name): MXFP4 stays what it is")
        }
        // And all of NVFP4's, with the scale of the tensor beside them.
        if file.isPlain, stored is NVFP4Layout || stored is NVFP4BlockLayout, NVFP4BlockLayout().obstacle(to: MatrixShape(dimensions)) == nil {
            return (NVFP4BlockLayout(), "--to \(file.name): NVFP4 stays what it is")
        }
        let known = model.roles.architecture.flatMap(LlamaCppArchitecture.named)
        let further = known.map(holdsPrediction) == true ? model.predictionLayers : 0
        let shape = LlamaCppFileType.Model(
            layers: min(model.layers, 1 << 24) + further, experts: model.experts, queryGroups: model.queryGroups, tiesHead: model.tiesHead,
            hasImportance: hasImportance, isLlama70B: known?.name == "llama" && model.layers == 80 && model.queryGroups > 1)
        let type = file.type(of: name, columns: dimensions[dimensions.count - 1], isStack: piece.stack.map { $0.count > 1 } ?? false, in: shape)
        let layout: any WeightLayout = GGMLBlockLayout(type).map { $0 as any WeightLayout } ?? DenseLayout(type)
        return (layout, type == file.type ? "--to \(file.name)" : "--to \(file.name): its rules say \(type.rawValue)")
    }

    private static func holdsMXFP4(_ layout: (any WeightLayout)?) -> Bool {
        if let pair = layout as? PairedRowsLayout { return holdsMXFP4(pair.gate) && holdsMXFP4(pair.up) }
        return layout is MXFP4Layout || (layout as? GGMLBlockLayout)?.type == .mxfp4Block
    }

    package func descriptions(of model: DescribedModel, files: Int) throws -> [FileMetadata] {
        let known = model.roles.architecture.flatMap(LlamaCppArchitecture.named)
        let holds = known.map(holdsPrediction) ?? false
        if holds, let known, !known.readsPrediction {
            throw DialectFailure(tensor: "--with-mtp", reason: "llama.cpp loads no multi-token prediction of its architecture \(known.name)")
        }
        let metadata = try LlamaCppMetadata(file, model, holdsPrediction: holds, preTokenizer: preTokenizer)
        let whole = FileMetadata(entries: metadata.entries, notes: metadata.notes, warnings: metadata.warnings)
        if files == 1 { return [whole] }
        guard let count = UInt16(exactly: files), let tensors = Int32(exactly: model.tensors.count) else {
            throw DialectFailure(tensor: "--shard-size", reason: "would cut the model into \(files) files, more than llama.cpp counts")
        }
        return (0..<count).map { number in
            var part = number == 0 ? whole : FileMetadata()
            part.entries += LlamaCppSplit.entries(part: number, of: count, tensors: tensors)
            return part
        }
    }

    /// llama-quantize's order: what is outside the layers, then layer by layer, by name.
    package func order(_ tensors: [TensorDeclaration]) -> [Int] {
        let keys = tensors.map { tensor -> (layer: Int, name: String) in (LlamaCppNames.parse(tensor.name)?.layer ?? -1, tensor.name) }
        return tensors.indices.sorted { a, b in
            keys[a].layer != keys[b].layer ? keys[a].layer < keys[b].layer : keys[a].name.isBefore(keys[b].name)
        }
    }
}

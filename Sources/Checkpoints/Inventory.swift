import Architectures
import Formats
import StrictJSON
import Tensors

/// What a checkpoint consists of: the figures behind `recast inspect`.
public struct Inventory: Sendable {
    /// The weights of one layout.
    public struct LayoutRow: Sendable {
        /// Its name.
        public var layout: String
        /// How many.
        public var weights = 0
        /// Their values, scales not counted.
        public var values = 0
        /// Their stored bytes, scales counted.
        public var bytes = 0
    }

    /// Weights whose names differ in numbers only.
    public struct KindRow: Sendable {
        /// The names, `*` for numbers.
        public var kind: String
        /// Of the first.
        public var shape: [Int]
        /// Their layouts' names.
        public var layouts: [String]
        /// How many.
        public var weights = 0
        /// Their stored bytes.
        public var bytes = 0
    }

    /// `architectures` of config.json.
    public var architecture: String
    /// `model_type` of config.json.
    public var modelType: String
    /// `num_hidden_layers`; nil if config.json says none.
    public var layers: Int?
    /// Routed experts of a layer.
    public var routedExperts: Int?
    /// Routed experts that a token goes to.
    public var expertsPerToken: Int?
    /// Stored tensors.
    public var tensors = 0
    /// Logical weights.
    public var weights = 0
    /// All values, scales not counted.
    public var parameters = 0
    /// Values of layers beyond `num_hidden_layers`.
    public var mtpParameters = 0
    /// Values that one token uses: without MTP layers, with the chosen share of the routed experts. Nil without expert counts.
    public var activeParameters: Int?
    /// Stored bytes of all tensors.
    public var dataBytes = 0
    /// Tensor files.
    public var shards: Int
    /// A row for each layout, the largest first.
    public var byLayout: [LayoutRow] = []
    /// A row for each kind of weight, the largest first.
    public var byKind: [KindRow] = []
    package var largest: [(name: String, shape: [Int], layout: String, bytes: Int)] = []
    /// What is odd, a sentence each.
    public var findings: [String] = []
    /// What quantization_config says: its method, or "none".
    public var quantization: String

    /// Opens a checkpoint, a directory, a tensor file or an index file, and counts. Reads headers only.
    /// - Throws: a ``Failure`` that says what is wrong with it.
    public init(at path: String) throws { self.init(of: try Checkpoint(opening: path)) }

    package init(of checkpoint: Checkpoint) {
        let config = checkpoint.config["text_config"]?.object.map(JSONValue.object) ?? checkpoint.config
        architecture = checkpoint.config["architectures"]?.array?.first?.string ?? "unknown"
        modelType = checkpoint.config["model_type"]?.string ?? "unknown"
        layers = config["num_hidden_layers"]?.int
        routedExperts = ["n_routed_experts", "num_experts", "num_local_experts"].lazy.compactMap { config[$0]?.int }.first
        expertsPerToken = config["num_experts_per_tok"]?.int
        shards = Set(checkpoint.files.flatMap(\.files).map(\.path)).count
        quantization = checkpoint.quantization.map { $0.method.isEmpty ? "quantization_config without quant_method" : $0.method } ?? "none"
        count(checkpoint)
        largest = checkpoint.weights.sorted { ($0.storedBytes, $1.name) > ($1.storedBytes, $0.name) }.prefix(5)
            .map { ($0.name, $0.dimensions, $0.layoutName, $0.storedBytes) }
        findings = checkpoint.source.notes + checkpoint.unpaired.prefix(8).map(\.description) + checkpoint.findings.map(\.description)
        if checkpoint.unpaired.count > 8 { findings.append("\(checkpoint.unpaired.count - 8) more tensors without their scales") }
    }

    private mutating func count(_ checkpoint: Checkpoint) {
        var layoutRows: [String: LayoutRow] = [:]
        var kindRows: [String: KindRow] = [:]
        var routed = 0
        for weight in checkpoint.weights {
            let values = weight.count
            let bytes = weight.storedBytes
            let layout = weight.layoutName
            weights += 1
            tensors += weight.stored.count
            parameters += values
            dataBytes += bytes
            let isMTP = layers.map { count in WeightName.layer(weight.name).map { $0 >= count } ?? false } ?? false
            if isMTP { mtpParameters += values } else if WeightName.isRoutedExpert(weight.name) { routed += values }
            layoutRows[layout, default: LayoutRow(layout: layout)].add(values, bytes)
            let kind = WeightName.kind(weight.name)
            kindRows[kind, default: KindRow(kind: kind, shape: weight.dimensions, layouts: [])].add(layout, bytes)
        }
        byLayout = layoutRows.values.sorted { ($0.bytes, $1.layout) > ($1.bytes, $0.layout) }
        byKind = kindRows.values.sorted { ($0.bytes, $1.kind) > ($1.bytes, $0.kind) }
        if let routedExperts, let expertsPerToken, routedExperts > 0 {
            // A number that no model has is no reason to trap.
            let (active, over) = (routed / routedExperts).multipliedReportingOverflow(by: expertsPerToken)
            if !over, active >= 0, active <= parameters { activeParameters = parameters - mtpParameters - routed + active }
        }
    }

    package var json: JSONObject {
        [
            "schema": .int(1), "architecture": .string(architecture), "model_type": .string(modelType),
            "quantization": .string(quantization), "tensors": .int(tensors), "weights": .int(weights), "parameters": .int(parameters),
            "mtp_parameters": .int(mtpParameters), "active_parameters": activeParameters.map(JSONValue.int) ?? .null,
            "data_bytes": .int(dataBytes), "shards": .int(shards),
            "layouts": .array(
                byLayout.map {
                    .object(["layout": .string($0.layout), "weights": .int($0.weights), "values": .int($0.values), "bytes": .int($0.bytes)])
                }),
            "kinds": .array(
                byKind.map {
                    .object([
                        "kind": .string($0.kind), "weights": .int($0.weights), "shape": .array($0.shape.map(JSONValue.int)),
                        "layouts": .array($0.layouts.map(JSONValue.string)), "bytes": .int($0.bytes),
                    ])
                }),
            "largest": .array(
                largest.map {
                    .object([
                        "name": .string($0.name), "shape": .array($0.shape.map(JSONValue.int)), "layout": .string($0.layout),
                        "bytes": .int($0.bytes),
                    ])
                }),
            "findings": .array(findings.map(JSONValue.string)),
        ]
    }
}

extension Inventory.LayoutRow {
    fileprivate mutating func add(_ values: Int, _ bytes: Int) {
        weights += 1
        self.values += values
        self.bytes += bytes
    }
}

extension Inventory.KindRow {
    fileprivate mutating func add(_ layout: String, _ bytes: Int) {
        weights += 1
        self.bytes += bytes
        if !layouts.contains(layout) { layouts.append(layout) }
    }
}

import StrictJSON

extension ModelConfiguration.Rotary {
    /// Older configurations say `rope_scaling` and `rope_theta`, newer ones `rope_parameters` with both inside; one may hold both if they agree.
    /// - Parameter isInterleaved: whether pairs lie side by side.
    ///   - others: fields of the description that the architecture reads by itself.
    init(_ reader: ConfigurationReader, isInterleaved: Bool, others: Set<String> = []) throws {
        let root = reader.root
        for name in ["rope_parameters", "rope_scaling"] {
            guard let value = root[name], value != .null else { continue }
            guard let object = value.object else { throw ArchitectureFailure.badField(name, reason: "is no object") }
            for field in ["rope_type", "type"] {
                if let kind = object[field], kind.string == nil { throw ArchitectureFailure.badField("\(name).\(field)", reason: "is no text") }
            }
            // Something is scaled, and nothing says how.
            if object["factor"] != nil, object["rope_type"] == nil, object["type"] == nil {
                throw ArchitectureFailure.missingField("\(name).rope_type")
            }
        }
        let described = ["rope_parameters", "rope_scaling"].compactMap { name in
            root[name]?.object.flatMap { $0.members.isEmpty ? nil : (name: name, object: $0) }
        }
        if described.count == 2, let key = Self.difference(described[0].object, described[1].object, root["rope_theta"]) {
            throw ArchitectureFailure.badField("rope_parameters", reason: "and rope_scaling say different things of \(key)")
        }
        let parameters = described.first?.object
        func number(_ field: String) throws -> Double? {
            guard let value = parameters?[field], value != .null else { return nil }
            guard let number = value.double, number.isFinite else {
                throw ArchitectureFailure.badField("\(described[0].name).\(field)", reason: "is no number")
            }
            return number
        }
        let outer = try reader.number("rope_theta")
        let inner = try number("rope_theta")
        if let outer, let inner, outer != inner { throw ArchitectureFailure.badField("rope_theta", reason: "is given twice: \(outer) and \(inner)") }
        base = inner ?? outer ?? 10000
        guard base > 1 else { throw ArchitectureFailure.badField("rope_theta", reason: "is \(base)") }
        self.isInterleaved = isInterleaved
        let kind = parameters?["rope_type"]?.string ?? parameters?["type"]?.string ?? "default"
        if let one = parameters?["rope_type"]?.string, let other = parameters?["type"]?.string, one != other {
            throw ArchitectureFailure.badField("rope_scaling", reason: "says rope_type \(one) and type \(other)")
        }
        let known = Set<String>([
            "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
            "attention_factor", "low_freq_factor", "high_freq_factor", "truncate", "partial_rotary_factor",
        ]).union(others)
        // A field that is false may switch off what is on by default, as `truncate` does.
        if let field = parameters?.members.first(where: { !known.contains($0.key) && $0.value != .null })?.key {
            throw ArchitectureFailure.badField("rope_scaling.\(field)", reason: "is not known here")
        }
        var truncates = true
        if let value = parameters?["truncate"], value != .null {
            guard let flag = value.bool else { throw ArchitectureFailure.badField("rope_scaling.truncate", reason: "is neither true nor false") }
            truncates = flag
            guard kind == "yarn" || flag else { throw ArchitectureFailure.badField("rope_scaling.truncate", reason: "is not known of \(kind)") }
        }
        if others.contains("partial_rotary_factor") == false, try number("partial_rotary_factor").map({ $0 != 1 }) ?? false {
            throw ArchitectureFailure.badField("rope_scaling.partial_rotary_factor", reason: "is not 1, and all of a head turns here")
        }
        guard parameters != nil, kind != "default" else { return }
        guard kind == "yarn" || kind == "llama3" else { throw ArchitectureFailure.badField("rope_scaling", reason: "is of the unknown type \(kind)") }
        guard let factor = try number("factor") else { throw ArchitectureFailure.missingField("rope_scaling.factor") }
        guard factor > 0 else { throw ArchitectureFailure.badField("rope_scaling.factor", reason: "is \(factor)") }
        if kind == "llama3" {
            guard try number("mscale_all_dim") ?? 0 == 0 else {
                throw ArchitectureFailure.badField("rope_scaling.mscale_all_dim", reason: "is not known of llama3")
            }
            guard let low = try number("low_freq_factor"), let high = try number("high_freq_factor"),
                let length = try number("original_max_position_embeddings")
            else { throw ArchitectureFailure.missingField("rope_scaling.low_freq_factor, high_freq_factor or original_max_position_embeddings") }
            guard low > 0, high > low, length > 0 else {
                throw ArchitectureFailure.badField("rope_scaling", reason: "holds a length or a factor that cannot be")
            }
            llama3 = Llama3(factor: factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalLength: length)
            return
        }
        if let field = ["low_freq_factor", "high_freq_factor"].first(where: { parameters?[$0] != nil }) {
            throw ArchitectureFailure.badField("rope_scaling.\(field)", reason: "is not known of yarn")
        }
        yarn = YaRN(
            factor: factor,
            originalLength: try number("original_max_position_embeddings") ?? reader.number("max_position_embeddings") ?? 4096,
            betaFast: try number("beta_fast") ?? 32, betaSlow: try number("beta_slow") ?? 1, mscale: try number("mscale"),
            mscaleAllDimensions: try number("mscale_all_dim"), attentionFactor: try number("attention_factor"), truncates: truncates)
        guard let yarn, yarn.originalLength > 0, yarn.betaFast > 0, yarn.betaSlow > 0 else {
            throw ArchitectureFailure.badField("rope_scaling", reason: "holds a length or a number of turns that is not above 0")
        }
    }

    /// What two descriptions say differently, or only one of them: transformers takes the second whole, others the first.
    private static func difference(_ one: JSONObject, _ other: JSONObject, _ theta: JSONValue?) -> String? {
        func value(_ key: String, _ object: JSONObject) -> JSONValue? {
            let found = object[key] ?? (key == "rope_type" ? object["type"] : key == "rope_theta" ? theta : nil)
            return found == .null ? nil : found
        }
        let keys = (one.members + other.members).map { $0.key == "type" ? "rope_type" : $0.key }
        return keys.first { key in
            guard let first = value(key, one), let second = value(key, other) else { return value(key, one) != nil || value(key, other) != nil }
            return first.double != second.double || first.double == nil && first != second
        }
    }
}

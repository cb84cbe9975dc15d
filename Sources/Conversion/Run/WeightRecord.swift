import StrictJSON

/// What the audit found about one finished weight: it goes to the journal and to the manifest.
struct WeightRecord: Sendable, Equatable {
    /// SHA-256 of the stored bytes, in the order of the planned tensors.
    var digests: [String]
    /// Values that are infinite or NaN, in source and output alike.
    var notFinite = 0
    /// Against the source's values; only for quantized weights.
    var error: ErrorFigures?

    struct ErrorFigures: Sendable, Equatable {
        /// 10 log10(sum w^2 / sum (w - w')^2); infinite when nothing differs.
        var sqnr: Double
        var maximum: Double
        /// The source's largest magnitude.
        var amax: Double
    }

    var json: JSONObject {
        var object: JSONObject = ["sha256": .array(digests.map(JSONValue.string))]
        if notFinite > 0 { object["not_finite"] = .int(notFinite) }
        if let error {
            object["sqnr_db"] = .double(error.sqnr)
            object["max_abs"] = .double(error.maximum)
            object["amax"] = .double(error.amax)
        }
        return object
    }

    init(digests: [String], notFinite: Int = 0, error: ErrorFigures? = nil) {
        self.digests = digests
        self.notFinite = notFinite
        self.error = error
    }

    init?(json: JSONValue) {
        guard let digests = json["sha256"]?.array?.compactMap(\.string) else { return nil }
        self.digests = digests
        notFinite = json["not_finite"]?.int ?? 0
        if let maximum = json["max_abs"]?.double, let amax = json["amax"]?.double {
            error = ErrorFigures(sqnr: json["sqnr_db"]?.double ?? .infinity, maximum: maximum, amax: amax)
        }
    }
}

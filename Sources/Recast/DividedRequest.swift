import Conversion
import Foundation
import StrictJSON

/// A conversion's request as the parts of a divided run leave it for the one that joins them: all that the plan depends on.
enum DividedRequest {
    /// - Parameter address: of the source, with its commit where it has one.
    static func document(_ request: ConversionRequest, source address: String) -> JSONValue {
        var document: JSONObject = [
            "source": .string(address.contains("://") ? address : absolute(request.source)), "to": .string(request.layout),
            "quantizer": .string(request.quantizer),
            "keeps_byte_order": .bool(request.keepsByteOrder), "requires_exact": .bool(request.requiresExact),
            "allows_non_finite": .bool(request.options.allowsNonFinite),
        ]
        document["recipe"] = request.recipe.map { .string(absolute($0)) }
        document["statistics"] = request.statistics.map { .string(absolute($0)) }
        document["container"] = request.container.map(JSONValue.string)
        document["hdf5_filter"] = request.hdf5Filter.map(JSONValue.string)
        document["names"] = request.names.map(JSONValue.string)
        document["pre_tokenizer"] = request.preTokenizer.map(JSONValue.string)
        document["keeps_prediction"] = request.keepsPrediction.map(JSONValue.bool)
        document["model_parallel"] = request.modelParallel.map(JSONValue.int)
        document["shard_size"] = request.shardSize.map(JSONValue.int)
        return .object(document)
    }

    static func request(_ document: JSONValue, destination: String) throws -> ConversionRequest {
        guard let source = document["source"]?.string, let layout = document["to"]?.string, let quantizer = document["quantizer"]?.string else {
            throw ConversionFailure.usage("\(destination): its parts do not say what they were made from")
        }
        var request = ConversionRequest(source, to: destination, layout: layout)
        request.quantizer = quantizer
        request.keepsByteOrder = document["keeps_byte_order"]?.bool ?? false
        request.requiresExact = document["requires_exact"]?.bool ?? false
        request.options.allowsNonFinite = document["allows_non_finite"]?.bool ?? false
        request.recipe = document["recipe"]?.string
        request.statistics = document["statistics"]?.string
        request.container = document["container"]?.string
        request.hdf5Filter = document["hdf5_filter"]?.string
        request.names = document["names"]?.string
        request.preTokenizer = document["pre_tokenizer"]?.string
        request.keepsPrediction = document["keeps_prediction"]?.bool
        request.modelParallel = document["model_parallel"]?.int
        request.shardSize = document["shard_size"]?.int
        return request
    }

    /// Whoever joins the parts may stand in another directory.
    private static func absolute(_ path: String) -> String {
        path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
    }
}

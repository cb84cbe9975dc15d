import Conversion
import Foundation
import Parity
import Quantization
import StrictJSON

/// One way to store the model, and how it behaves.
package struct SweepPoint: Sendable, Equatable {
    /// What was evaluated: `int4-g128 by gptq`, or a recipe's name.
    package var name: String
    /// The layout's name, and the recipe's file if there is one.
    package var layout: String
    package var recipe: String?
    package var quantizer: QuantizerName
    /// Tensor files of the whole output.
    package var outputBytes: Int
    /// Stored bits of a weight, over all weights that are quantized, scales and zero points included.
    package var bits: Double
    /// Quantized weights' share of all values.
    package var quantizedShare: Double
    package var kld: Double
    package var kldMedian: Double
    package var kld99: Double
    package var top1: Double
    package var referencePerplexity: Double
    package var perplexity: Double
    /// The arguments of `recast convert` that make this checkpoint, source and destination left out.
    package var arguments: String

    init(
        name: String, layout: String, recipe: String?, quantizer: QuantizerName, plan: ConversionPlan, size: PlanSize,
        comparison: PredictionComparison, arguments: String
    ) {
        self.name = name
        self.layout = layout
        self.recipe = recipe
        self.quantizer = quantizer
        outputBytes = plan.outputBytes
        bits = size.bits
        quantizedShare = size.share
        kld = comparison.kld.mean
        kldMedian = comparison.kld.median
        kld99 = comparison.kld.p99
        top1 = comparison.top1
        referencePerplexity = comparison.referencePerplexity
        perplexity = comparison.candidatePerplexity
        self.arguments = arguments
    }

    /// Whether its figures are numbers.
    package var isJudged: Bool { kld.isFinite && kld99.isFinite && top1.isFinite }

    package var json: JSONObject {
        var object: JSONObject = ["name": .string(name), "layout": .string(layout), "quantizer": .string(quantizer.rawValue)]
        if let recipe { object["recipe"] = .string(recipe) }
        for (key, value) in [
            ("bits", bits), ("quantized_share", quantizedShare), ("kld", kld), ("kld_median", kldMedian), ("kld_p99", kld99), ("top1", top1),
            ("perplexity_reference", referencePerplexity), ("perplexity", perplexity),
        ] { object[key] = .double(value) }
        object["output_bytes"] = .int(outputBytes)
        object["arguments"] = .string(arguments)
        return object
    }

    init?(json: JSONValue) {
        guard let name = json["name"]?.string, let layout = json["layout"]?.string,
            let quantizer = json["quantizer"]?.string.flatMap(QuantizerName.init(rawValue:)), let bytes = json["output_bytes"]?.int,
            let arguments = json["arguments"]?.string
        else { return nil }
        func figure(_ key: String) -> Double { json[key]?.double ?? .nan }
        self.name = name
        self.layout = layout
        recipe = json["recipe"]?.string
        self.quantizer = quantizer
        outputBytes = bytes
        (bits, quantizedShare) = (figure("bits"), figure("quantized_share"))
        (kld, kldMedian, kld99, top1) = (figure("kld"), figure("kld_median"), figure("kld_p99"), figure("top1"))
        (referencePerplexity, perplexity) = (figure("perplexity_reference"), figure("perplexity"))
        self.arguments = arguments
    }

    static let columns = "name,layout,recipe,quantizer,bits,output_bytes,kld,kld_median,kld_p99,top1,perplexity_reference,perplexity,arguments"

    var csv: String {
        func quoted(_ text: String) -> String { "\"" + text.replacing("\"", with: "\"\"") + "\"" }
        return [
            quoted(name), layout, quoted(recipe ?? ""), quantizer.rawValue, "\(bits)", "\(outputBytes)", "\(kld)", "\(kldMedian)", "\(kld99)",
            "\(top1)", "\(referencePerplexity)", "\(perplexity)", quoted(arguments),
        ].joined(separator: ",")
    }
}

/// How many bits a plan's quantized weights take.
package struct PlanSize: Sendable, Equatable {
    package var quantizedBytes = 0
    package var quantizedValues = 0
    package var values = 0

    package init(_ plan: ConversionPlan, _ shape: (PlannedWeight) -> Int) {
        for planned in plan.weights where planned.isPrincipal {
            let count = shape(planned)
            values += count
            guard planned.layout?.isDense == false else { continue }
            quantizedValues += count
            quantizedBytes += planned.tensors.reduce(0) { $0 + $1.byteCount }
        }
    }

    package var bits: Double { quantizedValues == 0 ? 0 : Double(quantizedBytes) * 8 / Double(quantizedValues) }
    package var share: Double { values == 0 ? 0 : Double(quantizedValues) / Double(values) }
}

import Architectures
import CKernels
import Checkpoints
import Conversion
import Formats
import Quantization
import ReferenceModels
import Tensors

extension WeightCalibrator {
    /// Rows of a weight that stand for all when scales are chosen.
    private static let sampledRows = 128

    /// AWQ for weights that share their inputs.
    ///
    /// The pass goes on with the original inputs: its weights are the quantized ones divided by the scales. What is kept are the scaled codes, and the
    /// reciprocals where they are folded; both give the same products, bit by bit.
    func scale(_ weights: [(name: String, position: Int)], _ inputs: ObservedInputs) throws {
        var moments = InputMoments(columns: inputs.columns)
        try inputs.visit { moments.add(InputRows($0)) }
        let place = fold(before: weights.map(\.name))
        var scaling = ActivationScaling.none(inputs.columns)
        if place != nil {
            let factor = try factor(inputs, weights[0].name, order: Array(0..<inputs.columns))
            scaling = try ActivationScaling(weights.map { try sample($0.position) }, moments: moments, factor: factor)
            if case .rows(let module) = place, try !canRescale(module, scaling) { scaling = .none(inputs.columns) }
        }
        var evidence = RowEvidence(importance: scaling.importance(moments.meanSquares))
        evidence.scaling = scaling
        for (name, position) in weights {
            let planned = plan.weights[position]
            let replacement = try quantize(planned, evidence)
            overlay[name] = try restored(replacement, checkpoint.weights[planned.source].shape, scaling)
            pending[String(WeightName.module(name))] = (position, replacement)
            try keep(position, replacement)
            report.calibrated += 1
        }
        switch place {
        case .norm(let position): try keep(position, foldedNorm(position, scaling))
        case .rows(let module): try rescale(module, scaling)
        case nil: break
        }
    }

    private enum Fold {
        /// The norm at this position of the plan.
        case norm(Int)
        /// The rows of this module's weight, which is quantized already.
        case rows(String)
    }

    private func fold(before names: [String]) -> Fold? {
        let modules = names.map { String(WeightName.module($0)) }
        guard let source = checkpoint.roles.source(before: modules[0]) else { return nil }
        if source.isNorm {
            guard let position = positions[source.module + ".weight"]?.first, plan.weights[position].road == .fold else { return nil }
            return .norm(position)
        }
        return modules.count == 1 && pending[source.module] != nil ? .rows(source.module) : nil
    }

    private func sample(_ position: Int) throws -> ActivationScaling.Sample {
        let planned = plan.weights[position]
        let weight = checkpoint.weights[planned.source]
        guard let layout = planned.layout as? any IntegerCodedLayout, let stored = weight.layout else {
            throw ConversionFailure.unsupported(weight: weight.name, layout: planned.layout?.name ?? "")
        }
        let unit = stored.rowAlignment
        let blocks = ceilingDivide(weight.shape.rows, unit)
        let wanted = min(blocks, max(1, Self.sampledRows / unit))
        var rows = WeightRows(values: [], rows: 0, columns: weight.shape.columns)
        for index in 0..<wanted {
            let first = index * blocks / wanted * unit
            let range = first..<min(weight.shape.rows, first + unit)
            let values = try checkpoint.values(of: weight, rows: range)
            do {
                rows.values += try values.withUnsafeBufferPointer { values throws(EncodingFault) in
                    try SearchedEncoding.floats(values, rows: range, shape: weight.shape).values
                }
            } catch {
                throw ConversionFailure(error, weight: weight, layout: layout, of: checkpoint)
            }
            rows.rows += range.count
        }
        return ActivationScaling.Sample(weights: rows, grid: IntegerGrid(layout))
    }

    /// The weight as it acts on inputs that were not divided: its decoded values over the scales, which is exact.
    private func restored(_ replacement: WeightReplacement, _ shape: MatrixShape, _ scaling: ActivationScaling) throws -> WeightReplacement {
        guard scaling.scales.contains(where: { $0 != 1 }) else { return replacement }
        let result = try WeightReplacement(layout: .dense(.bf16), shape: shape)
        let values = result.parts[0].bytes.assumingMemoryBound(to: UInt16.self)
        replacement.layout.decode(
            replacement.parts.enumerated().map { UnsafeRawBufferPointer($1.slice(0..<replacement.layout.parts(of: shape)[$0].byteCount)) },
            rows: 0..<shape.rows, shape: shape, into: UnsafeMutableBufferPointer(rebasing: values[..<shape.count]))
        for row in 0..<shape.rows {
            for column in 0..<shape.columns where scaling.scales[column] != 1 {
                let index = row * shape.columns + column
                values[index] = BFloat16(rounding: BFloat16(bits: values[index]).value / scaling.scales[column]).bits
            }
        }
        return result
    }

    private func foldedNorm(_ position: Int, _ scaling: ActivationScaling) throws -> WeightReplacement {
        let weight = checkpoint.weights[plan.weights[position].source]
        let values = try checkpoint.values(of: weight, rows: 0..<weight.shape.rows)
        let result = try WeightReplacement(layout: .dense(.bf16), shape: weight.shape)
        let target = result.parts[0].bytes.assumingMemoryBound(to: UInt16.self)
        for (index, value) in values.enumerated() { target[index] = BFloat16(rounding: BFloat16(bits: value).value / scaling.scales[index]).bits }
        return result
    }

    // MARK: Rows that lead into the scaled weight

    /// The parameters of a kept weight's groups with every row divided by its scale.
    private func rescaledGroups(_ module: String, _ scaling: ActivationScaling) -> (layout: any IntegerCodedLayout, groups: [GroupParameters])? {
        guard let (position, replacement) = pending[module], let layout = replacement.layout as? any IntegerCodedLayout else { return nil }
        let shape = checkpoint.weights[plan.weights[position].source].shape
        guard shape.rows == scaling.scales.count else { return nil }
        let count = layout.groupCount(shape)
        var groups = layout.groups(of: slices(replacement, shape), rows: 0..<shape.rows, shape: shape)
        for index in groups.indices {
            let scale = scaling.scales[index / count]
            groups[index].scale /= scale
            groups[index].bias /= scale
        }
        return (layout, groups)
    }

    private func slices(_ replacement: WeightReplacement, _ shape: MatrixShape) -> [UnsafeRawBufferPointer] {
        replacement.layout.parts(of: shape).enumerated().map { UnsafeRawBufferPointer(replacement.parts[$0].slice(0..<$1.byteCount)) }
    }

    /// Whether the layout can store the divided scales: F16 ends early.
    private func canRescale(_ module: String, _ scaling: ActivationScaling) throws -> Bool {
        guard let (layout, groups) = rescaledGroups(module, scaling) else { return false }
        return groups.allSatisfy(layout.holds)
    }

    private func rescale(_ module: String, _ scaling: ActivationScaling) throws {
        guard scaling.scales.contains(where: { $0 != 1 }), let (layout, groups) = rescaledGroups(module, scaling),
            let (position, replacement) = pending[module]
        else { return }
        let shape = checkpoint.weights[plan.weights[position].source].shape
        var codes = [UInt8](repeating: 0, count: shape.count)
        codes.withUnsafeMutableBufferPointer {
            layout.readCodes(slices(replacement, shape), rows: 0..<shape.rows, shape: shape, into: $0.baseAddress!)
        }
        let result = try WeightReplacement(layout: layout, shape: shape)
        layout.store(
            codes: codes, groups: groups, rows: 0..<shape.rows, shape: shape,
            into: layout.parts(of: shape).enumerated().map { result.parts[$0].slice(0..<$1.byteCount) })
        // `result`, whose memory was written to, is used here.
        try keep(position, result)
    }
}

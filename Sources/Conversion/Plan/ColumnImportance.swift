import Architectures
import Checkpoints
import Quantization

extension InputStatistics {
    /// How much each column of a planned weight counts; nil if nothing is known of its inputs.
    func importance(of planned: PlannedWeight, module: String, columns: Int, roles: ModelRoles) -> [Float]? {
        // A turned view's columns are no inputs of the weight; llama.cpp collects those of its own tensors.
        let hasInputs = planned.view?.picksRows ?? true
        guard let matrix else { return hasInputs ? importance(of: module, columns: columns) : nil }
        if let own = matrix.importance(of: planned.module + ".weight", matrix: planned.stackIndex ?? 0, columns: columns) { return own }
        return hasInputs ? matrix.importance(ofModule: module, roles: roles, columns: columns) : nil
    }
}

extension ConversionPlan {
    /// Names the weights that are to be quantized by the statistics of their inputs and of which none are known. Statistics that know none of
    /// them are those of another model.
    package mutating func check(_ statistics: InputStatistics, of checkpoint: Checkpoint, from path: String) throws {
        var unknown: [String] = []
        var known = 0
        for planned in weights where planned.quantizer.needs == .moments {
            let weight = checkpoint.weights[planned.source]
            let columns = planned.view?.shape.columns ?? weight.shape.columns
            if statistics.importance(of: planned, module: String(weight.module), columns: columns, roles: checkpoint.roles) != nil {
                known += 1
            } else {
                unknown.append(weight.name)
            }
        }
        guard let first = unknown.first else { return }
        guard known > 0 else {
            throw ConversionFailure.usage(
                "\(path) knows nothing of the inputs of any weight that is to be quantized, as \(first): it is of another model")
        }
        notes.append(
            Finding(
                first,
                "\(path) knows nothing of its inputs, so all its columns count alike (\(unknown.count) of \(unknown.count + known) weights: \(Self.kinds(unknown)))"
            ))
    }
}

import CKernels
import Tensors

/// NVFP4: E2M1 codes, an E4M3 scale for 16 columns, and one F32 scale for the tensor.
///
/// compressed-tensors: `weight_packed` U8 [out, in/2], `weight_scale`, `weight_global_scale` F32 [1];
/// value = code * (scale / global). ModelOpt: `weight` U8, `weight_scale`, `weight_scale_2` F32 []; value = code * (scale * scale_2).
/// References: vllm-project/compressed-tensors:quantization/utils/helpers.py (`generate_gparam`, `calculate_qparams`),
/// NVIDIA/Model-Optimizer:modelopt/torch/quantization/qtensor/nvfp4_tensor.py.
package struct NVFP4Layout: WholeRangeLayout, FloatCodedLayout, WideLayout, Equatable {
    package enum Naming: Sendable, Equatable {
        case compressedTensors
        case modelOpt
    }

    package var naming: Naming
    /// The shape of the tensor's scale as it was found: [1] or [].
    package var globalShape: [Int]
    /// The largest magnitude of all values that share the tensor's scale, as BF16 bits; needed to encode.
    package var amax: UInt16?
    /// ModelOpt multiplies by the tensor's scale, compressed-tensors divides by it.
    var isModelOpt: Bool { naming != .compressedTensors }

    package init(naming: Naming = .compressedTensors, globalShape: [Int]? = nil, amax: UInt16? = nil) {
        self.naming = naming
        self.globalShape = globalShape ?? (naming == .compressedTensors ? [1] : [])
        self.amax = amax
    }

    package var name: String { isModelOpt ? "nvfp4-modelopt" : "nvfp4" }

    package var tensorScalePart: Int { 2 }
    package var takesInputScale: Bool { isModelOpt }
    package var leavesPrediction: Bool { isModelOpt }
    package func groupColumns(of columns: Int) -> Int { 16 }

    package func spanning(_ amax: UInt16) -> Self { NVFP4Layout(naming: naming, globalShape: globalShape, amax: amax) }

    /// llm-compressor gives the gate and up projections of a dense network one scale, and leaves experts apart; ModelOpt joins
    /// both, as the engines do when they load them.
    package var sharesRangeAsModelOpt: Bool { isModelOpt }

    package func parts(of shape: MatrixShape) -> [WeightPart] {
        let scale = WeightPart("weight_scale", .f8E4M3, [shape.rows, ceilingDivide(shape.columns, 16)])
        switch naming {
        case .compressedTensors:
            return [
                WeightPart("weight_packed", .u8, [shape.rows, shape.columns / 2]), scale,
                WeightPart("weight_global_scale", .f32, globalShape, rows: .whole),
            ]
        case .modelOpt:
            return [
                WeightPart("weight", .u8, [shape.rows, shape.columns / 2]), scale, WeightPart("weight_scale_2", .f32, globalShape, rows: .whole),
            ]
        }
    }

    package func obstacle(to shape: MatrixShape) -> String? {
        shape.columns % 16 != 0 ? "\(shape.columns) columns are not a multiple of the group size 16" : nil
    }

    /// The F32 scale of a group, as the reference joins the two.
    func joined(_ scale: Float, _ global: Float) -> Float { isModelOpt ? scale * global : scale / global }

    /// That scale for each E4M3 code.
    private func joinedScales(_ global: Float) -> [Float] { (0...255).map { joined(Float8E4M3(bits: $0).value, global) } }

    package func decode(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into values: UnsafeMutableBufferPointer<UInt16>
    ) {
        guard let target = values.baseAddress else { return }
        decodeRows(parts, rows: rows, shape: shape) { row, codes, scales in
            // ModelOpt's table has no negative zero.
            ck_e2m1_decode(
                KernelLevel.active.rawValue, codes, shape.columns / 16, 16, scales, isModelOpt ? 0 : 1, target + row * shape.columns)
        }
    }

    package var exceedsBF16: Bool { true }

    package func decodeFloats(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, into target: UnsafeMutableBufferPointer<Float>
    ) {
        guard let target = target.baseAddress else { return }
        decodeRows(parts, rows: rows, shape: shape) { row, codes, scales in
            E2M1.decodeFloats(
                codes, groups: shape.columns / 16, size: 16, scales: scales, negativeZero: !isModelOpt, into: target + row * shape.columns)
        }
    }

    /// Calls `body` with the codes of each row and its groups' scales.
    private func decodeRows(
        _ parts: [UnsafeRawBufferPointer], rows: Range<Int>, shape: MatrixShape, _ body: (Int, UnsafePointer<UInt8>, UnsafePointer<Float>) -> Void
    ) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress else { return }
        let joined = joinedScales(parts[2].scalars(Float.self)[0])
        let groups = shape.columns / 16
        var scales = [Float](repeating: 0, count: groups)
        for row in 0..<rows.count {
            for group in 0..<groups { scales[group] = joined[Int(parts[1][row * groups + group])] }
            body(row, codes + row * groups * 8, scales)
        }
    }

    package func encode(
        _ values: UnsafeBufferPointer<UInt16>, rows: Range<Int>, shape: MatrixShape, search: BlockScaleSearch?,
        into parts: [UnsafeMutableRawBufferPointer]
    ) throws(EncodingFault) {
        guard let codes = parts[0].scalars(UInt8.self).baseAddress, let source = values.baseAddress, let amax else { throw .readOnly }
        let level = KernelLevel.active.rawValue
        let global = isModelOpt ? Self.modelOptScale(amax) : Self.globalScale(amax)
        parts[2].scalars(Float.self)[0] = global
        let groups = shape.columns / 16
        let joined = joinedScales(global)
        var largest = [UInt16](repeating: 0, count: groups)
        var scales = [Float](repeating: 0, count: groups)
        // A tile has many groups and few different magnitudes: what a magnitude's scale is, is worked out once.
        var locals = [UInt8](repeating: Self.unknown, count: 0x7F80)
        for row in 0..<rows.count {
            let values = source + row * shape.columns, codes = codes + row * groups * 8
            ck_bf16_group_amax(level, values, groups, 16, &largest)
            for group in 0..<groups {
                let amax = largest[group]
                guard amax < 0x7F80 else { throw .notFinite(row: rows.lowerBound + row) }
                if locals[Int(amax)] == Self.unknown {
                    locals[Int(amax)] = (isModelOpt ? Self.modelOptLocal(amax, global) : Self.localScale(amax, global)).bits
                }
                var stored = locals[Int(amax)]
                if let search {
                    let block = BlockScaleSearch.Block(values: values + group * 16, stride: 16, width: 16, firstColumn: group * 16)
                    stored = better(Float8E4M3(bits: stored), global, block, codes + group * 8, search).bits
                }
                parts[1][row * groups + group] = stored
                scales[group] = joined[Int(stored)]
            }
            ck_e2m1_encode(level, values, groups, 16, scales, Int32(CK_E2M1_DIVIDE), codes)
        }
    }

    /// No scale is negative.
    private static let unknown: UInt8 = 0x80

    private func better(
        _ standard: Float8E4M3, _ global: Float, _ block: BlockScaleSearch.Block, _ codes: UnsafeMutablePointer<UInt8>, _ search: BlockScaleSearch
    ) -> Float8E4M3 {
        let level = KernelLevel.active.rawValue
        let candidates = Self.steps.lazy.map { Int(standard.bits) + $0 }.filter { 1...0x7E ~= $0 }.map { Float8E4M3(bits: UInt8($0)) }
        return search.best(of: candidates, block) { scale, decoded in
            var scale = joined(scale.value, global)
            ck_e2m1_encode(level, block.values, 1, 16, &scale, Int32(CK_E2M1_DIVIDE), codes)
            ck_e2m1_decode(level, codes, 1, 16, &scale, isModelOpt ? 0 : 1, decoded)
        } ?? standard
    }

    /// Steps of E4M3 by which a searched scale may differ: from the largest magnitude at about 12, cut to 6, to one at about 4. (That 4 often errs
    /// less than 6: Cook et al., Four Over Six, arXiv 2512.02010.)
    private static let steps = [0] + [-8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5]

    // MARK: compressed-tensors' scales

    /// 448 * 6 / amax in BF16, the weight's dtype, where PyTorch multiplies by the rounded reciprocal; 1 for a zero tensor.
    static func globalScale(_ amax: UInt16) -> Float {
        let smallest = Float(sign: .plus, exponent: -126, significand: 1)
        let reciprocal = BFloat16(rounding: 1 / max(BFloat16(bits: amax).value, smallest)).value
        let scale = BFloat16(rounding: reciprocal * 2688).value
        return scale.isFinite ? scale : 1
    }

    /// E4M3(global * round_bf16(amax / 6)); 0.125 for a group of zeros.
    static func localScale(_ amax: UInt16, _ global: Float) -> Float8E4M3 {
        let scale = Float8E4M3(rounding: global * BFloat16(rounding: BFloat16(bits: amax).value / 6).value)
        return scale.value == 0 ? Float8E4M3(rounding: 0.125) : scale
    }

    // MARK: ModelOpt's scales

    /// amax / (6 * 448) in F32.
    static func modelOptScale(_ amax: UInt16) -> Float { BFloat16(bits: amax).value / 2688 }

    /// E4M3(clamp(amax / (6 * scale_2), 2^-9, 448)); 1 for a group of zeros.
    static func modelOptLocal(_ amax: UInt16, _ global: Float) -> Float8E4M3 {
        let scale = BFloat16(bits: amax).value / (6 * global)
        return Float8E4M3(rounding: scale == 0 || scale.isNaN ? 1 : min(max(scale, 1 / 512), 448))
    }
}

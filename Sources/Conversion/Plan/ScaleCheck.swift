import Architectures
import Checkpoints
import Formats
import Runtime
import Tensors

/// Reads the beginning of the scales of every quantized weight while a conversion is planned. A scale that is no number stops it; one that
/// lies far off its siblings in other layers and experts is named: a swapped or doubled scale looks just like that. The run looks at every
/// scale at full length, before the first byte of its weight is written.
package enum ScaleCheck {
    /// A weight whose largest scale differs from its siblings' median by more than this factor is named.
    static let factor: Float = 256
    /// A scale tensor of no more bytes is read completely: all that block scales have.
    static let byteLimit = 64 << 10
    /// Of a longer one, the scales of groups, so much is read.
    static let beginning = 16 << 10

    private struct Range {
        var weight: Int
        var largest: Float
    }

    /// Over the network a read is a request: more scales are not looked at to warn.
    private static let remoteLimit = 128

    private static func isOmitted(in checkpoint: Checkpoint) -> Bool {
        checkpoint.source.isRemote && checkpoint.weights.lazy.filter { !($0.layout?.isDense ?? true) }.count > remoteLimit
    }

    /// What is said where the check is left out.
    package static func omission(in checkpoint: Checkpoint) -> String? {
        isOmitted(in: checkpoint)
            ? "scales are not compared with their siblings before the run, as the source lies elsewhere; the run itself refuses those that are no numbers"
            : nil
    }

    package static func findings(in checkpoint: Checkpoint) throws -> [Finding] {
        if isOmitted(in: checkpoint) { return [] }
        // A stretch of neighbouring weights at a time; what each finds is put together in their order.
        let stretch = 512
        let found = Lock<[Int: [(kind: String, range: Range)]]>([:])
        try ParallelLoop.run(count: ceilingDivide(checkpoint.weights.count, stretch), workers: ProcessFigures.processorCount) {
            try AlignedBuffer(byteCount: byteLimit)
        } body: { number, buffer in
            let ranges = try (number * stretch..<min(checkpoint.weights.count, (number + 1) * stretch)).compactMap { index -> (String, Range)? in
                let weight = checkpoint.weights[index]
                guard let layout = weight.layout, !layout.isDense, let (part, scale) = Self.scale(of: weight) else { return nil }
                let largest = try largest(of: scale, part, layout, in: checkpoint, buffer)
                return (WeightName.kind(weight.name), Range(weight: index, largest: largest))
            }
            found.withLock { $0[number] = ranges }
        }
        var kinds: [String: [Range]] = [:]
        for (_, ranges) in found.withLock({ $0 }).sorted(by: { $0.key < $1.key }) {
            for (kind, range) in ranges { kinds[kind, default: []].append(range) }
        }
        let everything = median(kinds.values.joined().map(\.largest).filter { $0 > 0 })
        var findings: [Finding] = []
        var zeros: [String] = []
        for kind in kinds.keys.sorted() {
            guard let members = kinds[kind] else { continue }
            // Too few siblings to tell: compare with the whole checkpoint.
            let expected = members.count < 4 ? everything : median(members.map(\.largest).filter { $0 > 0 })
            for member in members {
                let weight = checkpoint.weights[member.weight]
                let name = Self.scale(of: weight)?.stored.name ?? weight.name
                if member.largest == 0 {
                    zeros.append(name)
                } else if let expected, member.largest > expected * factor || member.largest * factor < expected {
                    findings.append(
                        Finding(
                            name,
                            "its largest scale \(member.largest) is \(ratio(member.largest, expected)) its siblings' (\(kind)); was it swapped or scaled by mistake?"
                        ))
                }
            }
        }
        if let first = zeros.first {
            findings.append(
                Finding(first, "all its scales are zero, so the weight is zero\(zeros.count > 1 ? " (\(zeros.count) such weights)" : "")"))
        }
        return findings
    }

    /// The stored scales of groups, rows or blocks.
    private static func scale(of weight: Weight) -> (part: WeightPart, stored: StoredTensor)? {
        zip(weight.parts, weight.stored).first {
            $0.0.leaf.contains("scale") && ($0.1.type.isScale || $0.1.type == .f8E4M3 || $0.1.type == .u8)
        }
    }

    private static func largest(
        of scale: StoredTensor, _ part: WeightPart, _ layout: any WeightLayout, in checkpoint: Checkpoint, _ buffer: AlignedBuffer
    ) throws -> Float {
        let size = scale.byteCount > byteLimit ? beginning : scale.byteCount
        let bytes = buffer.slice(0..<size)
        try checkpoint.read(scale, 0..<size, into: bytes)
        if let fault = layout.fault(in: part, UnsafeRawBufferPointer(bytes)) {
            throw CheckpointFailure.badFigure(tensor: scale.name, file: checkpoint.fileNames[scale.file], index: fault.index, fault)
        }
        let type: ScalarType = scale.type == .u8 ? .f8E8M0 : scale.type
        return type.largestMagnitude(in: UnsafeRawBufferPointer(bytes)) ?? 0
    }

    private static func median(_ values: [Float]) -> Float? {
        values.isEmpty ? nil : values.sorted()[values.count / 2]
    }

    private static func ratio(_ value: Float, _ expected: Float) -> String {
        /// A damaged scale can be any number of times the others, even more than F32 holds.
        func whole(_ ratio: Float) -> String { ratio < 1e9 ? "\(Int(ratio.rounded()))" : "\(ratio)" }
        return value > expected ? "\(whole(value / expected)) times" : "a \(whole(expected / value))th of"
    }
}

import CKernels
import Tensors

/// Rows of a weight that are being rounded, in blocks of 16 rows, with their columns in the order of a factor's places.
package struct FeedbackRows: Sendable {
    /// Scales and biases of blocks of rows, [block of rows][scale, bias][group][row].
    struct Tables: Sendable {
        let buffer: AlignedBuffer
        let groupCount: Int

        func with(_ block: Int, _ body: (_ scales: UnsafeMutablePointer<Float>, _ biases: UnsafeMutablePointer<Float>) -> Void) {
            let count = groupCount * Int(CK_PANEL)
            buffer.withMemory(of: Float.self) { body($0 + 2 * block * count, $0 + (2 * block + 1) * count) }
        }
    }

    /// Places that are rounded with one another's errors before these go on to those that follow.
    static let step = 96

    let blocks: Int
    let size: Int
    /// Weights, [block of rows][place][row].
    let values: AlignedBuffer
    let codes: AlignedBuffer
    let losses: AlignedBuffer
    let tables: Tables
    let groupAtPlace: AlignedBuffer
    let greatest: Float

    /// The weights of some rows from a place on, [place][row].
    func values(_ block: Int, from place: Int) -> UnsafeMutablePointer<Float> {
        values.bytes.assumingMemoryBound(to: Float.self).baseAddress! + (block * size + place) * Int(CK_PANEL)
    }

    /// Rounds some places of a block of rows.
    /// - Parameters:
    ///   - targets: what the weights, and the errors of all places before these, ask for: [place][row].
    ///   - near: R_ji / R_ii for j < i, both of `places`, as near[j][i]; zero for the others.
    ///   - importance: R_ii^2 of these places; zero where a place is dead.
    ///   - errors: what is left over, [place][row].
    func round(
        _ block: Int, _ places: Range<Int>, targets: UnsafeMutablePointer<Float>, near: UnsafePointer<Float>, importance: UnsafePointer<Float>,
        errors: UnsafeMutablePointer<Float>
    ) {
        let width = Int(CK_PANEL)
        tables.with(block) { scales, biases in
            ck_feedback_round(
                KernelLevel.active.rawValue, targets, values(block, from: places.lowerBound), near, places.count, places.count, scales, biases,
                groupAtPlace.bytes.assumingMemoryBound(to: UInt32.self).baseAddress! + places.lowerBound, greatest, importance,
                losses.bytes.assumingMemoryBound(to: Float.self).baseAddress! + block * width, errors,
                codes.bytes.assumingMemoryBound(to: UInt8.self).baseAddress! + (block * size + places.lowerBound) * width)
        }
    }
}

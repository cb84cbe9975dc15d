import CKernels
import Runtime
import Tensors

/// Inputs of a weight as they are, their columns in an order of one's choice: what ``LowRankFactor`` works with.
package struct OrderedInputs: Sendable {
    /// The weight's column at each place.
    package let order: [Int]
    /// Tokens.
    package let count: Int
    /// [block of 24 tokens][place][token], missing tokens being zero: left operands of `ck_matrix_product`.
    let blocks: AlignedBuffer
    private var filled = 0

    /// - Parameter count: of all tokens that will be added.
    package init(order: [Int], count: Int) throws {
        self.order = order
        self.count = count
        blocks = try AlignedBuffer(byteCount: max(64, ceilingDivide(count, Int(CK_TOKEN_BLOCK)) * order.count * Int(CK_TOKEN_BLOCK) * 4))
        blocks.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    package mutating func add(_ input: InputRows) {
        precondition(filled + input.rows <= count && input.columns == order.count, "more inputs than were announced")
        let step = Int(CK_TOKEN_BLOCK)
        blocks.withMemory(of: Float.self) { memory in
            for row in 0..<input.rows {
                let (source, token) = (input.base + row * input.columns, filled + row)
                let target = memory + token / step * order.count * step + token % step
                for place in 0..<order.count { target[place * step] = source[order[place]] }
            }
        }
        filled += input.rows
    }
}

import Crypto
import Foundation
import Recast
import TestSupport
import Testing

/// The 2- to 8-bit layouts against their peers on difficult matrices (Tests/Scripts/golden_low_bit.py): AutoAWQ, GPTQModel, MLX,
/// compressed-tensors and ModelOpt.
@Suite struct LowBitGoldenTests {
    static let golden: JSONObject = (try? JSONValue(parsing: Fixtures.bytes("golden/low-bit.json")))?.object ?? [:]

    func digest(_ bytes: some Sequence<UInt8>) -> String {
        SHA256.hash(data: Array(bytes)).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    /// The input of a case; for layouts that pack along the rows repeated up to a multiple of 32 rows, as the script does.
    func input(_ name: String, wholeWords: Bool) throws -> (values: [UInt16], shape: MatrixShape) {
        let stored = try #require(GoldenLayoutTests.golden[name + ".input"])
        let values = stored.bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt16.self)) }
        let (rows, columns) = (stored.tensor.shape[0], stored.tensor.shape[1])
        guard wholeWords else { return (values, MatrixShape(rows: rows, columns: columns)) }
        let count = ceilingDivide(rows, 32) * 32
        return ((0..<count).flatMap { values[($0 % rows * columns)..<(($0 % rows + 1) * columns)] }, MatrixShape(rows: count, columns: columns))
    }

    @Test(arguments: golden.members.map(\.key)) func bytesAndValuesArePeers(_ name: String) throws {
        let layouts = try #require(Self.golden[name]?.object)
        var checked = 0
        for (target, parts) in layouts.members {
            var layout = try #require(LayoutRegistry.target(named: target)?.layout, "\(target)")
            let (values, shape) = try input(name, wholeWords: target.hasPrefix("awq") || target.hasPrefix("gptq"))
            if let whole = layout as? any WholeRangeLayout { layout = whole.spanning(values.map { $0 & 0x7FFF }.max() ?? 0) }
            #expect(layout.obstacle(to: shape) == nil)
            for step in [layout.rowAlignment, 1 << 20] {
                let stored = try encodeTiles(layout, values, shape, step: step)
                for (index, part) in layout.parts(of: shape).enumerated() {
                    let golden = try #require(parts[part.leaf]?.array, "\(target) \(part.leaf)")
                    #expect(golden[1].string == part.type.rawValue && golden[2].array?.compactMap(\.int) == part.shape, "\(target) \(part.leaf)")
                    #expect(golden[0].string == digest(stored[index]), "\(name) as \(target): \(part.leaf), tiles of \(step)")
                }
                let decoded = decodeTiles(layout, stored, shape, step: step).flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
                #expect(parts["decoded"]?.array?[0].string == digest(decoded), "\(name) as \(target): decoded, tiles of \(step)")
            }
            checked += 1
        }
        #expect(checked > 10)
    }
}

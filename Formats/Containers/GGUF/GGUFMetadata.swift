/// A value of GGUF's metadata. Arrays do not nest.
package enum GGUFValue: Sendable, Equatable {
    case u8(UInt8), i8(Int8), u16(UInt16), i16(Int16), u32(UInt32), i32(Int32), u64(UInt64), i64(Int64)
    case f32(Float), f64(Double)
    case bool(Bool)
    case string(String)
    case array(GGUFArray)

    /// The number in the file that says which type follows.
    var code: UInt32 {
        switch self {
        case .u8: 0
        case .i8: 1
        case .u16: 2
        case .i16: 3
        case .u32: 4
        case .i32: 5
        case .f32: 6
        case .bool: 7
        case .string: 8
        case .array: 9
        case .u64: 10
        case .i64: 11
        case .f64: 12
        }
    }

    /// A whole number of any width; nil for what is none or does not fit.
    package var int: Int? {
        switch self {
        case .u8(let value): Int(value)
        case .i8(let value): Int(value)
        case .u16(let value): Int(value)
        case .i16(let value): Int(value)
        case .u32(let value): Int(value)
        case .i32(let value): Int(value)
        case .u64(let value): Int(exactly: value)
        case .i64(let value): Int(exactly: value)
        default: nil
        }
    }

    /// A number of any type.
    package var double: Double? {
        switch self {
        case .f32(let value): Double(value)
        case .f64(let value): value
        default: int.map(Double.init)
        }
    }

    package var string: String? { if case .string(let text) = self { text } else { nil } }
    package var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    package var strings: [String]? { if case .array(.strings(let texts)) = self { texts } else { nil } }
    package var ints: [Int]? { if case .array(let array) = self { array.ints } else { nil } }
}

/// An array of GGUF's metadata: of strings, or of numbers of one type, kept as their bytes.
package enum GGUFArray: Sendable, Equatable {
    case strings([String])
    /// - Parameter code: of the numbers' type.
    case numbers(code: UInt32, bytes: [UInt8])

    package static func i32(_ values: [Int32]) -> GGUFArray { .numbers(code: 5, bytes: [UInt8](bytesOf: values)) }
    package static func u32(_ values: [UInt32]) -> GGUFArray { .numbers(code: 4, bytes: [UInt8](bytesOf: values)) }
    package static func f32(_ values: [Float]) -> GGUFArray { .numbers(code: 6, bytes: [UInt8](bytesOf: values)) }
    package static func bools(_ values: [Bool]) -> GGUFArray { .numbers(code: 7, bytes: values.map { $0 ? 1 : 0 }) }

    /// Bytes of a number of a type; nil for what is none.
    static func width(_ code: UInt32) -> Int? {
        switch code {
        case 0, 1, 7: 1
        case 2, 3: 2
        case 4, 5, 6: 4
        case 10, 11, 12: 8
        default: nil
        }
    }

    package var count: Int {
        switch self {
        case .strings(let texts): texts.count
        case .numbers(let code, let bytes): bytes.count / (Self.width(code) ?? 1)
        }
    }

    /// Whole numbers; nil for what is none.
    package var ints: [Int]? {
        guard case .numbers(let code, let bytes) = self, let width = Self.width(code) else { return nil }
        func values<Value: FixedWidthInteger & BitwiseCopyable>(_: Value.Type) -> [Int] {
            bytes.withUnsafeBytes { raw in
                (0..<raw.count / width).map { Int(truncatingIfNeeded: raw.loadUnaligned(fromByteOffset: $0 * width, as: Value.self)) }
            }
        }
        switch code {
        case 0, 7: return values(UInt8.self)
        case 1: return values(Int8.self)
        case 2: return values(UInt16.self)
        case 3: return values(Int16.self)
        case 4: return values(UInt32.self)
        case 5: return values(Int32.self)
        case 10: return values(UInt64.self)
        case 11: return values(Int64.self)
        default: return nil
        }
    }
}

/// A key of GGUF's metadata and its value.
package struct GGUFEntry: Sendable, Equatable {
    package var key: String
    package var value: GGUFValue

    package init(_ key: String, _ value: GGUFValue) {
        self.key = key
        self.value = value
    }
}

extension [GGUFEntry] {
    package subscript(key: String) -> GGUFValue? { first { $0.key == key }?.value }
}

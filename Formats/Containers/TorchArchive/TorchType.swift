import Tensors

/// A dtype of PyTorch and its names in pickles: the storage class of older types, the dtype of newer ones.
struct TorchType: Equatable, Sendable {
    var scalar: ScalarType
    /// `torch.BFloat16Storage`; nil for types that are kept in untyped storages.
    var storageName: String?
    var dtypeName: String

    private static let all: [TorchType] = [
        TorchType(scalar: .f64, storageName: "DoubleStorage", dtypeName: "float64"),
        TorchType(scalar: .f32, storageName: "FloatStorage", dtypeName: "float32"),
        TorchType(scalar: .f16, storageName: "HalfStorage", dtypeName: "float16"),
        TorchType(scalar: .bf16, storageName: "BFloat16Storage", dtypeName: "bfloat16"),
        TorchType(scalar: .i64, storageName: "LongStorage", dtypeName: "int64"),
        TorchType(scalar: .i32, storageName: "IntStorage", dtypeName: "int32"),
        TorchType(scalar: .i16, storageName: "ShortStorage", dtypeName: "int16"),
        TorchType(scalar: .i8, storageName: "CharStorage", dtypeName: "int8"),
        TorchType(scalar: .u8, storageName: "ByteStorage", dtypeName: "uint8"),
        TorchType(scalar: .bool, storageName: "BoolStorage", dtypeName: "bool"),
        TorchType(scalar: .c64, storageName: "ComplexFloatStorage", dtypeName: "complex64"),
        TorchType(scalar: .f8E4M3, storageName: nil, dtypeName: "float8_e4m3fn"),
        TorchType(scalar: .f8E5M2, storageName: nil, dtypeName: "float8_e5m2"),
        TorchType(scalar: .f8E8M0, storageName: nil, dtypeName: "float8_e8m0fnu"),
        TorchType(scalar: .u16, storageName: nil, dtypeName: "uint16"),
        TorchType(scalar: .u32, storageName: nil, dtypeName: "uint32"),
        TorchType(scalar: .u64, storageName: nil, dtypeName: "uint64"),
    ]

    private init(scalar: ScalarType, storageName: String?, dtypeName: String) {
        self.scalar = scalar
        self.storageName = storageName
        self.dtypeName = dtypeName
    }

    init?(storage name: String) {
        guard let type = Self.all.first(where: { $0.storageName == name }) else { return nil }
        self = type
    }

    init?(dtype name: String) {
        guard let type = Self.all.first(where: { $0.dtypeName == name }) else { return nil }
        self = type
    }

    init?(_ scalar: ScalarType) {
        guard let type = Self.all.first(where: { $0.scalar == scalar }) else { return nil }
        self = type
    }

    var byteCount: Int { scalar.bitWidth / 8 }
}

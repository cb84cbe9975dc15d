/// The values that a checkpoint's pickle may build. Containers are shared by reference, as in Python, so that a pickle that nests one
/// list in the next a thousand times costs no more memory than its text.
enum PickleValue {
    case none
    case bool(Bool)
    case integer(Int)
    case real(Double)
    case string(String)
    case tuple(PickleTuple)
    case list(PickleList)
    case dictionary(PickleDictionary)
    case global(PickleGlobal)
    case storage(TorchStorage)
    case tensor(TorchTensor)
    /// An empty attribute bag: backward hooks, shapes and devices that say nothing about the bytes.
    case ignored
}

struct PickleTuple {
    /// How many tuples are nested at most, this one included. Lists and dictionaries do not count: the heap owns them.
    private(set) var depth = 1
    let items: [PickleValue]

    init(_ items: [PickleValue]) {
        self.items = items
        for case .tuple(let inner) in items { depth = max(depth, inner.depth + 1) }
    }
}

final class PickleList {
    var items: [PickleValue] = []
}

final class PickleDictionary {
    var items: [(key: PickleValue, value: PickleValue)] = []
}

/// Owns every list and dictionary of a pickle and empties them one by one at the end: released through each other, a chain of a million
/// would overflow the stack, and a cycle would never go.
final class PickleHeap {
    var lists: [PickleList] = []
    var dictionaries: [PickleDictionary] = []

    deinit {
        for list in lists { list.items = [] }
        for dictionary in dictionaries { dictionary.items = [] }
    }
}

/// A function or type that a pickle names. Only these can be called or passed; every other name is refused.
enum PickleGlobal: Equatable {
    case orderedDictionary
    case rebuildTensor
    case rebuildTensorWithType
    case rebuildParameter
    case size
    /// A storage class; its dtype, nil for untyped bytes.
    case storage(TorchType?)
    case dtype(TorchType)

    init?(module: String, name: String) {
        switch (module, name) {
        case ("collections", "OrderedDict"): self = .orderedDictionary
        case ("torch._utils", "_rebuild_tensor_v2"): self = .rebuildTensor
        case ("torch._utils", "_rebuild_tensor_v3"): self = .rebuildTensorWithType
        case ("torch._utils", "_rebuild_parameter"): self = .rebuildParameter
        case ("torch", "Size"): self = .size
        case ("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage"): self = .storage(nil)
        case ("torch", _):
            if let type = TorchType(storage: name) {
                self = .storage(type)
            } else if let type = TorchType(dtype: name) {
                self = .dtype(type)
            } else {
                return nil
            }
        default: return nil
        }
    }
}

/// Bytes that tensors share: an entry `data/KEY` of the archive.
struct TorchStorage: Equatable {
    var key: String
    var type: TorchType?
    /// Elements, or bytes if there is no type.
    var count: Int
}

/// A tensor as the pickle describes it; sizes and strides are unchecked.
struct TorchTensor: Equatable {
    var storage: TorchStorage
    var type: TorchType
    /// In elements.
    var offset: Int
    var shape: [Int]
    var strides: [Int]
}

/// What a pickle holds.
struct PickleDocument {
    var root: PickleValue
    var heap: PickleHeap
}

/// Why a pickle is refused.
struct PickleFault: Error, Equatable {
    var offset: Int
    var reason: String
}

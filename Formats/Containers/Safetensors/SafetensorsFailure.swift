import Runtime
import StrictJSON
import Tensors

/// A safetensors file or index that cannot be trusted: one case for each way it can lie.
package struct SafetensorsFailure: Failure, Equatable {
    package enum Fault: Sendable, Equatable {
        case gitLFSPointer
        case webPage
        case tooShort(size: Int)
        case headerTooLong(length: UInt64)
        case headerBeyondEnd(length: Int, size: Int)
        case json(JSONError)
        case badMetadata
        case badEntry(tensor: String, reason: String)
        case unknownType(tensor: String, type: String)
        case duplicate(tensor: String)
        case sizeMismatch(tensor: String, stored: Int, expected: Int)
        case tooManyElements(tensor: String)
        case hole(tensor: String, at: Int, expected: Int)
        case overlap(tensor: String, at: Int, expected: Int)
        case truncated(expected: Int, size: Int)
        case trailingBytes(expected: Int, size: Int)
        case indexWithoutMap
        case indexPath(file: String)
        case indexMissingFile(file: String, tensor: String)
        case indexMissingTensor(file: String, tensor: String)
        case tensorInTwoFiles(tensor: String, other: String)
    }

    package var path: String
    package var fault: Fault

    package init(_ path: String, _ fault: Fault) {
        self.path = path
        self.fault = fault
    }

    package var kind: FailureKind {
        if case .indexMissingFile = fault { return .noInput }
        return .badData
    }

    package var description: String { "\(path): \(sentence)" }

    private var sentence: String {
        switch fault {
        case .gitLFSPointer:
            "this is a Git LFS pointer, not the file itself; fetch the data with `git lfs pull` or download the file again"
        case .webPage: "this is a web page saved under the name of a tensor file; download the file again"
        case .tooShort(let size): "\(size) bytes are too few for a safetensors file; download the file again"
        case .headerTooLong(let length):
            "the header says it is \(length) bytes long, above the limit of \(SafetensorsHeader.lengthLimit); this is not a safetensors file"
        case .headerBeyondEnd(let length, let size):
            "the header should be \(length) bytes long but the file has \(size) bytes in all; the file is truncated, download it again"
        case .json(let error): "the JSON text is malformed: \(error); download the file again"
        case .badMetadata: "__metadata__ must map strings to strings"
        case .badEntry(let tensor, let reason): "tensor \(tensor): \(reason)"
        case .unknownType(let tensor, let type): "tensor \(tensor) has the unknown dtype \(type)"
        case .duplicate(let tensor): "tensor \(tensor) is listed twice"
        case .sizeMismatch(let tensor, let stored, let expected):
            "tensor \(tensor) occupies \(stored) bytes but its dtype and shape need \(expected)"
        case .tooManyElements(let tensor): "the shape of tensor \(tensor) has more elements than can be addressed"
        case .hole(let tensor, let at, let expected):
            "tensor \(tensor) begins at data offset \(at) and leaves a hole after offset \(expected)"
        case .overlap(let tensor, let at, let expected):
            "tensor \(tensor) begins at data offset \(at) and overlaps the tensor that ends at \(expected)"
        case .truncated(let expected, let size):
            "the header describes \(expected) bytes but the file has only \(size); the file is truncated, download it again"
        case .trailingBytes(let expected, let size):
            "the file has \(size) bytes where the header describes \(expected); extra data follows the last tensor"
        case .indexWithoutMap: "the index has no weight_map from tensor names to file names"
        case .indexPath(let file): "the index names the file \"\(file)\", which is not a plain file name beside the index"
        case .indexMissingFile(let file, let tensor): "the index places tensor \(tensor) in \(file), but there is no such file; download that shard"
        case .indexMissingTensor(let file, let tensor): "the index places tensor \(tensor) in \(file), but that shard does not contain it"
        case .tensorInTwoFiles(let tensor, let other): "tensor \(tensor) is also stored in \(other); it is unclear which one counts"
        }
    }
}

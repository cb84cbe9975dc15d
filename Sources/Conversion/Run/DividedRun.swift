import StrictJSON
import Tensors

/// What the first part of a divided run leaves for the others and for the one that joins them: the plan, into how many parts it is divided, and
/// how it was asked for.
struct DividedRun: Equatable {
    static let fileName = "parts.json"

    var identity: String
    var parts: Int
    var request: JSONValue

    init(identity: String, parts: Int, request: JSONValue) {
        self.identity = identity
        self.parts = parts
        self.request = request
    }

    /// - Returns: nil if no run is divided in this working directory.
    init?(reading workPath: String) throws {
        let path = FileTree.path(workPath, Self.fileName)
        guard try FileTree.entry(path) != nil else { return nil }
        let document = try? JSONValue(parsing: FileTree.read(path, limit: 1 << 20))
        guard let identity = document?["plan"]?.string, let parts = document?["parts"]?.int, (1...Part.limit).contains(parts),
            let request = document?["request"]
        else { throw ConversionFailure.destinationNotEmpty(path: path, reason: "it does not say how a conversion was divided") }
        self.init(identity: identity, parts: parts, request: request)
    }

    /// - Parameter temporary: a name that no other part uses.
    func write(to workPath: String, temporary: String) throws {
        let document: JSONObject = ["schema": .int(1), "plan": .string(identity), "parts": .int(parts), "request": request]
        try FileTree.write(
            Array((JSONValue.object(document).text() + "\n").utf8), to: FileTree.path(workPath, Self.fileName), temporary: temporary)
    }
}

/// One reader of untrusted bytes.
struct FuzzReader: Sendable {
    /// Also the folder of its seeds.
    var name: String
    var read: @Sendable (FuzzInput) -> Void

    init(_ name: String, _ read: @escaping @Sendable (FuzzInput) -> Void) {
        self.name = name
        self.read = read
    }

    static let all: [FuzzReader] = containers + checkpoints + texts + models + runs
}

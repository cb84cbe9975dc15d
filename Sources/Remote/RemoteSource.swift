import Tensors

/// Sources that are named by URLs.
package enum RemoteSource {
    /// Opens what `text` names; nil if it is a path of this machine.
    package static func open(
        _ text: String, _ environment: RemoteEnvironment = .process
    ) throws -> (directory: any SourceDirectory, name: String?)? {
        if let address = try HubAddress(text, environment: environment) { return try HubRepository.find(address, environment) }
        if text.hasPrefix(Bucket.scheme) { return try Bucket.find(text, environment) }
        if text.hasPrefix("https://") || text.hasPrefix("http://") { return try WebDirectory.find(text) }
        // A scheme that is none of these is no path, either.
        if let match = text.prefixMatch(of: /[a-z][a-z0-9+.-]*:\/\//) {
            throw RemoteFailure.address(text, reason: "sources are paths, hf://, s3:// and https:// addresses; \(match.output) is none of them")
        }
        return nil
    }
}

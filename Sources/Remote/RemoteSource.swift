import Tensors

/// Sources that are named by URLs.
package enum RemoteSource {
    /// Opens what `text` names; nil if it is a path of this machine.
    package static func open(
        _ text: String, _ environment: RemoteEnvironment = .process
    ) throws -> (directory: any SourceDirectory, name: String?)? {
        if let address = try HubAddress(text, environment: environment) { return try HubRepository.find(address, environment) }
        if text.hasPrefix("https://") || text.hasPrefix("http://") { return try WebDirectory.find(text) }
        return nil
    }
}

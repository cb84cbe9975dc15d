import Foundation
import Tensors

/// Who asks a store that speaks S3, and where it is: the variables and files of AWS' own tools. Roles, containers and single sign-on are not asked:
/// `aws configure export-credentials --format env` turns them into variables.
struct BucketAccount: Sendable {
    /// Scheme, host and port of a store that is not AWS; nil for AWS.
    var endpoint: String?
    var region: String
    /// Nil: requests are not signed.
    private let keys: (access: String, secret: String, session: String?)?

    /// - Throws: ``RemoteFailure/address(_:reason:)`` for half a key, which is a mistake and not a wish to go without.
    init(_ environment: RemoteEnvironment) throws {
        let profile = environment["AWS_DEFAULT_PROFILE", "AWS_PROFILE"] ?? "default"
        let credentials = INIFile(environment["AWS_SHARED_CREDENTIALS_FILE"].map(environment.expanded) ?? environment.home + "/.aws/credentials")
        let config = INIFile(environment["AWS_CONFIG_FILE"].map(environment.expanded) ?? environment.home + "/.aws/config")
        let settings = (credentials[profile] ?? [:]).merging(config["profile " + profile] ?? (profile == "default" ? config[profile] : nil) ?? [:]) {
            first, _ in first
        }
        let service = settings["services"].flatMap { config["services " + $0]?["s3.endpoint_url"] }
        let ignores = environment["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]?.lowercased() == "true"
        var given =
            ignores
            ? nil : environment["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] ?? service ?? settings["s3.endpoint_url"] ?? settings["endpoint_url"]
        while given?.hasSuffix("/") == true { given?.removeLast() }
        endpoint = given
        region = environment["AWS_REGION", "AWS_DEFAULT_REGION"] ?? settings["region"] ?? "us-east-1"
        let access = environment.secret("AWS_ACCESS_KEY_ID"), secret = environment.secret("AWS_SECRET_ACCESS_KEY")
        guard (access == nil) == (secret == nil) else {
            throw RemoteFailure.address("AWS_ACCESS_KEY_ID", reason: "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set")
        }
        if let access, let secret {
            keys = (access, secret, environment.secret("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"))
        } else if let access = settings["aws_access_key_id"], let secret = settings["aws_secret_access_key"] {
            keys = (access, secret, settings["aws_session_token"])
        } else {
            keys = nil
        }
    }

    var isAnonymous: Bool { keys == nil }

    func signature(region: String) -> SignatureV4? {
        keys.map { SignatureV4(accessKey: $0.access, secretKey: $0.secret, sessionToken: $0.session, region: region) }
    }
}

/// `[section]` and `name = value`, as Python's configparser and botocore read them; what is nested under a name without a value is `name.inner`.
package struct INIFile {
    private var sections: [String: [String: String]] = [:]

    /// A file that is not there has no sections.
    package init(_ path: String) {
        self.init(text: String(decoding: (try? FileTree.read(path, limit: 1 << 20)) ?? [], as: UTF8.self))
    }

    package init(text: String) {
        var section: String?
        var outer: String?
        for line in text.split(whereSeparator: \.isNewline) {
            let content = line.trimmingCharacters(in: .whitespaces)
            guard let first = content.first, first != "#", first != ";" else { continue }
            if first == "[" {
                section = content.dropFirst().prefix { $0 != "]" }.split(separator: " ").joined(separator: " ").replacing("\"", with: "")
                outer = nil
                continue
            }
            guard let section, let split = content.firstIndex(where: { $0 == "=" || $0 == ":" }) else { continue }
            let name = content[..<split].trimmingCharacters(in: .whitespaces).lowercased()
            let value = content[content.index(after: split)...].trimmingCharacters(in: .whitespaces)
            let isNested = outer != nil && line.first?.isWhitespace == true
            if !isNested { outer = value.isEmpty ? name : nil }
            if !value.isEmpty { sections[section, default: [:]][isNested ? "\(outer ?? "").\(name)" : name] = value }
        }
    }

    package subscript(section: String) -> [String: String]? { sections[section] }
}

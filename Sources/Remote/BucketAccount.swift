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

    init(_ environment: RemoteEnvironment) {
        let files = [
            (environment["AWS_SHARED_CREDENTIALS_FILE"] ?? Self.home(environment) + "/.aws/credentials", ""),
            (environment["AWS_CONFIG_FILE"] ?? Self.home(environment) + "/.aws/config", "profile "),
        ]
        let profile = environment["AWS_PROFILE"] ?? "default"
        var settings: [String: String] = [:]
        for (path, prefix) in files {
            let found = Self.section(path, profile == "default" ? [profile, prefix + profile] : [prefix + profile])
            settings.merge(found) { first, _ in first }
        }
        let ignores = environment["AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]?.lowercased() == "true"
        var given = ignores ? nil : environment["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] ?? settings["endpoint_url"]
        while given?.hasSuffix("/") == true { given?.removeLast() }
        endpoint = given
        region = environment["AWS_REGION", "AWS_DEFAULT_REGION"] ?? settings["region"] ?? "us-east-1"
        if let access = environment["AWS_ACCESS_KEY_ID"], let secret = environment["AWS_SECRET_ACCESS_KEY"] {
            keys = (access, secret, environment["AWS_SESSION_TOKEN"])
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

    private static func home(_ environment: RemoteEnvironment) -> String { environment["HOME"] ?? "." }

    /// `name = value` lines under `[profile]`.
    private static func section(_ path: String, _ names: [String]) -> [String: String] {
        guard let bytes = try? FileTree.read(path, limit: 1 << 20) else { return [:] }
        var values: [String: String] = [:]
        var isInside = false
        for line in String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline) {
            let text = line.trimmingCharacters(in: .whitespaces)
            if text.hasPrefix("[") {
                isInside = names.contains(text.trimmingCharacters(in: CharacterSet(charactersIn: "[] ")))
            } else if isInside, !text.hasPrefix("#"), !text.hasPrefix(";"), line.first?.isWhitespace != true, let equals = text.firstIndex(of: "=") {
                let value = text[text.index(after: equals)...].trimmingCharacters(in: .whitespaces)
                if !value.isEmpty { values[text[..<equals].trimmingCharacters(in: .whitespaces)] = value }
            }
        }
        return values
    }
}

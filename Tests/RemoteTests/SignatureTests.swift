import Foundation
import Remote
import Testing

/// The worked examples of "Signature Calculations for the Authorization Header" in Amazon's S3 API reference, with its example key.
@Suite struct SignatureTests {
    private let signature = SignatureV4(
        accessKey: "AKIAIOSFODNN7EXAMPLE", secretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", region: "us-east-1")
    private let date = Date(timeIntervalSince1970: 1_369_353_600)

    private func sign(_ url: String) -> String {
        let headers = signature.headers("GET", url, date: date)
        return headers.first { $0.name == "Authorization" }.map { String($0.value.suffix(64)) } ?? ""
    }

    @Test func lifecycle() {
        #expect(
            sign("https://examplebucket.s3.amazonaws.com/?lifecycle=") == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543")
    }

    @Test func listing() {
        #expect(
            sign("https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J")
                == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")
    }

    @Test func sessionsAreSigned() {
        var other = signature
        other.sessionToken = "token"
        let headers = other.headers("GET", "https://b.s3.amazonaws.com/k", date: date)
        #expect(headers.contains { $0.name == "x-amz-security-token" && $0.value == "token" })
        #expect(headers.last?.value.contains("host;x-amz-content-sha256;x-amz-date;x-amz-security-token") == true)
    }
}

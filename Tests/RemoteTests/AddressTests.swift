import Foundation
import Remote
import Testing

@Suite struct AddressTests {
    private let environment = RemoteEnvironment(["HF_ENDPOINT": "https://mirror.example/", "HOME": "/nowhere"])

    private func hub(_ text: String) throws -> HubAddress? { try HubAddress(text, environment: environment) }

    @Test func repositories() throws {
        #expect(try hub("hf://org/name")?.id == "org/name")
        #expect(try hub("hf://models/org/name/")?.id == "org/name")
        #expect(try hub("hf://org/name@v1.0")?.revision == "v1.0")
        #expect(try hub("hf://org/name@feature%2Fx/a/b.gguf")?.revision == "feature/x")
        #expect(try hub("hf://org/name@feature%2Fx/a/b.gguf")?.path == "a/b.gguf")
        #expect(try hub("hf://org/name@refs/pr/7/sub")?.revision == "refs/pr/7")
        #expect(try hub("hf://org/name@refs/pr/7/sub")?.path == "sub")
        #expect(try hub("hf://org/name/sub")?.revision == nil)
    }

    @Test func pages() throws {
        #expect(try hub("https://huggingface.co/org/name")?.id == "org/name")
        #expect(try hub("https://huggingface.co/org/name/tree/main/sub")?.path == "sub")
        #expect(try hub("https://hf.co/org/name/blob/refs%2Fpr%2F1/x.gguf?download=true")?.revision == "refs/pr/1")
        #expect(try hub("https://hf.co/org/name/resolve/refs/pr/1/x.gguf")?.revision == "refs/pr/1")
        #expect(try hub("https://mirror.example/org/name")?.id == "org/name")
        #expect(try hub("https://elsewhere.example/org/name") == nil)
        #expect(try hub("/a/path") == nil)
        let mirror = RemoteEnvironment(["HF_ENDPOINT": "https://corp.example/hf"])
        #expect(try HubAddress("https://corp.example/hf/org/name", environment: mirror)?.id == "org/name")
        #expect(try HubAddress("https://corp.example/files/org/name", environment: mirror) == nil)
        #expect(try hub("http://huggingface.co/org/name")?.id == "org/name")
    }

    @Test(arguments: [
        "hf://name", "hf://", "hf://org/", "hf:///name", "hf://org/name@", "hf://org/name@/x", "hf://org/name//x", "hf://org/name/../x",
        "hf://../name",
        "hf://datasets/org/name", "hf://org/na me", "https://huggingface.co/org", "https://huggingface.co/org/name/commits/main",
        "https://huggingface.co/datasets/org/name", "https://huggingface.co/org/name/tree",
    ])
    func refused(_ text: String) {
        #expect(throws: RemoteFailure.self) { try hub(text) }
    }

    @Test func origins() {
        #expect(URLText.origin("https://User@Host.example:443/x?y") == "https://host.example")
        #expect(URLText.origin("http://a:8080") == "http://a:8080")
        #expect(URLText.origin("/x") == nil)
        #expect(URLText.joined("https://a/b/c?d", "/e?f=%2B") == "https://a/e?f=%2B")
        #expect(URLText.joined("https://a/b/c", "d") == "https://a/b/d")
        #expect(URLText.joined("https://a", "d") == "https://a/d")
        #expect(URLText.joined("https://a/b", "//cdn/x") == "https://cdn/x")
        #expect(URLText.joined("https://a/b", "https://c/x") == "https://c/x")
        #expect(URLText.encoded("a b/ä~+", keepingSlashes: true) == "a%20b/%C3%A4~%2B")
        #expect(URLText.encoded("refs/pr/1") == "refs%2Fpr%2F1")
        // One illegal character must not have the legal ones encoded anew.
        #expect(URLText.joined("https://a/b", "https://c/x%2Fy?s=%2B[1] \"") == "https://c/x%2Fy?s=%2B%5B1%5D%20%22")
        #expect(URLText.joined("https://a/b", "/login?next=https://c/d") == "https://a/login?next=https://c/d")
    }

    @Test func expiry() {
        #expect(URLText.expiry(of: "https://cdn/x?a=b&Expires=1700000000&Signature=z")?.timeIntervalSince1970 == 1_700_000_000)
        #expect(URLText.expiry(of: "https://s3/x?X-Amz-Date=20240101T000000Z&X-Amz-Expires=3600")?.timeIntervalSince1970 == 1_704_070_800)
        #expect(URLText.expiry(of: "https://cdn/x") == nil)
        #expect(URLText.expiry(of: "https://cdn/x?Expires=nan") == nil)
    }

    @Test func waits() {
        func answer(_ headers: [(name: String, value: String)]) -> Answer { Answer(status: 429, headers: headers, body: []) }
        #expect(answer([("RateLimit", "\"resolvers\";r=0;t=12")]).wait() == 13)
        #expect(answer([("RateLimit", "\"api\";r=5;t=12")]).wait() == nil)
        #expect(answer([("Retry-After", "3")]).wait() == 4)
        #expect(answer([("Retry-After", "nan")]).wait() == nil)
        #expect(answer([("Retry-After", "-3")]).wait() == nil)
        #expect(answer([("Retry-After", "1e30")]).wait() ?? 0 > 1e29)
        let now = Date(timeIntervalSince1970: 784_111_770)
        #expect(answer([("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT")]).wait(now: now) == 8)
        #expect(answer([]).wait() == nil)
    }
}

@Suite struct RemoteEnvironmentTests {
    @Test func proxies() {
        let environment = RemoteEnvironment(["https_proxy": "http://p:1", "http_proxy": "q:2", "NO_PROXY": "localhost, .example.org,10.0.0.1"])
        #expect(environment.proxy(forScheme: "https", host: "huggingface.co") == "http://p:1")
        #expect(environment.proxy(forScheme: "http", host: "huggingface.co") == "q:2")
        #expect(environment.proxy(forScheme: "https", host: "a.example.org") == nil)
        #expect(environment.proxy(forScheme: "https", host: "example.org") == nil)
        #expect(environment.proxy(forScheme: "https", host: "notexample.org") == "http://p:1")
        #expect(environment.proxy(forScheme: "https", host: "10.0.0.1") == nil)
        // What a client of a CGI program sets.
        #expect(RemoteEnvironment(["HTTP_PROXY": "evil:1"]).proxy(forScheme: "http", host: "a") == nil)
        #expect(RemoteEnvironment(["all_proxy": "p:1", "no_proxy": "*"]).proxy(forScheme: "http", host: "a") == nil)
    }

    @Test func hub() {
        let environment = RemoteEnvironment(["HF_ENDPOINT": "https://m.example//", "HF_TOKEN": " hf_x\n", "HF_HOME": "/h", "HF_HUB_OFFLINE": "yes"])
        #expect(environment.hubEndpoint == "https://m.example")
        #expect(environment.hubToken == "hf_x")
        #expect(environment.hubCache == "/h/hub")
        #expect(environment.isOffline)
        #expect(RemoteEnvironment(["HF_TOKEN": "hf_a\r\nb\u{1}"]).hubToken == "hf_ab")
        #expect(RemoteEnvironment(["HOME": "/u", "HF_HOME": "~/hf"]).hubCache == "/u/hf/hub")
        #expect(RemoteEnvironment(["D": "/d", "HF_HUB_CACHE": "$D/x/${D}"]).hubCache == "/d/x//d")
        #expect(RemoteEnvironment(["HF_TOKEN": "x", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"]).hubToken == nil)
        #expect(RemoteEnvironment(["HF_TOKEN": "  ", "HF_HOME": "/nowhere"]).hubToken == nil)
        #expect(RemoteEnvironment(["XDG_CACHE_HOME": "/c"]).hubCache == "/c/huggingface/hub")
        #expect(RemoteEnvironment(["XDG_CACHE_HOME": "/c"]).blockCache == "/c/recast")
        #expect(RemoteEnvironment(["RECAST_CACHE": "off"]).blockCache == nil)
    }
}

@Suite struct INIFileTests {
    @Test func asBotocoreReadsIt() {
        let file = INIFile(
            text: """
                # comment
                [default] ; of this machine
                Region = eu-west-1
                aws_access_key_id: AKIA
                s3 =
                    endpoint_url = http://minio:9000
                    addressing_style = path
                aws_secret_access_key = a=b:c
                [profile "two words"]
                region=us-east-2
                """)
        #expect(file["default"]?["region"] == "eu-west-1")
        #expect(file["default"]?["aws_access_key_id"] == "AKIA")
        #expect(file["default"]?["aws_secret_access_key"] == "a=b:c")
        #expect(file["default"]?["s3.endpoint_url"] == "http://minio:9000")
        #expect(file["profile two words"]?["region"] == "us-east-2")
        #expect(file["none"] == nil)
    }
}

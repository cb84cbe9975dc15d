import Foundation
import Parity
import Recast
import TestSupport
import Testing
import Yams

@Suite struct ReportTests {
    static let date = Date(timeIntervalSince1970: 1_800_000_000)

    func verdict(_ folder: TemporaryDirectory, _ bounds: ParityBounds = ParityBounds()) throws -> (ParityVerdict, ParitySubject) {
        try convert(Fixtures.fp8Model, folder.file("int4"), to: "int4-g32")
        let (reference, candidate) = (try Checkpoint(opening: Fixtures.fp8Model), try Checkpoint(opening: folder.file("int4")))
        let trial = try ForwardTrial(.checkpoint(reference), candidate, tokens: ForwardTrialTests.tokens, noiseFloor: true)
        let verdict = ParityVerdict(
            weights: try WeightAudit(reference: reference, candidate: candidate), forward: trial,
            consumer: ConsumerContract(.vllm, candidate).report(), bounds: bounds, claims: ParityClaims(from: reference, to: candidate))
        let command = "recast verify '<a>' b --tokens t.json"
        return (verdict, ParitySubject(reference: Fixtures.fp8Model, candidate: folder.file("int4"), command: command, date: Self.date))
    }

    @Test func textIsSafeInsideXML() {
        #expect("a<b> & \"c\" 'd'\u{1}\n".escaped == "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;?\n")
    }

    @Test func theFileNameChoosesTheForm() {
        #expect(ParityReport(path: "a/b.JSON") == .json && ParityReport(path: "x.xml") == .xml && ParityReport(path: "c.yml") == .yaml)
        #expect(ParityReport(path: "x.html") == .html && ParityReport(path: "x.txt") == nil && ParityReport(path: "json") == nil)
    }

    @Test func thePageStandsAlone() throws {
        let folder = try TemporaryDirectory()
        let (verdict, subject) = try verdict(folder)
        let page = try ParityReport.html.text(verdict, of: subject)
        for outside in ["http:", "https:", "<script", "<link", "@import", "url("] { #expect(!page.contains(outside), "\(outside)") }
        let worst = try #require(verdict.weights?.weights.first)
        for word in [
            worst.name, "Residual stream after each layer", "KLD by position", "noise floor", "multi-token prediction", "<polyline", "For vllm",
            "&lt;a&gt;",
        ] {
            #expect(page.contains(word), "\(word)")
        }
        #expect(page.contains("Passed") && !page.contains("'<a>'") && !page.contains("nan") && !page.contains("inf,"))
        // Well-formed apart from HTML's void elements.
        let xml = page.replacing("<!doctype html>", with: "").replacing("<meta charset=\"utf-8\">", with: "").replacing("<br>", with: "<br/>")
            .replacing("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">", with: "")
        try Data(xml.utf8).write(to: URL(fileURLWithPath: folder.file("p.xml")))
        let check = try Subprocess("/usr/bin/env", ["python3", "-c", "import sys,xml.dom.minidom as m; m.parse(sys.argv[1])", folder.file("p.xml")])
        #expect(check.status == 0, "\(check.errors)")
    }

    @Test func theCardSaysWhatWasCompared() throws {
        let folder = try TemporaryDirectory()
        let (verdict, subject) = try verdict(folder)
        let card = try #require(try Yams.load(yaml: ParityReport.yaml.text(verdict, of: subject)) as? [String: Any])
        #expect(card["passed"] as? Bool == true && card["command"] as? String == subject.command && card["date"] is Date || card["date"] is String)
        let candidate = try #require(card["candidate"] as? [String: Any])
        #expect(candidate["name"] as? String == "int4")
        let files = try #require(candidate["files"] as? [String: String])
        #expect(
            files.keys.contains("config.json") && files.keys.contains("recast.manifest.json") && files.values.allSatisfy { $0.contains("sha256 ") })
        #expect(!((try ParityReport.yaml.text(verdict, of: subject)).contains(folder.path)))
        let forward = try #require(card["forward"] as? [String: Any])
        #expect((forward["kld"] as? [String: Any])?["mean"] as? Double == verdict.forward?.comparison.predictions.kld.mean)
    }

    @Test func failuresBecomeAnnotations() throws {
        let folder = try TemporaryDirectory()
        let (verdict, subject) = try verdict(folder, ParityBounds(maximumKLD: 0))
        let text = GitHubAnnotations.text(verdict, of: subject)
        #expect(text.hasPrefix("::error title=parity%3A mean KLD <= 0.0::") && text.contains("mean KLD") && !text.contains("\n"))
        #expect(GitHubAnnotations.isWanted(["GITHUB_ACTIONS": "true"]) && !GitHubAnnotations.isWanted([:]))
    }

    /// The documented names of the JSON verdict.
    @Test func theVerdictHasItsContractsKeys() throws {
        let folder = try TemporaryDirectory()
        let json = JSONValue.object(try verdict(folder).0.json)
        #expect(json["schema"]?.int == 1 && json["passed"]?.bool == true && json["claim"]?.string != nil)
        #expect(json["weights"]?["identical"]?.int == 37 && json["weights"]?["different"]?.int == 184)
        #expect(json["weights"]?["worst"]?.array?[0]["name"]?.string != nil && json["weights"]?["worst"]?.array?[0]["max_abs"]?.double != nil)
        for key in ["mean", "median", "p99", "max"] { #expect(json["forward"]?["kld"]?[key]?.double != nil, "\(key)") }
        #expect(json["forward"]?["top1"]?.double != nil && json["forward"]?["noise_floor"]?["kld_mean"]?.double != nil)
        #expect(json["forward"]?["perplexity"]?["reference"]?.double != nil && json["forward"]?["perplexity"]?["candidate"]?.double != nil)
        #expect(json["forward"]?["layers"]?.array?.count == 4 && json["forward"]?["mtp"]?["kld"]?["mean"]?.double != nil)
        #expect(json["consumer"]?["checks"]?.array?.isEmpty == false && json["gates"]?.array?.isEmpty == false)
    }
}

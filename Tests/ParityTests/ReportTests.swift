import Parity
import Testing

@Suite struct ReportTests {
    @Test func textIsSafeInsideXML() {
        #expect(ParityReport.escaped("a<b> & \"c\" 'd'\u{1}\n") == "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;?\n")
    }

    @Test func theFileNameChoosesTheForm() {
        #expect(ParityReport(path: "a/b.JSON") == .json && ParityReport(path: "x.xml") == .xml)
        #expect(ParityReport(path: "x.html") == nil && ParityReport(path: "json") == nil)
    }
}

import Foundation
import Recast
import TestSupport
import Testing

@Suite struct RecipeTests {
    func plan(_ recipe: String, to target: String, _ source: String = Fixtures.fp8Model) throws -> (ConversionPlan, Checkpoint) {
        let checkpoint = try Checkpoint(opening: source)
        return (
            try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: target, recipe: Recipe(yaml: recipe, path: "r.yaml"))), checkpoint
        )
    }

    func layouts(_ plan: ConversionPlan, _ checkpoint: Checkpoint, containing text: String) -> Set<String> {
        Set(plan.weights.filter { checkpoint.weights[$0.source].name.contains(text) }.map { $0.layout?.name ?? "-" })
    }

    @Test func theFirstMatchingRuleDecides() throws {
        let (plan, checkpoint) = try plan(
            """
            rules:
              - match: "*.experts.3.*"
                to: bf16
              - match: "re:.*\\\\.mlp\\\\.experts\\\\..*"
                to: int4-g32
              - match: "*.self_attn.*_proj*"
                to: int4-g32
            """, to: "bf16")
        #expect(layouts(plan, checkpoint, containing: ".experts.3.") == ["bf16"])
        #expect(layouts(plan, checkpoint, containing: ".experts.4.") == ["int4-g32"])
        #expect(layouts(plan, checkpoint, containing: "self_attn.o_proj") == ["int4-g32"])
        #expect(layouts(plan, checkpoint, containing: "layers.0.mlp.") == ["bf16"])
        let config = try JSONValue(parsing: try #require(plan.texts.first { $0.name == "config.json" }).bytes)
        let ignored = config["quantization_config"]?["ignore"]?.array?.compactMap(\.string) ?? []
        #expect(
            ignored.contains("model.layers.1.mlp.experts.3.up_proj") && ignored.contains("model.layers.0.mlp.up_proj")
                && !ignored.contains("model.layers.1.mlp.experts.4.up_proj"))
    }

    @Test func layoutsOfOneFamilyShareAConfiguration() throws {
        let (plan, _) = try plan("rules:\n  - {match: '*.experts.*', to: int4-g32}", to: "fp8-channel")
        let config = try JSONValue(parsing: try #require(plan.texts.first { $0.name == "config.json" }).bytes)["quantization_config"]
        #expect(config?["format"]?.string == "mixed-precision" && config?["config_groups"]?.object?.members.count == 2)
        let targets = config?["config_groups"]?.object?.members.flatMap { $0.value["targets"]?.array ?? [] }.compactMap(\.string) ?? []
        #expect(targets.contains("model.layers.1.mlp.experts.0.up_proj") && targets.contains("model.layers.0.self_attn.o_proj"))
    }

    @Test func layoutsThatNoConfigurationCanDescribeTogetherAreRefused() {
        let error = #expect(throws: ConversionFailure.self) { try plan("rules:\n  - {match: '*.experts.*', to: int4-g32}", to: "fp8-block") }
        #expect(error?.description.contains("int4-g32") == true && error?.kind == .usage)
    }

    @Test func exceptionsOfFP8AreListedForConsumers() throws {
        let (plan, _) = try plan("rules:\n  - {match: '*.shared_experts.*', to: bf16}", to: "fp8-block")
        let config = try JSONValue(parsing: try #require(plan.texts.first { $0.name == "config.json" }).bytes)["quantization_config"]
        #expect(config?["modules_to_not_convert"]?.array?.contains(.string("model.layers.1.mlp.shared_experts.up_proj")) == true)
    }

    @Test(arguments: [
        ("rules:\n  - {match: '*.expertz.*', to: bf16}", "*.expertz.*"), ("rules:\n  - {match: '*', to: int5}", "unknown layout"),
        ("rules:\n  - {match: '*', two: bf16}", "unknown key"), ("rule: []", "rules"), ("rules: 3", "rules"), ("rules:\n  - bf16", "expected"),
        ("rules: [", "malformed"), ("rules:\n  - {match: 're:(', to: bf16}", "regular expression"), ("rules:\n  - {match: 3, to: bf16}", "text"),
        ("", "rules"),
        ("rules:\n  - {match: '*', to: keep}\nextra: 1", "unknown key"),
    ]) func mistakesAreRefusedByName(_ recipe: String, _ sentence: String) {
        let error = #expect(throws: ConversionFailure.self) { try plan(recipe, to: "bf16") }
        #expect(error?.description.contains(sentence) == true && error?.kind == .usage, "\(error?.description ?? "")")
    }

    @Test func globsMatchAnyCharactersAndTheWholeName() throws {
        func matches(_ pattern: String, _ name: String) throws -> Bool { try ModulePattern(pattern).matches(name) }
        #expect(try matches("*", "") && matches("a*c", "abbbc") && matches("*.b.*", "x.b.y") && matches("a**b", "ab") && matches("re:a.c", "abc"))
        #expect(try !matches("a*c", "abcd") && !matches("b", "abc") && !matches("re:b", "abc") && !matches("", "a") && !matches("*a", "ab"))
        // Many stars stay fast.
        #expect(try !matches(String(repeating: "a*", count: 40) + "b", String(repeating: "a", count: 5000)))
    }

    @Test func dryRunSaysWhatHappensAndWhy() throws {
        let checkpoint = try Checkpoint(opening: Fixtures.fp8Model)
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "int4-g128"))
        let text = PlanPreview(plan, checkpoint).text
        for sentence in [
            "fp8-block -> int4-g128, quantize [--to int4-g128]", "kept unquantized: router gate", "kept unquantized: output head",
            "kept unquantized: embedding",
            "kept unquantized: norm", "multi-token-prediction", "64 columns are not a multiple of the group size 128", "nothing was written",
        ] { #expect(text.contains(sentence), "\(sentence)") }
        #expect(PlanPreview(plan, checkpoint).json["schema"]?.int == 1)
    }

    @Test func plansArePureValues() throws {
        let checkpoint = try Checkpoint(opening: Fixtures.fp8Model)
        let plans = try (0..<2).map { _ in try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "int4-g32")) }
        #expect(plans[0].fingerprint == plans[1].fingerprint && plans[0].shards == plans[1].shards)
        let other = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "int4-g128"))
        #expect(other.fingerprint != plans[0].fingerprint)
        // Every byte of every shard has one owner.
        for shard in plans[0].shards {
            var end = shard.pieces[0].bytes.count
            for tensor in plans[0].weights[shard.weights].flatMap(\.tensors).sorted(by: { ($0.offset, $0.byteCount) < ($1.offset, $1.byteCount) }) {
                #expect(tensor.offset == end)
                end += tensor.byteCount
            }
            #expect(end == shard.size)
        }
    }
}

import Foundation
import Parity
import Recast
import TestSupport
import Testing

/// The same codes and scales in another order: nothing is rounded, and back again gives the same bytes.
@Suite struct RepackTests {
    /// A, B and the number of weights that have their codes repacked.
    static let pairs: [(String, String, Int)] = [
        ("int4-g128", "gptq", 179), ("int4-g128", "gptq-v2", 179), ("int4-g128", "awq", 179), ("int4-g128-asym", "awq", 179),
        ("int4-g128-asym", "gptq-asym", 179), ("awq", "gptq-asym", 179), ("gptq", "awq", 179), ("gptq-asym", "awq", 179), ("gptq", "gptq-v2", 179),
        ("int4-g32", "gptq-g32", 184), ("nvfp4", "nvfp4-modelopt", 140), ("mxfp4", "mxfp4-quark", 184),
        ("int8-channel", "w8a8-int8", 184),
    ]

    @Test(arguments: pairs) func thereAndBackGivesTheSameBytes(_ first: String, _ second: String, _ count: Int) throws {
        let folder = try TemporaryDirectory()
        // ModelOpt's readers take multi-token prediction unquantized, and so it is left from the first.
        let isLeft = second == "nvfp4-modelopt"
        let recipe = isLeft ? try Recipe(yaml: "rules:\n  - match: \"*layers.4.*\"\n    to: bf16\n", path: "recipe.yaml") : Recipe()
        try convert(Fixtures.bf16Model, folder.file("a"), to: first, recipe: recipe)
        let there = try convert(folder.file("a"), folder.file("b"), to: second)
        if isLeft { #expect(try Checkpoint(opening: folder.file("b")).quantization?.json["ignore"]?.array?.last == .string("model.layers.4*")) }
        #expect(there.audit.roads[.repack] == count && there.audit.roads[.quantize] == nil, "\(there.audit.sentence)")
        let audit = try WeightAudit(reference: Checkpoint(opening: folder.file("a")), candidate: Checkpoint(opening: folder.file("b")))
        #expect(audit.identical == 221 && audit.isComplete)
        let back = try convert(folder.file("b"), folder.file("c"), to: first, recipe: recipe)
        #expect(back.audit.roads[.repack] == count && back.audit.roads[.quantize] == nil, "\(back.audit.sentence)")
        #expect(try storedTensors(folder.file("c")) == storedTensors(folder.file("a")))
        let configs = try ["a", "c"].map { try JSONValue(parsing: FileTree.read(folder.file("\($0)/config.json"), limit: 1 << 20)) }
        #expect(configs[0] == configs[1])
    }

    /// Experts come back from MLX's stacks byte for byte, `kv_b_proj` left as it is.
    @Test(arguments: [("int4-g32", "mlx-4bit-g32"), ("int4-g128", "mlx-4bit-g128"), ("mxfp4", "mlx-mxfp4"), ("int4-g128-asym", "mlx-4bit-g128")])
    func thereAndBackThroughMLX(_ first: String, _ second: String) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("a"), to: first)
        let there = try convert(folder.file("a"), folder.file("b"), to: second)
        let back = try convert(folder.file("b"), folder.file("c"), to: first)
        let (before, after) = (try storedTensors(folder.file("a")), try storedTensors(folder.file("c")))
        let codes = before.keys.filter {
            !$0.contains("kv_b_proj") && !$0.contains("layers.4.")
                && ($0.contains("weight_packed") || $0.contains("weight_scale") || $0.contains("weight_zero_point"))
        }
        #expect(codes.count >= 136 * 2)
        // Asymmetric codes whose scale times zero point needs more bits than BF16 has are quantized again, and only those.
        let differing = codes.filter { before[$0] != after[$0] }
        if first != "int4-g128-asym" {
            #expect(differing.isEmpty && (there.audit.roads[.repack] ?? 0) >= 136 && (back.audit.roads[.repack] ?? 0) >= 136)
        } else {
            #expect(there.audit.roads[.quantize] ?? 0 > 100 && !differing.isEmpty)
        }
    }

    /// W4AFP8 has words for experts only; their bytes come back.
    @Test func thereAndBackThroughW4AFP8() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("a"), to: "int4-g128")
        let there = try convert(folder.file("a"), folder.file("b"), to: "w4afp8")
        let back = try convert(folder.file("b"), folder.file("c"), to: "int4-g128")
        #expect(there.audit.roads[.repack] == 144 && back.audit.roads[.repack] == 144)
        let (before, after) = (try storedTensors(folder.file("a")), try storedTensors(folder.file("c")))
        let experts = before.filter { $0.key.contains(".mlp.experts.") }
        #expect(experts.count == 144 * 3 && experts.allSatisfy { after[$0.key] == $0.value })
    }

    @Test func mxfp4IsFP8WithoutLoss() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("a"), to: "mxfp4")
        for target in ["fp8-block", "fp8-block-ue8m0"] {
            let report = try convert(folder.file("a"), folder.file(target), to: target)
            #expect(report.audit.roads[.repack] == 184 && report.audit.roads[.quantize] == nil)
            let audit = try WeightAudit(reference: Checkpoint(opening: folder.file("a")), candidate: Checkpoint(opening: folder.file(target)))
            #expect(audit.identical == 221)
        }
    }

    // MARK: Random codes

    static let layouts: [any IntegerCodedLayout] =
        [
            PackedIntegerLayout(bits: 4, groupSize: 128), PackedIntegerLayout(bits: 4, groupSize: 128, symmetric: false),
            PackedIntegerLayout(bits: 4, groupSize: 128, scaleType: .f16), AWQLayout(), GPTQLayout(), GPTQLayout(version: 2),
            GPTQLayout(symmetric: false, version: 2), MLXAffineLayout(bits: 4, group: 128), MLXAffineLayout(bits: 4, group: 128, scaleType: .f16),
            W4AFP8Layout(), W4AFP8Layout(scaleType: .f32),
            PackedIntegerLayout(bits: 3, groupSize: 64, symmetric: false), GPTQLayout(bits: 3, groupSize: 64, symmetric: false, version: 2),
            MLXAffineLayout(bits: 3, group: 64), PackedIntegerLayout(bits: 2, groupSize: 32), GPTQLayout(bits: 2, groupSize: 32),
            MLXAffineLayout(bits: 2, group: 32),
            PackedIntegerLayout(bits: 8, groupSize: 64, symmetric: false), GPTQLayout(bits: 8, groupSize: 64, symmetric: false, version: 2),
            MLXAffineLayout(bits: 8, group: 64), PackedIntegerLayout(bits: 4, groupSize: 32), AWQLayout(groupSize: 32), GPTQLayout(groupSize: 32),
            GPTQLayout(groupSize: 32, symmetric: false, version: 2), MLXAffineLayout(bits: 4, group: 32), AWQLayout(groupSize: 64),
            GPTQLayout(groupSize: 64),
            GPTQLayout(groupSize: 64, symmetric: false, version: 2), MLXAffineLayout(bits: 4, group: 64), GPTQLayout(bits: 2),
            MLXAffineLayout(bits: 2, group: 128),
            GPTQLayout(bits: 2, symmetric: false, version: 2), GPTQLayout(bits: 3), GPTQLayout(bits: 3, symmetric: false, version: 2),
            MLXAffineLayout(bits: 3, group: 128),
            GPTQLayout(bits: 8), GPTQLayout(bits: 8, symmetric: false, version: 2), MLXAffineLayout(bits: 8, group: 128),
            GPTQLayout(bits: 2, groupSize: 64),
            GPTQLayout(bits: 2, groupSize: 64, symmetric: false, version: 2), MLXAffineLayout(bits: 2, group: 64), GPTQLayout(bits: 3, groupSize: 64),
            GPTQLayout(bits: 8, groupSize: 64), MLXAffineLayout(bits: 5), MLXAffineLayout(bits: 6),
            PackedIntegerLayout(bits: 8, groupSize: nil), IntegerQuantizedLayout(), IntegerQuantizedLayout(scaleType: .f32),
        ]
        + [2, 3, 4, 5, 6, 8].flatMap { bits in
            [128, 64, 32].flatMap { size in
                [true, false].map { PackedIntegerLayout(bits: bits, groupSize: size, symmetric: $0) as any IntegerCodedLayout }
            }
        }

    /// What the support matrix says of repacking is what the tests of this file show.
    @Test func everyClaimedPairIsTested() {
        let tested = Set(Self.layouts.map(\.name))
        let others: Set<[String]> = [
            ["fp8-block", "fp8-block-ue8m0"], ["fp8-block-ue8m0", "fp8-block"], ["mxfp4", "fp8-block"], ["mxfp4", "fp8-block-ue8m0"],
            ["mxfp4", "mlx-mxfp4"], ["mxfp4", "mxfp4-quark"], ["mlx-mxfp4", "mxfp4-quark"],
            ["mlx-mxfp4", "mxfp4"], ["mlx-mxfp4", "fp8-block"], ["mlx-mxfp4", "fp8-block-ue8m0"], ["nvfp4", "nvfp4-modelopt"],
            ["nvfp4-modelopt", "nvfp4"],
        ]
        var claims = 0
        for row in LayoutSupport.all {
            for name in row.repacks {
                #expect(tested.isSuperset(of: [row.name, name]) || others.contains([row.name, name]), "\(row.name) to \(name)")
                claims += 1
            }
        }
        #expect(claims > 50)
    }

    /// Scales that are powers of two in whatever type: the codes stay, the scales change their type.
    @Test(arguments: [ScalarType.f8E8M0, .f32, .bf16, .f16]) func powerOfTwoScalesChangeTheirType(_ type: ScalarType) throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var random = SeededGenerator(5)
        builder.addFP8("model.layers.0.mlp.up_proj", 200, 300, &random)
        let powers = (0..<6).map { Float(sign: .plus, exponent: -12 + $0, significand: 1) }
        let bytes = powers.flatMap { power -> [UInt8] in
            switch type {
            case .f32: CheckpointBuilder.bytes(power.bitPattern)
            case .bf16: CheckpointBuilder.bytes(BFloat16(rounding: power).bits)
            case .f16: CheckpointBuilder.bytes(Binary16(rounding: power).bits)
            default: [Float8E8M0(rounding: power).bits]
            }
        }
        builder["model.layers.0.mlp.up_proj.weight_scale_inv"] = .init(type: type, shape: [2, 3], bytes: bytes)
        try builder.write(to: folder.file("m"))
        for target in ["fp8-block", "fp8-block-ue8m0"] {
            let report = try convert(folder.file("m"), folder.file(target), to: target)
            #expect(report.audit.roads[.quantize] == nil && report.audit.roads[.dequantize] == nil, "\(report.audit.sentence)")
            let audit = try WeightAudit(reference: Checkpoint(opening: folder.file("m")), candidate: Checkpoint(opening: folder.file(target)))
            #expect(audit.identical == 1)
            let scale = try Checkpoint(opening: folder.file(target)).weights[0].stored[1]
            #expect(scale.type == .f32 && scale.name.hasSuffix("weight_scale_inv"))
        }
    }

    /// One output with layouts of several groups where the reader allows it, and a refusal where it does not.
    @Test func mixedLayoutsAreDescribedOrRefused() throws {
        let folder = try TemporaryDirectory()
        func convertMixed(_ target: String, _ rules: [(String, String)], _ out: String) throws -> JSONValue {
            let recipe = Recipe(rules: try rules.map { Recipe.Rule(pattern: try ModulePattern($0.0), target: $0.1) })
            try convert(Fixtures.bf16Model, folder.file(out), to: target, recipe: recipe)
            return try JSONValue(parsing: FileTree.read(folder.file(out + "/config.json"), limit: 1 << 20))
        }
        let mixed = try convertMixed("nvfp4", [("*.self_attn.*_proj", "fp8-channel"), ("*.shared_experts.*", "mxfp4")], "a")
        let groups = try #require(mixed["quantization_config"]?["config_groups"]?.object)
        #expect(groups.members.count == 3 && mixed["quantization_config"]?["format"]?.string == "mixed-precision")
        #expect(Set(groups.members.compactMap { $0.value["format"]?.string }) == ["nvfp4-pack-quantized", "float-quantized", "mxfp4-pack-quantized"])
        let layouts = Set(try Checkpoint(opening: folder.file("a")).weights.map(\.layoutName))
        #expect(layouts.isSuperset(of: ["nvfp4", "fp8-channel", "mxfp4"]))
        let mlx = try convertMixed("mlx-4bit", [("*.shared_experts.*", "mlx-8bit"), ("*.self_attn.o_proj", "mlx-mxfp4"), ("lm_head", "bf16")], "b")
        #expect(mlx["quantization"]?["bits"]?.int == 4)
        #expect(mlx["quantization"]?["model.layers.1.mlp.shared_experts.up_proj"]?["bits"]?.int == 8)
        #expect(mlx["quantization"]?["model.layers.2.self_attn.o_proj"]?["mode"]?.string == "mxfp4")
        let kimi = try convertMixed("bf16", [("*.mlp.experts.*", "int4-g32")], "c")
        #expect(kimi["quantization_config"]?["config_groups"]?.object?.members.count == 1)
        #expect(try ConsumerContract(.vllm, Checkpoint(opening: folder.file("c"))).report().checks.allSatisfy { $0.failure == nil })
        for (target, rules) in [
            ("awq", [("*.self_attn.*", "int4-g128")]), ("gptq", [("*.self_attn.*", "gptq-8bit")]), ("int4-g128", [("*.self_attn.*", "mlx-4bit")]),
            ("mlx-4bit", [("*.mlp.experts.3.*", "mlx-8bit")]), ("fp8-block", [("*.mlp.experts.*", "nvfp4")]), ("w4afp8", [("*.self_attn.*", "awq")]),
        ] {
            #expect(throws: ConversionFailure.self, "\(target) with \(rules)") { try convertMixed(target, rules, "x") }
        }
    }

    /// Random integers, scales and zero points that both sides can hold: A -> B -> A is the identity on bytes, and the exact
    /// values of A and B are equal. Tiles of several heights.
    @Test(arguments: layouts.indices, layouts.indices) func randomCodesComeBack(_ first: Int, _ second: Int) throws {
        let (a, b) = (Self.layouts[first], Self.layouts[second])
        guard first != second, a.bits == b.bits, a.groupSize == b.groupSize else { return }
        var random = SeededGenerator(UInt64(first * 100 + second))
        for (rows, columns) in [(32, 128), (64, 384), (96, 256)] {
            let shape = MatrixShape(rows: rows, columns: columns)
            let size = a.groupSize ?? columns
            let codes = (0..<shape.count).map { _ in UInt8.random(in: 0...UInt8((1 << a.bits) - 1), using: &random) }
            let groups = (0..<rows * (columns / size)).map { _ -> GroupParameters in
                while true {
                    let scale =
                        Float(Int.random(in: 1...127, using: &random))
                        * Float(sign: .plus, exponent: Int.random(in: -16 ... -8, using: &random), significand: 1)
                    let group = GroupParameters(scale: scale, zero: Float(Int.random(in: 0...(1 << a.bits) - 1, using: &random)))
                    let middle = GroupParameters(scale: scale, zero: Float(1 << (a.bits - 1)))
                    for candidate in [group, middle] where a.holds(candidate) && b.holds(candidate) { return candidate }
                }
            }
            func stored(_ layout: any IntegerCodedLayout) -> [[UInt8]] {
                storedTiles(layout, shape, step: 1 << 20) { rows, targets in
                    layout.store(codes: codes, groups: groups, rows: rows, shape: shape, into: targets)
                }
            }
            guard case .possible(let ways) = LayoutRegistry.repacking(from: a, to: b, shape: shape),
                case .possible(let backwards) = LayoutRegistry.repacking(from: b, to: a, shape: shape)
            else {
                Issue.record("\(a.name) and \(b.name) have no repacking")
                return
            }
            let original = stored(a)
            let unit = leastCommonMultiple(a.rowAlignment, b.rowAlignment)
            for step in [unit, 1 << 20] {
                func carry(_ way: any Repacking, _ from: [[UInt8]], _ source: any WeightLayout, _ target: any WeightLayout) -> [[UInt8]] {
                    storedTiles(target, shape, step: step) { rows, targets in
                        withStoredTile(source, shape, from, rows) { parts in
                            #expect(way.obstacle(parts, rows: rows, shape: shape) == nil)
                            way.repack(parts, rows: rows, shape: shape, into: targets)
                        }
                    }
                }
                let there = carry(ways[0], original, a, b)
                #expect(there == stored(b), "\(a.name) -> \(b.name), tiles of \(step)")
                #expect(carry(backwards[0], there, b, a) == original, "\(b.name) -> \(a.name), tiles of \(step)")
            }
            #expect(exact(a, original, shape) == exact(b, stored(b), shape), "values of \(a.name) and \(b.name)")
        }
    }

    func exact(_ layout: any IntegerCodedLayout, _ stored: [[UInt8]], _ shape: MatrixShape) -> [Float] {
        var values = [Float](repeating: 0, count: shape.count)
        withStoredTile(layout, shape, stored, 0..<shape.rows) { parts in
            values.withUnsafeMutableBufferPointer { layout.decodeExactly(parts, rows: 0..<shape.rows, shape: shape, into: $0.baseAddress!) }
        }
        return values
    }

    // MARK: What stands in the way

    @Test(arguments: [
        ("int4-g128", "int4-g32", "groups of 128"), ("int8-channel", "awq", "8-bit codes"), ("gptq-asym", "gptq", "zero point"),
        ("awq", "int4-g128", "zero point 8"),
        ("int4-g32", "awq", "groups of 32"), ("fp8-block", "fp8-block-ue8m0", "power of two"), ("bf16", "int4-g128", "round"),
        ("int4-g128", "bf16", ""),
        ("fp8-block", "f32", ""), ("fp8-block", "bf16", ""), ("fp8-block", "f16", "round"), ("int4-g128", "mlx-4bit-g128", "round"),
    ])
    func exactnessIsRequiredOrRefusedWithAReason(_ first: String, _ second: String, _ reason: String) throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("a"), to: first)
        let checkpoint = try Checkpoint(opening: folder.file("a"))
        func plan() throws -> ConversionPlan { try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: second), requireExact: true) }
        if reason.isEmpty {
            #expect(try plan().weights.allSatisfy { $0.road != .quantize })
        } else {
            let failure = #expect(throws: ConversionFailure.self) { try plan() }
            #expect(failure?.kind == .usage && "\(String(describing: failure))".contains(reason), "\(String(describing: failure))")
        }
    }

    /// Without --require-exact the plan says once for each kind of weight why it is quantized again.
    @Test func thePlanSaysWhyWeightsAreQuantizedAgain() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("a"), to: "int4-g32")
        let plan = try ConversionPlan(converting: Checkpoint(opening: folder.file("a")), choice: LayoutChoice(target: "awq"))
        let notes = plan.notes.map(\.description).filter { $0.contains("cannot be repacked as awq") }
        let kinds = Set(
            try Checkpoint(opening: folder.file("a")).weights.filter { $0.layout?.isDense == false && $0.shape.columns % 128 == 0 }.map {
                WeightName.kind($0.name)
            })
        #expect(notes.count == kinds.count && notes.allSatisfy { $0.contains("groups of 32 columns are not groups of 128") })
    }

    @Test func activationOrderIsReadButNotRepacked() throws {
        let folder = try TemporaryDirectory()
        try convert(Fixtures.bf16Model, folder.file("a"), to: "gptq")
        // One weight with its columns' groups in another order.
        let checkpoint = try Checkpoint(opening: folder.file("a"))
        let name = "model.layers.1.mlp.experts.2.up_proj"
        let weight = try #require(checkpoint.weights.first { $0.name == name + ".weight" })
        let order = weight.stored[3]
        let file = try PositionedFile.openForWriting(checkpoint.directory + "/" + checkpoint.fileNames[order.file])
        try file.write((0..<256).flatMap { CheckpointBuilder.bytes(Int32(1 - $0 / 128)) }, at: order.offset)
        try FileManager.default.removeItem(atPath: folder.file("a/recast.manifest.json"))
        #expect(throws: CheckpointFailure.self, "desc_act is false") { try Checkpoint(opening: folder.file("a")) }
        for name in ["config.json", "quantize_config.json"] where FileManager.default.fileExists(atPath: folder.file("a/" + name)) {
            let text = try String(contentsOfFile: folder.file("a/" + name), encoding: .utf8)
            try text.replacing("\"desc_act\": false", with: "\"desc_act\": true").write(
                toFile: folder.file("a/" + name), atomically: true, encoding: .utf8)
        }
        let changed = try Checkpoint(opening: folder.file("a"))
        let other = try #require(changed.weights.first { $0.name == name + ".weight" })
        #expect(other.layoutName == "gptq in activation order")
        // Values are those of the other group's scale.
        let audit = try WeightAudit(reference: checkpoint, candidate: changed)
        #expect(audit.different == 1 && audit.weights[0].name == name + ".weight")
        let failure = #expect(throws: ConversionFailure.self) {
            try ConversionPlan(converting: changed, choice: LayoutChoice(target: "awq"), requireExact: true)
        }
        #expect("\(String(describing: failure))".contains("activation order"))
        let report = try convert(folder.file("a"), folder.file("b"), to: "awq")
        #expect(report.audit.roads[.quantize] == 1 && report.audit.roads[.repack] == 178)
    }

    @Test func aSpreadTooWideForFP8IsQuantizedAgain() throws {
        let folder = try TemporaryDirectory()
        var builder = CheckpointBuilder()
        var exponents = [UInt8](repeating: 120, count: 128 * 4)
        exponents[7] = 100
        builder.add("model.layers.0.mlp.up_proj.weight_packed", .u8, [128, 64], [UInt8](repeating: 0x75, count: 128 * 64))
        builder.add("model.layers.0.mlp.up_proj.weight_scale", .u8, [128, 4], exponents)
        try builder.write(to: folder.file("m"))
        let checkpoint = try Checkpoint(opening: folder.file("m"))
        #expect(checkpoint.weights[0].layoutName == "mxfp4")
        let plan = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "fp8-block"))
        #expect(plan.weights[0].road == .quantize && plan.notes.contains { $0.description.contains("spread further") })
        exponents[7] = 107
        builder.tensors[1].tensor.bytes = exponents
        try builder.write(to: folder.file("n"))
        #expect(
            try ConversionPlan(converting: Checkpoint(opening: folder.file("n")), choice: LayoutChoice(target: "fp8-block")).weights[0].road
                == .repack)
    }
}

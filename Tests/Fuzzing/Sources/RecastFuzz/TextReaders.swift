import Recast

extension FuzzReader {
    /// Texts that users and other programs write.
    static let texts: [FuzzReader] = [
        FuzzReader("json") { input in
            let value: JSONValue
            do { value = try JSONValue(parsing: input.bytes) } catch { return }
            for pretty in [true, false] {
                let text = value.text(pretty: pretty)
                do {
                    let again = try JSONValue(parsing: Array(text.utf8))
                    // Strings that are equal may differ in bytes, so the texts are compared too.
                    guard again == value, again.text(pretty: pretty).utf8.elementsEqual(text.utf8) else {
                        finding("JSON is printed as another value", text)
                    }
                } catch { finding("JSON is printed as none", "\(error): \(text)") }
            }
        },
        // tokenizer.json and a short text.
        FuzzReader("tokenizer") { input in
            let parts = input.parts(2)
            refusable {
                let tokenizer = try Tokenizer(bytes: parts[0], path: "tokenizer.json")
                let text = String(decoding: parts[1].prefix(200), as: UTF8.self)
                let tokens = tokenizer.encode(text + " Short text, 12 it's\n")
                guard tokens.allSatisfy({ $0 >= 0 }) else { finding("a token is below 0", "\(tokens)") }
                _ = TokenBatch(cutting: tokens, length: 5, first: 1)
            }
        },
        FuzzReader("tokens") { input in
            let path = FuzzDirectory.path + "/tokens.json"
            FuzzDirectory.write(input.bytes, to: path)
            refusable {
                let batch = try TokenBatch(reading: path)
                guard batch.ranges.reduce(0, { $0 + $1.count }) == batch.count else { finding("the sequences are not all tokens", "\(batch.ranges)") }
                _ = batch.sequences(0..<batch.ranges.count)
                _ = try ActivationBudget(FixedModel.configuration, batch, memory: 256 << 20)
            }
        },
        FuzzReader("recipe") { input in
            refusable {
                let recipe = try Recipe(yaml: String(decoding: input.bytes, as: UTF8.self), path: "recipe.yaml")
                // A sweep writes the recipes that it finds.
                do {
                    let again = try Recipe(yaml: recipe.yaml, path: "printed")
                    guard again == recipe else { finding("the recipe is printed as another", recipe.yaml) }
                } catch { finding("the recipe is printed as none", "\(error): \(recipe.yaml)") }
                let checkpoint = FixedModel.checkpoint
                _ = try ConversionPlan(converting: checkpoint, choice: LayoutChoice(target: "bf16", recipe: recipe))
            }
        },
        FuzzReader("policy") { input in
            refusable {
                let policy = try ParityPolicy(yaml: String(decoding: input.bytes, as: UTF8.self), path: "policy.yaml")
                for rule in policy.bounds.weights { _ = rule.pattern.matches("model.layers.3.mlp.experts.17.down_proj.weight") }
                _ = policy.bounds.filled(from: policy.claim?.bounds ?? ParityBounds()).needsForward
            }
        },
    ]
}

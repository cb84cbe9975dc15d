import Checkpoints
import Formats

/// A program that loads checkpoints and expects things of them that no number shows. One file a program, listed in ``all``.
package struct Consumer: Sendable, Equatable {
    /// As the command line calls it.
    package let name: String
    /// `quant_method`s that it reads.
    let methods: Set<String>
    /// Why it does not read a checkpoint of compressed-tensors; nil if it does.
    let obstacle: @Sendable (_ quantization: QuantizationConfig) -> String?
    /// Whether it joins modules into one matrix when it loads them, so that they must share a layout.
    let fusesModules: Bool
    /// Whether an entry of ModelOpt's list exempts every module that has it in its name.
    let exemptsByParts: Bool
    /// Whether it makes the routers of some architectures as other linear layers.
    let listsRouters: Bool
    /// Whether it looks for a tokenizer beside the weights.
    let needsTokenizer: Bool
    /// Whether tensors must have the names of the released model.
    let readsReleasedNames: Bool
    /// What its model code does with modules behind the layers that it does not have; nil if it reads or ignores them wherever they are.
    let droppedModules: (rule: String, check: @Sendable (Checkpoint) throws -> String?)?
    /// Whether it loads files that say all of themselves (GGUF).
    let readsFiles: Bool
    /// Whether it takes the experts of some architectures in stacks only.
    let needsStacks: Bool

    init(
        _ name: String, methods: Set<String>, fusesModules: Bool = false, exemptsByParts: Bool = true, listsRouters: Bool = false,
        needsTokenizer: Bool = false,
        readsReleasedNames: Bool = true, droppedModules: (rule: String, check: @Sendable (Checkpoint) throws -> String?)? = nil,
        readsFiles: Bool = false, needsStacks: Bool = false,
        obstacle: @escaping @Sendable (_ quantization: QuantizationConfig) -> String? = { _ in nil }
    ) {
        self.name = name
        self.methods = methods
        self.fusesModules = fusesModules
        self.exemptsByParts = exemptsByParts
        self.listsRouters = listsRouters
        self.needsTokenizer = needsTokenizer
        self.readsReleasedNames = readsReleasedNames
        self.droppedModules = droppedModules
        self.readsFiles = readsFiles
        self.needsStacks = needsStacks
        self.obstacle = obstacle
    }

    /// The registry: a line a program.
    package static let all: [Consumer] = [.vllm, .sglang, .transformers, .llamaCpp, .mlx]

    package static func named(_ name: String) -> Consumer? { all.first { $0.name == name } }

    package static func == (a: Consumer, b: Consumer) -> Bool { a.name == b.name }
}

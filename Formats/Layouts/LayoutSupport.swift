import Tensors

/// What can be done with a layout: the rows of the support matrix, worked out from the registry.
package struct LayoutSupport: Sendable, Equatable {
    package var name: String
    /// `quant_method` and format that `config.json` gets; empty for dense weights.
    package var configuration: String
    /// Layouts that can hold its very codes and scales, as far as those fit.
    package var repacks: [String]
    package var peers: LayoutTarget.Peers

    /// Every listed layout, in the order of the registry. All of them are read and written.
    package static let all: [LayoutSupport] = {
        let listed = LayoutRegistry.targets.filter(\.isListed)
        // A shape that suits every layout.
        let shape = MatrixShape(rows: 256, columns: 1024)
        return listed.map { target in
            // Variants of other group sizes count too; the format's second version is the first's twin, and what is for one model's experts is
            // told with that model.
            let repacks = LayoutRegistry.targets.filter {
                !$0.name.hasSuffix("-v2") && $0.dialect.container == nil && ($0.isListed || $0.besideExperts == nil)
            }.filter { other in
                guard other.name != target.name, case .possible = LayoutRegistry.repacking(from: target.layout, to: other.layout, shape: shape) else {
                    return false
                }
                return true
            }
            return LayoutSupport(
                name: target.name, configuration: method(target.layout), repacks: repacks.map(\.name), peers: target.peers)
        }
    }()

    private static func method(_ layout: any WeightLayout) -> String {
        switch LayoutRegistry.families.lazy.compactMap({ $0.configuration(of: layout) }).first {
        case .fp8: "fp8"
        case .compressedTensors(let format, _, _): format
        case .uniform(let method): method.json["quant_method"]?.string ?? ""
        case .w4afp8: "w4afp8"
        case .mlx: "MLX quantization"
        case nil: ""
        }
    }

    /// The matrix as a Markdown table.
    package static var table: String {
        let rows = all.map { row in
            "| `\(row.name)` | \(row.configuration) | \(row.repacks.map { "`\($0)`" }.joined(separator: " ")) | \(row.peers.encoder) | \(row.peers.readers) |"
        }
        return (["| layout | `config.json` | repacks to | bytes equal to | read and run by |", "| --- | --- | --- | --- | --- |"] + rows)
            .joined(separator: "\n")
    }
}

import StrictJSON

extension Architecture {
    /// Kimi-K2.5, K2.6 and K2.7: Kimi-K2 as the language model of several, with a vision tower and a projector that are carried as they are.
    ///
    /// Sources: huggingface/transformers:src/transformers/models/kimi_k25 and conversion_mapping.py (the stored names).
    static let kimiK25 = Architecture(
        name: "Kimi-K2.5", modelTypes: ["kimi_k25"], names: deepSeekNames.mapValues { languageModel + $0 },
        selectionBias: deepSeek.selectionBias.map { languageModel + $0 }, fused: deepSeekFused, folds: deepSeekFolds,
        ignorePatterns: ["re:.*lm_head$"] + deepSeek.ignorePatterns.dropFirst(), wiresFP8Exemptions: true,
        carried: ["vision_tower", "mm_projector"],
        oracle: "Kimi_K25ForConditionalGeneration",
        configuration: { config, architecture in
            guard let text = config.root["text_config"], text.object != nil else { throw ArchitectureFailure.missingField("text_config") }
            guard [nil, .null, .string("kimi_k2"), .string("deepseek_v3")].contains(text["model_type"]) else {
                throw ArchitectureFailure.badField("text_config.model_type", reason: "is neither kimi_k2 nor deepseek_v3")
            }
            // transformers takes the outer one, and true where there is none; releases say false in both places.
            let (outer, inner) = (try config.flag("tie_word_embeddings"), try ConfigurationReader(root: text).flag("tie_word_embeddings"))
            guard let ties = outer ?? inner, ties == inner ?? ties else {
                throw ArchitectureFailure.badField("tie_word_embeddings", reason: "is not said, or said differently in text_config")
            }
            var model = try deepSeekConfiguration(ConfigurationReader(root: text), architecture)
            model.tiesHead = ties
            return model
        })

    private static let languageModel = "language_model."
}

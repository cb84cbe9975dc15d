import StrictJSON

extension ParityVerdict {
    /// The verdict for programs; its keys are part of the command line's contract.
    package var json: JSONObject {
        var object: JSONObject = ["schema": .int(1), "passed": .bool(passed), "claim": .string(claim)]
        if let claimed { object["bounds_of"] = .string(claimed.rawValue) }
        object["gates"] = .array(
            gates.map { gate in
                .object([
                    "subject": .string(gate.subject.rawValue), "requirement": .string(gate.requirement), "found": .string(gate.found),
                    "holds": .bool(gate.holds),
                ])
            })
        if let weights { object["weights"] = .object(Self.json(weights)) }
        if let forward { object["forward"] = .object(Self.json(forward)) }
        if let consumer { object["consumer"] = .object(consumer.json) }
        return object
    }

    private static func json(_ audit: WeightAudit) -> JSONObject {
        func names(_ names: [String]) -> JSONValue { .array(names.map(JSONValue.string)) }
        return [
            "identical": .int(audit.identical), "different": .int(audit.different), "missing": names(audit.missing), "left_out": names(audit.leftOut),
            "extra": names(audit.extra),
            "reshaped": names(audit.reshaped),
            "worst": .array(
                audit.weights.prefix(20).filter { !$0.isIdentical }.map { weight in
                    .object([
                        "name": .string(weight.name), "sqnr_db": .double(weight.sqnr), "max_abs": .double(weight.maximumError),
                        "mean_abs": .double(weight.meanError), "rms": .double(weight.rootMeanSquareError), "cosine": .double(weight.cosine),
                        "different": .int(weight.different), "values": .int(weight.values), "reference_layout": .string(weight.referenceLayout),
                        "candidate_layout": .string(weight.candidateLayout),
                    ])
                }),
            "kinds": .array(
                audit.kinds.map { kind in
                    .object([
                        "name": .string(kind.name), "weights": .int(kind.weights), "different": .int(kind.different),
                        "worst": .string(kind.worst.name), "worst_sqnr_db": .double(kind.worst.sqnr), "median_sqnr_db": .double(kind.medianSQNR),
                        "mean_abs": .double(kind.meanError),
                    ])
                }),
        ]
    }

    private static func json(_ trial: ForwardTrial) -> JSONObject {
        let forward = trial.comparison
        var object = json(forward.predictions, margin: PredictionComparison.nearTieMargin(trial.noiseFloor?.predictions))
        object["layers"] = .array(
            forward.layers.map { layer in
                var object: JSONObject = ["layer": .int(layer.layer), "sqnr_db": .double(layer.sqnr), "cosine": .double(layer.cosine)]
                if let agreement = layer.expertAgreement {
                    object["expert_agreement"] = .double(agreement)
                    object["flipped_experts"] = .int(layer.flippedExperts)
                    object["flipped_groups"] = .int(layer.flippedGroups)
                    object["weight_shift"] = .double(layer.weightShift)
                    object["unreached_experts"] = .int(layer.unreachedExperts)
                }
                return .object(object)
            })
        if let mtp = forward.mtp { object["mtp"] = .object(json(mtp, margin: 0.05)) }
        if let sentence = trial.latentNorms { object["latent_norms"] = .string(sentence) }
        if let floor = trial.noiseFloor {
            object["noise_floor"] = .object([
                "of": .string(trial.noiseFloorName), "kld_mean": .double(floor.predictions.kld.mean), "kld_p99": .double(floor.predictions.kld.p99),
                "kld_max": .double(floor.predictions.kld.maximum), "top1": .double(floor.predictions.top1),
                "perplexity": .double(floor.predictions.candidatePerplexity), "layers_sqnr_db": .array(floor.layers.map { .double($0.sqnr) }),
            ])
        }
        return object
    }

    private static func json(_ predictions: PredictionComparison, margin: Double) -> JSONObject {
        let disagreements = predictions.disagreements(margin: margin)
        return [
            "positions": .int(predictions.positions),
            "kld": .object([
                "mean": .double(predictions.kld.mean), "median": .double(predictions.kld.median), "p99": .double(predictions.kld.p99),
                "max": .double(predictions.kld.maximum), "hidden_at_most": .double(predictions.hiddenDivergence),
            ]),
            "top1": .double(predictions.top1), "top5": .double(predictions.top5), "clear_disagreements": .int(disagreements.clear),
            "near_ties": .int(disagreements.nearTies), "near_tie_margin": .double(margin),
            "perplexity": .object([
                "reference": .double(predictions.referencePerplexity), "candidate": .double(predictions.candidatePerplexity),
                "log_difference": .double(predictions.logPerplexityDifference), "standard_error": .double(predictions.logPerplexityError),
                "tokens": .int(predictions.scoredTokens),
            ]),
        ]
    }
}

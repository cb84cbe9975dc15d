/// Programs that start one command many times and tell each copy its number, as Slurm's job arrays, Kubernetes' Indexed Jobs and MPI do.
package enum Launcher {
    /// The variables of one launcher.
    private struct Variables {
        var name: String
        var index: String
        /// How many copies there are.
        var count: String?
        /// The smallest number, the largest, and the step between two.
        var range: (first: String, last: String, step: String)?
        /// The smallest number where nothing says it.
        var base = 0
    }

    private struct Place {
        var launcher: String
        /// The variable and its value.
        var origin: String
        var index: Int
        var count: Int?
    }

    private static let arrays = [
        Variables(
            name: "Slurm's array", index: "SLURM_ARRAY_TASK_ID", count: "SLURM_ARRAY_TASK_COUNT",
            range: ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP")),
        Variables(name: "Kubernetes' Indexed Job", index: "JOB_COMPLETION_INDEX"),
        Variables(name: "AWS Batch's array", index: "AWS_BATCH_JOB_ARRAY_INDEX", count: "AWS_BATCH_JOB_ARRAY_SIZE"),
        Variables(name: "Cloud Run's job", index: "CLOUD_RUN_TASK_INDEX", count: "CLOUD_RUN_TASK_COUNT"),
        Variables(name: "Google Batch's job", index: "BATCH_TASK_INDEX", count: "BATCH_TASK_COUNT"),
        Variables(name: "PBS's array", index: "PBS_ARRAY_INDEX"),
        Variables(
            name: "SGE's array", index: "SGE_TASK_ID", range: ("SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"), base: 1),
    ]

    /// Ranks count only where there are several: a batch script alone is rank 0 of one. Slurm counts the tasks of a step, not of a job, whose script
    /// has a rank as well.
    private static let ranks = [
        Variables(name: "Open MPI", index: "OMPI_COMM_WORLD_RANK", count: "OMPI_COMM_WORLD_SIZE"),
        Variables(name: "MPI", index: "PMI_RANK", count: "PMI_SIZE"),
        Variables(name: "Flux", index: "FLUX_TASK_RANK", count: "FLUX_JOB_SIZE"),
        Variables(name: "Slurm's step", index: "SLURM_PROCID", count: "SLURM_STEP_NUM_TASKS"),
        Variables(name: "SkyPilot", index: "SKYPILOT_NODE_RANK", count: "SKYPILOT_NUM_NODES"),
    ]

    /// Which part this process is, and the variable that says so.
    ///
    /// - Parameters:
    ///   - argument: `I/N`, `auto`, or `auto/N` where the launcher does not say how many there are, or starts some of them only.
    ///   - environment: of the process.
    /// - Throws: ``ConversionFailure`` if the environment does not say it, or says two things.
    package static func part(_ argument: String, _ environment: [String: String]) throws(ConversionFailure) -> (part: Part, origin: String?) {
        let words = argument.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
        guard words.count == 2 || argument == "auto" else { throw mistake(argument) }
        let wanted: Int? = if words.count == 2 { try number(words[1], of: argument) } else { nil }
        if let wanted, words[0] != "auto" { return (try Part(number(words[0], of: argument), of: wanted), nil) }
        var array: Place?
        for variables in arrays where array == nil { array = try place(variables, environment, isNumbered: wanted != nil) }
        var rank: Place?
        for variables in ranks where rank == nil {
            if let place = try place(variables, environment, isNumbered: wanted != nil), let count = place.count, count > 1 { rank = place }
        }
        if let array, let rank {
            throw .usage("\(array.launcher) (\(array.origin)) and \(rank.launcher) (\(rank.origin)) both number this process; give --part I/N")
        }
        guard let place = array ?? rank else {
            throw .usage(
                "--part \(argument): nothing in the environment numbers this process, neither an array (Slurm, Kubernetes, AWS Batch, Cloud Run, PBS) "
                    + "nor a rank among several (MPI, Slurm, Flux); give --part I/N")
        }
        guard let count = wanted ?? place.count else { throw .usage("\(place.launcher) does not say how many parts there are; give --part auto/N") }
        guard place.index < count else {
            throw .usage("\(place.origin) is beyond the last of \(count) parts; parts are counted from the launcher's first number")
        }
        return (try Part(place.index + 1, of: count), place.origin)
    }

    private static func mistake(_ argument: String) -> ConversionFailure { .usage("--part takes I/N, auto or auto/N, not \"\(argument)\"") }

    private static func number(_ text: String, of argument: String) throws(ConversionFailure) -> Int {
        guard let value = Int(text), value >= 0, String(value) == text else { throw mistake(argument) }
        return value
    }

    /// - Parameter isNumbered: the number of parts is known, so that a task's number is its part's, whichever tasks were started with it.
    private static func place(
        _ variables: Variables, _ environment: [String: String], isNumbered: Bool
    ) throws(ConversionFailure) -> Place? {
        func value(_ name: String?) throws(ConversionFailure) -> Int? {
            // SGE says "undefined" outside of arrays.
            guard let name, let text = environment[name], !text.isEmpty, text != "undefined" else { return nil }
            guard let value = Int(text), (0...(1 << 32)).contains(value) else { throw .usage("\(name)=\(text) is no number of a task") }
            return value
        }
        guard let index = try value(variables.index) else { return nil }
        var place = Place(
            launcher: variables.name, origin: "\(variables.index)=\(index)", index: index - variables.base, count: try value(variables.count))
        if let range = variables.range, !isNumbered, let first = try value(range.first), let last = try value(range.last) {
            let step = max(1, try value(range.step) ?? 1)
            guard first <= index, index <= last, (index - first) % step == 0 else {
                throw .usage("\(place.origin) does not lie between \(first) and \(last) in steps of \(step)")
            }
            let span = (last - first) / step + 1
            if let count = place.count, count != span {
                throw .usage(
                    "\(variables.name) has \(count) tasks between \(first) and \(last): some only, so that it does not say how many parts there are; "
                        + "give --part auto/N")
            }
            (place.index, place.count) = ((index - first) / step, span)
        }
        guard place.index >= 0 else { throw .usage("\(place.origin) is no number of a task") }
        return place
    }
}

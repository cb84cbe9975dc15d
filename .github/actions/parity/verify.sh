#!/usr/bin/env bash
# The step of the action: installs recast if it is asked to, verifies, and tells GitHub what came out. Reads REFERENCE, CANDIDATE, POLICY, TOKENS,
# ARGUMENTS and PACKAGE. The exit status is that of `recast verify`.
set -uo pipefail

if [ -n "${PACKAGE:-}" ]; then
    python3 -m venv "$RUNNER_TEMP/recast" && "$RUNNER_TEMP/recast/bin/pip" install --quiet "$PACKAGE" || exit 69
    PATH="$RUNNER_TEMP/recast/bin:$PATH"
fi
report="$RUNNER_TEMP/parity.json"
rm -f "$report"
options=(--report "$report")
[ -z "${POLICY:-}" ] || options+=(--policy "$POLICY")
[ -z "${TOKENS:-}" ] || options+=(--tokens "$TOKENS")
read -r -a more <<<"${ARGUMENTS:-}"

said="$(recast verify "$REFERENCE" "$CANDIDATE" "${options[@]}" ${more[@]+"${more[@]}"} 2>"$RUNNER_TEMP/parity.log")"
status=$?
printf '%s\n' "$said"
cat "$RUNNER_TEMP/parity.log" >&2

# One line, as commands of a workflow are.
line() { tr '\r\n' '  ' | sed 's/%/%25/g; s/[[:space:]]*$//'; }
case $status in
    0) passed=true ;;
    # recast says itself which bounds fail.
    1) passed=false; grep -q '^::error' <<<"$said" || printf '::error title=Parity::%s\n' "$(tail -n 1 <<<"$said" | line)" ;;
    *) passed=false; printf '::error title=recast verify ended with %s::%s\n' "$status" "$(tail -n 1 "$RUNNER_TEMP/parity.log" | line)" ;;
esac
{
    printf '## Parity: %s\n\n' "$([ $status = 0 ] && echo passed || echo FAILED)"
    printf '%s\n' '```'
    printf '%s\n' "$said"
    [ $status = 0 ] || cat "$RUNNER_TEMP/parity.log"
    printf '%s\n' '```'
} >>"$GITHUB_STEP_SUMMARY"
printf 'passed=%s\nreport=%s\n' "$passed" "$([ -f "$report" ] && echo "$report")" >>"$GITHUB_OUTPUT"
exit $status
